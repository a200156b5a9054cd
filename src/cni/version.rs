//! The versions of the CNI specification.

use std::fmt;

/// A released version of the CNI specification that this plugin speaks; later ones are greater.
///
/// A configuration's `cniVersion` names one of them to the letter: versions are labels here, not semver ranges, as in
/// libcni (`pkg/version/plugin.go`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.1.0: ADD and DEL; results with `ip4` and `ip6`.
    V0_1_0,
    /// 0.2.0: VERSION.
    V0_2_0,
    /// 0.3.0: chains; results with `interfaces` and `ips`.
    V0_3_0,
    /// 0.3.1: the version of kube-ovn's own conflist.
    V0_3_1,
    /// 0.4.0: CHECK; prevResult on DEL.
    V0_4_0,
    /// 1.0.0: `ips[].version` gone.
    V1_0_0,
    /// 1.1.0: GC and STATUS.
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest version.
    pub const NEWEST: Self = Self::V1_1_0;

    /// What a configuration without `cniVersion`, or with an empty one, is taken for (libcni, `pkg/version/conf.go`).
    pub const UNNAMED: Self = Self::V0_1_0;

    /// The version with this exact name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == name)
    }

    /// The version's name, as in `cniVersion`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact_and_in_order() {
        assert!(Version::ALL.is_sorted());
        for version in Version::ALL {
            assert_eq!(Version::named(version.as_str()), Some(version));
        }
        for name in ["", "1.1", "1.1.1", " 1.1.0", "1.1.0 ", "v1.1.0", "01.1.0", "1.1.0-rc1", "99.0.0"] {
            assert_eq!(Version::named(name), None, "{name:?}");
        }
    }
}
