//! What libvirt 11.3 checks before it changes a domain, and what it says when it refuses.

use crate::devices::{Device, devices};
use crate::wire::Refusal;
use crate::world::{CONFIG, Domain, LIVE};

/// What libvirt says of flags that it does not know.
pub fn unsupported_flags(flags: i32, function: &str) -> Refusal {
    let message = format!("unsupported flags (0x{flags:x}) in function {function}");
    Refusal { errno: Some(0), ..Refusal::new(8, 10, message) }
}

/// Whether the domain is in a state for a change of this scope.
pub fn allowed(domain: &Domain, flags: i32) -> Result<(), Refusal> {
    let refuse = |what: &str| Err(Refusal::new(55, 20, format!("Requested operation is not valid: {what}")));
    if flags & CONFIG != 0 && domain.stored.is_none() {
        return refuse("transient domains do not have any persistent config");
    }
    if (flags & LIVE != 0 || flags == 0) && domain.id < 0 {
        return refuse("domain is not running");
    }
    Ok(())
}

/// The interface in `xml`, if libvirt would take it into a domain with `text` and the devices that are `there`.
pub fn accepted(xml: &str, text: &str, there: &[Device]) -> Result<Device, Refusal> {
    let unsupported = |what: &str| Err(Refusal::new(67, 10, format!("unsupported configuration: {what}")));
    let mut device = devices(xml, 0)
        .and_then(|mut all| all.pop())
        .ok_or_else(|| Refusal::new(27, 20, "XML error: the device is not well-formed"))?;
    if device.name != "interface" || device.kind != "vhostuser" || device.path.is_empty() || device.mode != "server" {
        return Err(Refusal::new(27, 20, "XML error: this double takes vhost-user interfaces in server mode alone"));
    }
    if !device.model.starts_with("virtio") {
        let what = format!("invalid model for interface of type 'vhostuser': '{}' - must be 'virtio'", device.model);
        return unsupported(&what);
    }
    let shared = ["<access mode='shared'/>", "<access mode=\"shared\"/>", "memAccess='shared'", "memAccess=\"shared\""];
    if !shared.iter().any(|words| text.contains(words)) {
        return unsupported("'interface' requires shared memory");
    }
    if device.has_mtu {
        let what = "Cannot set interface MTU on '': No such device";
        return Err(Refusal { errno: Some(19), ..Refusal::new(38, 0, what) });
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if !device.alias.starts_with("ua-") || !device.alias.chars().all(is_word) {
        device.alias = format!("net{}", there.iter().filter(|other| other.alias.starts_with("net")).count());
    } else if there.iter().any(|other| other.alias == device.alias) {
        let what = format!("unsupported configuration: non unique alias detected: {}", device.alias);
        return Err(Refusal::new(67, 20, what));
    }
    Ok(device)
}
