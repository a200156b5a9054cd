//! MAC addresses.

use std::fmt;
use std::str::FromStr;

use cni_plugin::macaddr::MacAddr;

/// A MAC address of six bytes, read in either case and printed as Linux and libvirt do: `00:00:00:24:65:f4`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(MacAddr);

impl Mac {
    /// The six bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 6] {
        self.0.0.into_array()
    }

    /// Whether it may be the address of a NIC: not a group address and not all zeros.
    #[must_use]
    pub fn is_unicast(&self) -> bool {
        let [first, ..] = self.bytes();
        first & 1 == 0 && self.bytes() != [0; 6]
    }
}

impl FromStr for Mac {
    type Err = <MacAddr as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.bytes();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_case_and_one_spelling() {
        let mac: Mac = "0A:00:ff:24:65:F4".parse().unwrap();
        assert_eq!(mac.to_string(), "0a:00:ff:24:65:f4");
        assert!(mac.is_unicast());
        for bad in ["", "zz", "00:00:00:00:00", "00:00:00:24:65:f4:00", "00:00:00:24:65:f4\n", "00:00:00:24:65:g4"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
        assert!(!"01:00:5e:00:00:01".parse::<Mac>().unwrap().is_unicast());
        assert!(!"00:00:00:00:00:00".parse::<Mac>().unwrap().is_unicast());
    }
}
