//! What must hold of any bytes whatever: one property for each group of parsers, each a function that panics where it
//! does not hold. The fuzz targets are these functions and nothing else; the stable tests (`tests/parsers`) run them on the
//! seed corpus and on what comes of it by chance.

pub mod cni_call;
pub mod domain_xml;
pub mod libvirt_client;
pub mod libvirt_frame;
pub mod ovsdb;
pub mod proc_tables;
pub mod state_files;
pub mod vhost_user;

/// A property: the name of its target and of its corpus' folder, and what runs it.
pub type Property = (&'static str, fn(&[u8]));

/// All of them.
pub const ALL: [Property; 8] = [
    ("cni_call", cni_call::holds),
    ("domain_xml", domain_xml::holds),
    ("libvirt_client", libvirt_client::holds),
    ("libvirt_frame", libvirt_frame::holds),
    ("ovsdb", ovsdb::holds),
    ("proc_tables", proc_tables::holds),
    ("state_files", state_files::holds),
    ("vhost_user", vhost_user::holds),
];

/// Longest text of an error that quotes a peer, in bytes: 512 characters, each spelt out, and a sentence around it.
pub const ERROR_MAX: usize = 8 << 10;

/// The text of an error, which must be of bounded length however long the input was.
pub fn said(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    assert!(text.len() <= ERROR_MAX, "an error of {} bytes: {:.200}…", text.len(), text);
    text
}
