//! A frame of libvirt's RPC: a length, a header of six words, a payload.
//!
//! Layouts and numbers: `src/rpc/virnetprotocol.x`, `src/rpc/virkeepaliveprotocol.x` and `src/remote/remote_protocol.x`
//! of libvirt 11.3, unchanged since 0.7.

use super::xdr::{self, Reader, STRING_MAX, Writer};

/// The remote program: domains, devices, events.
pub const REMOTE_PROGRAM: u32 = 0x2000_8086;
/// The keepalive program ("keep").
pub const KEEPALIVE_PROGRAM: u32 = 0x6b65_6570;
/// The only version of both programs.
pub const PROGRAM_VERSION: u32 = 1;
/// A keepalive ping, answered with [`KEEPALIVE_PONG`].
pub const KEEPALIVE_PING: i32 = 1;
/// Keepalive: the answer.
pub const KEEPALIVE_PONG: i32 = 2;

/// The length word of a frame, in bytes. It counts itself.
pub const LENGTH_SIZE: usize = 4;
/// The header of a frame, in bytes.
pub const HEADER_SIZE: usize = 24;
/// Smallest valid length of a frame.
pub const FRAME_MIN: usize = LENGTH_SIZE + HEADER_SIZE;
/// Largest accepted length of a frame: the longest string that libvirt can send (a domain's XML) and 64 KiB for the
/// rest. libvirt's own limit is 32 MiB, which no call made here needs.
pub const FRAME_MAX: usize = FRAME_MIN + STRING_MAX + 65_536;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Call,
    Reply,
    /// An event, or keepalive.
    Message,
    Stream,
    /// A call that carries file descriptors.
    CallWithFds,
    /// An answer that carries file descriptors.
    ReplyWithFds,
    StreamHole,
}

impl Kind {
    const ALL: [Self; 7] =
        [Self::Call, Self::Reply, Self::Message, Self::Stream, Self::CallWithFds, Self::ReplyWithFds, Self::StreamHole];

    fn word(self) -> i32 {
        match self {
            Self::Call => 0,
            Self::Reply => 1,
            Self::Message => 2,
            Self::Stream => 3,
            Self::CallWithFds => 4,
            Self::ReplyWithFds => 5,
            Self::StreamHole => 6,
        }
    }
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The payload is what the procedure says.
    Ok,
    /// The payload is an error.
    Error,
    /// A stream goes on.
    Continue,
}

impl Status {
    const ALL: [Self; 3] = [Self::Ok, Self::Error, Self::Continue];

    fn word(self) -> i32 {
        match self {
            Self::Ok => 0,
            Self::Error => 1,
            Self::Continue => 2,
        }
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// [`REMOTE_PROGRAM`], [`KEEPALIVE_PROGRAM`] or one unknown here.
    pub program: u32,
    pub version: u32,
    /// The procedure within the program.
    pub procedure: i32,
    /// What the frame is.
    pub kind: Kind,
    /// The caller's number of the call; a reply repeats it. Events have 1, keepalive 0.
    pub serial: u32,
    pub status: Status,
}

impl Header {
    fn encode(&self, writer: &mut Writer) {
        writer.u32(self.program);
        writer.u32(self.version);
        writer.i32(self.procedure);
        writer.i32(self.kind.word());
        writer.u32(self.serial);
        writer.i32(self.status.word());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, xdr::Error> {
        let (program, version, procedure) = (reader.u32()?, reader.u32()?, reader.i32()?);
        let word = reader.i32()?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word);
        let kind = kind.ok_or(xdr::Error::Impossible { what: "message type", value: word.into() })?;
        let serial = reader.u32()?;
        let word = reader.i32()?;
        let status = Status::ALL.into_iter().find(|status| status.word() == word);
        let status = status.ok_or(xdr::Error::Impossible { what: "message status", value: word.into() })?;
        Ok(Self { program, version, procedure, kind, serial, status })
    }
}

/// A complete frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub header: Header,
    bytes: Vec<u8>,
}

impl Frame {
    /// Parses the bytes of a frame, including the length.
    ///
    /// # Errors
    /// [`xdr::Error::Short`] below [`FRAME_MIN`] bytes, [`xdr::Error::Impossible`] for an unknown type or status.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, xdr::Error> {
        let mut reader = Reader::new(&bytes);
        reader.u32()?;
        let header = Header::decode(&mut reader)?;
        Ok(Self { header, bytes })
    }

    /// Returns the bytes after the header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(FRAME_MIN..).unwrap_or_default()
    }
}

/// Returns the length of a frame that begins with `word`, in bytes.
///
/// # Errors
/// [`xdr::Error::Impossible`] if it is below [`FRAME_MIN`] or over [`FRAME_MAX`].
pub fn frame_length(word: [u8; LENGTH_SIZE]) -> Result<usize, xdr::Error> {
    let word = u32::from_be_bytes(word);
    usize::try_from(word)
        .ok()
        .filter(|length| (FRAME_MIN..=FRAME_MAX).contains(length))
        .ok_or(xdr::Error::Impossible { what: "frame length", value: word.into() })
}

/// Returns the bytes of a frame to be sent.
///
/// # Errors
/// [`xdr::Error::LongString`] if header and payload are over [`FRAME_MAX`].
pub fn frame(header: &Header, payload: &[u8]) -> Result<Vec<u8>, xdr::Error> {
    let length = FRAME_MIN.saturating_add(payload.len());
    let word =
        u32::try_from(length).ok().filter(|_| length <= FRAME_MAX).ok_or(xdr::Error::LongString(payload.len()))?;
    let mut writer = Writer::new();
    writer.u32(word);
    header.encode(&mut writer);
    let mut bytes = writer.into_bytes();
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// Returns the answer to a keepalive ping.
///
/// # Errors
/// Those of [`frame`]; none in practice.
pub fn pong() -> Result<Vec<u8>, xdr::Error> {
    let header = Header {
        program: KEEPALIVE_PROGRAM,
        version: PROGRAM_VERSION,
        procedure: KEEPALIVE_PONG,
        kind: Kind::Message,
        serial: 0,
        status: Status::Ok,
    };
    frame(&header, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CONNECT_GET_LIB_VERSION (157), serial 3, as a libvirt client puts it on the wire.
    const CALL: [u8; 28] =
        [0, 0, 0, 28, 0x20, 0, 0x80, 0x86, 0, 0, 0, 1, 0, 0, 0, 157, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0];

    fn header() -> Header {
        Header {
            program: REMOTE_PROGRAM,
            version: PROGRAM_VERSION,
            procedure: 157,
            kind: Kind::Call,
            serial: 3,
            status: Status::Ok,
        }
    }

    #[test]
    fn a_call_is_written_as_libvirt_writes_it() {
        assert_eq!(frame(&header(), &[]).unwrap(), CALL);
        let longer = frame(&header(), &[7; 8]).unwrap();
        assert_eq!((longer[3], longer.len()), (36, 36));
    }

    #[test]
    fn what_is_written_is_read() {
        let frame = Frame::parse(frame(&header(), &[7; 8]).unwrap()).unwrap();
        assert_eq!((frame.header, frame.payload()), (header(), &[7; 8][..]));
    }

    #[test]
    fn a_header_cut_short_is_a_fault() {
        for cut in 0..CALL.len() {
            assert!(matches!(Frame::parse(CALL[..cut].to_vec()), Err(xdr::Error::Short { .. })), "cut at {cut}");
        }
    }

    #[test]
    fn types_and_statuses_of_the_protocol_alone_are_known() {
        for (at, known) in [(19, 7), (27, 3)] {
            for value in 0..=255 {
                let mut bytes = CALL;
                bytes[at] = value;
                assert_eq!(Frame::parse(bytes.to_vec()).is_ok(), value < known, "byte {at} is {value}");
            }
        }
    }

    #[test]
    fn a_length_is_believed_within_bounds_alone() {
        for bad in [0, 4, 27, FRAME_MAX + 1, 33_554_436, 0xffff_ffff] {
            assert!(frame_length(u32::try_from(bad).unwrap().to_be_bytes()).is_err(), "{bad}");
        }
        for good in [28, 29, FRAME_MAX] {
            assert_eq!(frame_length(u32::try_from(good).unwrap().to_be_bytes()), Ok(good));
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_not_sent() {
        assert!(frame(&header(), &vec![0; FRAME_MAX - FRAME_MIN]).is_ok());
        assert!(frame(&header(), &vec![0; FRAME_MAX - FRAME_MIN + 1]).is_err());
    }
}
