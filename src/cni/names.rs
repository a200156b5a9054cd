//! The protocol's rules for names.

/// Whether `text` is a container id or network name: `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`, of any length (specification
/// 1.0.0, sections 1 and 2).
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Returns what is wrong with a container id, if anything is.
pub fn container_id_fault(id: &str) -> Option<&'static str> {
    (!is_identifier(id)).then_some("must start with a letter or digit and go on with letters, digits, '_', '.' and '-'")
}

/// Returns what is wrong with an interface's name by the rules of Linux and libcni (`pkg/utils`), if anything is.
pub fn ifname_fault(name: &str) -> Option<&'static str> {
    // IFNAMSIZ counts bytes, and the final NUL.
    if name.len() > 15 {
        Some("is longer than 15 bytes")
    } else if matches!(name, "." | "..") {
        Some("is no name for an interface")
    } else if name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        Some("has a slash, a colon or white space in it")
    } else {
        None
    }
}
