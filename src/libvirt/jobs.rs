//! The long job of a domain (a migration, a save, …). While it runs, a call that changes the domain waits in the daemon
//! for up to 30 s, even after its caller has given up.

use std::fmt;

use super::procedures::{Call, Domain};
use super::xdr::{self, Reader, Writer};

/// The most parameters in one answer (`REMOTE_DOMAIN_JOB_STATS_MAX`).
const PARAMETERS_MAX: usize = 64;
/// Smallest parameter on the wire: an empty name, a type, a value of one word.
const PARAMETER_SIZE_MIN: usize = 12;
/// The parameter with the operation (`VIR_DOMAIN_JOB_OPERATION`, since 3.3.0).
const OPERATION: &str = "operation";

/// A long job (`virDomainJobOperation`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The VM is on its way to another host.
    MigrationOut,
    /// The VM is on its way from another host.
    MigrationIn,
    /// A backup of its disks. It is the only operation during which other calls may change the domain.
    Backup,
    /// A save, a restore, a snapshot, a dump; or an unknown one.
    Other(i32),
}

impl From<i32> for Operation {
    fn from(word: i32) -> Self {
        match word {
            4 => Self::MigrationIn,
            5 => Self::MigrationOut,
            9 => Self::Backup,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MigrationOut => f.write_str("a migration"),
            Self::MigrationIn => f.write_str("a migration from another host"),
            Self::Backup => f.write_str("a backup"),
            Self::Other(2) => f.write_str("a save"),
            Self::Other(6) => f.write_str("a snapshot"),
            Self::Other(8) => f.write_str("a dump"),
            Self::Other(other) => write!(f, "operation {other} (virDomainJobOperation)"),
        }
    }
}

/// Asks for the long job of a domain (since libvirt 1.0.3). It waits for running short jobs.
pub struct GetJobStats<'a> {
    pub domain: &'a Domain,
}

impl Call for GetJobStats<'_> {
    const PROCEDURE: i32 = 298;
    const DOING: &'static str = "asking what a domain is busy with";
    type Reply = Option<Operation>;

    fn encode(&self, writer: &mut Writer) -> Result<(), xdr::Error> {
        self.domain.encode(writer)?;
        writer.u32(0);
        Ok(())
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Option<Operation>, xdr::Error> {
        let kind = reader.i32()?;
        let parameters = reader.array(PARAMETERS_MAX, PARAMETER_SIZE_MIN, parameter)?;
        let named = parameters.into_iter().flatten().next();
        // virDomainJobType: bounded or unbounded. Any other value means no job.
        Ok([1, 2].contains(&kind).then(|| named.unwrap_or(0).into()))
    }
}

/// Reads a `remote_typed_param`. Returns its value if it is the operation.
fn parameter(reader: &mut Reader<'_>) -> Result<Option<i32>, xdr::Error> {
    let name = reader.string()?;
    // virTypedParameterType
    match reader.i32()? {
        1 => return reader.i32().map(|value| (name == OPERATION).then_some(value)),
        2 | 6 => drop(reader.u32()?),
        3..=5 => drop(reader.u64()?),
        7 => drop(reader.string()?),
        other => return Err(xdr::Error::Impossible { what: "type of a parameter", value: other.into() }),
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<Operation>, xdr::Error> {
        let mut reader = Reader::new(bytes);
        let operation = GetJobStats::decode(&mut reader)?;
        reader.finish().map(|()| operation)
    }

    /// Returns an answer of this type with one parameter of each type before the operation.
    fn answer(kind: i32, operation: i32) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.i32(kind);
        writer.u32(8);
        for (name, kind, words) in
            [("flags", 1, 1), ("pages", 2, 1), ("left", 3, 2), ("total", 4, 2), ("rate", 5, 2), ("done", 6, 1)]
        {
            writer.string(name).unwrap();
            writer.i32(kind);
            (0..words).for_each(|_| writer.i32(1));
        }
        writer.string("errmsg").unwrap();
        writer.i32(7);
        writer.string("none").unwrap();
        writer.string("operation").unwrap();
        writer.i32(1);
        writer.i32(operation);
        writer.into_bytes()
    }

    #[test]
    fn the_operation_is_found_among_the_parameters_of_a_job_at_work() {
        assert_eq!(read(&answer(2, 5)), Ok(Some(Operation::MigrationOut)));
        assert_eq!(read(&answer(1, 9)), Ok(Some(Operation::Backup)));
        assert_eq!(read(&answer(2, 2)), Ok(Some(Operation::Other(2))));
        assert_eq!(read(&answer(3, 5)), Ok(None), "it is over");
        assert_eq!(read(&[0; 8]), Ok(None));
        assert_eq!(read(&[0, 0, 0, 2, 0, 0, 0, 0]), Ok(Some(Operation::Other(0))), "a job without a name is one");
    }

    #[test]
    fn an_answer_that_is_none_is_told() {
        let whole = answer(2, 5);
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "cut at {cut}");
        }
        let unknown = [&[0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 8][..], &[0; 4]].concat();
        assert_eq!(read(&unknown), Err(xdr::Error::Impossible { what: "type of a parameter", value: 8 }));
        assert!(read(&[&[0, 0, 0, 2, 0, 0, 0, 65][..], &[0; 65 * 12]].concat()).is_err(), "more than libvirt sends");
    }
}
