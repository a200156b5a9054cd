//! The calls that change a domain's devices.

use super::procedures::{Call, Domain};
use super::xdr::{self, Reader, Writer};

/// Writes what the three calls have in common: domain, device and flags.
fn encode(writer: &mut Writer, domain: &Domain, device: &str, flags: u32) -> Result<(), xdr::Error> {
    domain.encode(writer)?;
    writer.string(device)?;
    writer.u32(flags);
    Ok(())
}

/// Attaches a device (since libvirt 0.7.7). With a vhost-user server socket QEMU and this call block until a data plane
/// connects.
pub struct Attach<'a> {
    pub domain: &'a Domain,
    pub xml: &'a str,
    pub flags: u32,
}

impl Call for Attach<'_> {
    const PROCEDURE: i32 = 160;
    const DOING: &'static str = "attaching a device";
    type Reply = ();

    fn encode(&self, writer: &mut Writer) -> Result<(), xdr::Error> {
        encode(writer, self.domain, self.xml, self.flags)
    }

    fn decode(_: &mut Reader<'_>) -> Result<(), xdr::Error> {
        Ok(())
    }
}

/// Detaches the device that an element describes (since 0.7.7). The daemon waits up to 5 s for the guest and then
/// reports success with the device still there.
pub struct Detach<'a> {
    pub domain: &'a Domain,
    pub xml: &'a str,
    pub flags: u32,
}

impl Call for Detach<'_> {
    const PROCEDURE: i32 = 161;
    const DOING: &'static str = "detaching a device by its XML";
    type Reply = ();

    fn encode(&self, writer: &mut Writer) -> Result<(), xdr::Error> {
        encode(writer, self.domain, self.xml, self.flags)
    }

    fn decode(_: &mut Reader<'_>) -> Result<(), xdr::Error> {
        Ok(())
    }
}

/// Asks the guest to release the device with an alias (since 4.4.0), and does not wait for it.
pub struct DetachAlias<'a> {
    pub domain: &'a Domain,
    pub alias: &'a str,
    pub flags: u32,
}

impl Call for DetachAlias<'_> {
    const PROCEDURE: i32 = 392;
    const DOING: &'static str = "detaching a device by its alias";
    type Reply = ();

    fn encode(&self, writer: &mut Writer) -> Result<(), xdr::Error> {
        encode(writer, self.domain, self.alias, self.flags)
    }

    fn decode(_: &mut Reader<'_>) -> Result<(), xdr::Error> {
        Ok(())
    }
}
