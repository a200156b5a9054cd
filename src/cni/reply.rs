//! What is printed when a call succeeds. ADD prints a result ([`super::PrevResult::answer`]) and VERSION the versions;
//! DEL, CHECK, GC and STATUS print nothing.

use serde::Serialize;

use super::Version;
use super::json::member;

#[derive(Serialize)]
struct Versions<'a> {
    #[serde(rename = "cniVersion")]
    cni_version: &'a str,
    #[serde(rename = "supportedVersions")]
    supported_versions: [&'a str; Version::ALL.len()],
}

/// The answer to VERSION: the version that was asked with, if it is one of ours, and every version that is.
///
/// Whatever stdin held: up to 0.4.0 the command has no input at all, so nothing in it can be wrong.
#[must_use]
pub fn versions(stdin: &[u8]) -> String {
    let asked = std::str::from_utf8(stdin).ok().and_then(|text| member(text, "cniVersion"));
    let asked = asked.and_then(|raw| Version::named(&serde_json::from_str::<String>(raw).ok()?));
    let versions = Versions {
        cni_version: asked.unwrap_or(Version::NEWEST).as_str(),
        supported_versions: Version::ALL.map(Version::as_str),
    };
    // Strings always serialise.
    serde_json::to_string(&versions).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_asked_with_is_echoed_if_it_is_ours() {
        for (stdin, version) in [
            ("{\"cniVersion\":\"0.3.1\"}", "0.3.1"),
            ("{\"cniVersion\":\"99.0.0\"}", "1.1.0"),
            ("{\"cniVersion\":7}", "1.1.0"),
            ("garbage", "1.1.0"),
            ("", "1.1.0"),
        ] {
            let answer = versions(stdin.as_bytes());
            assert!(answer.starts_with(&format!("{{\"cniVersion\":\"{version}\",")), "{stdin}: {answer}");
        }
    }
}
