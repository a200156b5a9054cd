//! One value of the configuration, read as what it has to be.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::Queues;
use crate::cni::Error;
use crate::cni::mac::Mac;
use crate::cni::netconf::{decoded, wrong_value};
use crate::vm::interface::PciAddress;

/// Longest file name or path inside a container that is taken, in bytes: Linux' PATH_MAX, less the final NUL.
const PATH_MAX: usize = 4095;
/// Most entries that `libvirt_sockets` may have.
const SOCKETS_MAX: usize = 16;
/// Longest `alias`, in bytes. libvirt takes 200 and more; nobody needs them.
const ALIAS_MAX: usize = 64;
/// A value as it stands in the configuration, and the name to call it by.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    pub key: &'static str,
    pub raw: &'a str,
}

impl<'a> Value<'a> {
    /// The value as a `T`.
    pub fn decoded<T: Deserialize<'a>>(self) -> Result<T, Error> {
        decoded(self.key, self.raw)
    }

    /// The error that it is wrong.
    pub fn wrong(self, reason: &str) -> Error {
        wrong_value(self.key, self.raw, reason)
    }

    /// A string; absent if it is empty, since kube-ovn's own keys are written that way when they are unset.
    pub fn text(self) -> Result<Option<String>, Error> {
        self.decoded::<String>().map(|text| Some(text).filter(|text| !text.is_empty()))
    }

    /// One of these words.
    pub fn word<T: Copy>(self, words: &[(&str, T)]) -> Result<Option<T>, Error> {
        let Some(text) = self.text()? else { return Ok(None) };
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| Some(*value));
        found.ok_or_else(|| {
            let names: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.wrong(&format!("it must be one of {}", names.join(", ")))
        })
    }

    /// A whole number within these bounds.
    pub fn number(self, least: u64, most: u64) -> Result<u64, Error> {
        let number = self.decoded::<u64>().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| self.wrong(&format!("it must be a whole number from {least} to {most}")))
    }

    /// Whole seconds, 1 to 600.
    pub fn seconds(self) -> Result<Option<Duration>, Error> {
        self.number(1, 600).map(|seconds| Some(Duration::from_secs(seconds)))
    }

    /// `"auto"` or a number of pairs.
    pub fn queues(self) -> Result<Option<Queues>, Error> {
        if self.decoded::<String>().is_ok_and(|text| text == "auto") {
            return Ok(Some(Queues::Auto));
        }
        let pairs = self.number(1, Queues::MAX.into()).ok().and_then(|number| u16::try_from(number).ok());
        pairs
            .map(|pairs| Some(Queues::Pairs(pairs)))
            .ok_or_else(|| self.wrong(&format!("it must be \"auto\" or a whole number from 1 to {}", Queues::MAX)))
    }

    /// A size that virtio's queues can have.
    pub fn queue_size(self) -> Result<Option<u16>, Error> {
        let size = self.decoded::<u16>().ok().filter(|size| [256, 512, 1024].contains(size));
        size.map(Some).ok_or_else(|| self.wrong("it must be 256, 512 or 1024"))
    }

    /// A string for which `sound` holds; `rule` says in words what that is.
    pub fn checked(self, sound: fn(&str) -> bool, rule: &str) -> Result<Option<String>, Error> {
        let text = self.text()?;
        if text.as_deref().is_none_or(sound) { Ok(text) } else { Err(self.wrong(rule)) }
    }

    /// An absolute path.
    pub fn path(self) -> Result<Option<PathBuf>, Error> {
        Ok(self.checked(is_path, PATH_RULE)?.map(PathBuf::from))
    }

    /// A list of absolute paths; absent if it is empty.
    pub fn paths(self) -> Result<Option<Vec<PathBuf>>, Error> {
        let paths: Vec<String> = self.decoded()?;
        if paths.len() > SOCKETS_MAX {
            return Err(self.wrong(&format!("it may have at most {SOCKETS_MAX} entries")));
        }
        if !paths.iter().all(|path| is_path(path)) {
            return Err(self.wrong(&format!("each entry: {PATH_RULE}")));
        }
        Ok(Some(paths.into_iter().map(PathBuf::from).collect()).filter(|paths: &Vec<_>| !paths.is_empty()))
    }

    /// A PCI address.
    pub fn pci_address(self) -> Result<Option<PciAddress>, Error> {
        let Some(text) = self.text()? else { return Ok(None) };
        PciAddress::parse(&text).map(Some).ok_or_else(|| self.wrong("it must be a PCI address such as 0000:01:00.0"))
    }

    /// A MAC address that a NIC may have.
    pub fn mac(self) -> Result<Option<Mac>, Error> {
        let Some(text) = self.text()? else { return Ok(None) };
        let mac = text.parse().ok().filter(Mac::is_unicast);
        mac.map(Some).ok_or_else(|| self.wrong("it must be the MAC address of a NIC, such as 00:00:00:24:65:f4"))
    }
}

const PATH_RULE: &str = "it must be an absolute path without \"..\"";

fn is_path(text: &str) -> bool {
    let path = Path::new(text);
    let climbs = path.components().any(|component| component == Component::ParentDir);
    path.is_absolute() && !climbs && text.len() <= PATH_MAX && !text.contains(char::is_control)
}

/// A DNS label, which is what Kubernetes demands of a volume's name.
pub fn is_label(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= 63 && text.bytes().all(sound) && !text.starts_with('-') && !text.ends_with('-')
}

/// A file name that is one component of a path, short enough for a socket's, and needs no quoting anywhere.
pub fn is_file_name(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    text.len() <= 64 && text.bytes().all(sound) && !text.starts_with(['.', '-'])
}

pub fn is_alias(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    let name = text.strip_prefix("ua-").unwrap_or_default();
    !name.is_empty() && text.len() <= ALIAS_MAX && name.bytes().all(sound)
}

pub fn is_domain_name(text: &str) -> bool {
    text.len() <= 255 && !text.contains(char::is_control)
}
