//! All that an OVSDB server ever says: whatever it is, the questions end, and what is made of the answer is bounded.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use vhostuser_hotplug::deadline::Deadline;
use vhostuser_hotplug::ovs::database::{Database, Snapshot};
use vhostuser_hotplug::ovs::port::Nic;
use vhostuser_hotplug::ovs::stale::{Of, stale};

use super::said;

const SHARE: &str = "/var/run/openvswitch/vhost_sockets/no-such-pod/vhostuser-sockets";
const SANDBOX: &str = "4f3c2b1a09876543";

pub fn holds(bytes: &[u8]) {
    let (here, mut there) = UnixStream::pair().expect("a socket pair");
    here.set_nonblocking(true).expect("a socket of one's own");
    there.set_nonblocking(true).expect("a socket of one's own");
    // What doesn't fit into the socket's buffer is never said.
    let _ = there.write(bytes);
    let _ = there.shutdown(std::net::Shutdown::Write);
    let mut database = Database::over(here);
    match database.snapshot(Deadline::after(Duration::from_secs(60))) {
        Ok(snapshot) => is_judged(&snapshot),
        Err(error) => drop(said(&error)),
    }
}

fn is_judged(snapshot: &Snapshot) {
    let path = Path::new(SHARE).join("net1");
    let nic = Nic { path: &path, container_id: SANDBOX, ifname: "net1", pod: "default/vm" };
    let found = snapshot.ports_at(&path);
    match snapshot.problem(&nic) {
        Some(problem) => {
            let text = said(&problem);
            assert!(!text.contains(char::is_control), "{text:?}");
        }
        None => assert_eq!(found.len(), 1, "one port has the path"),
    }
    said(&snapshot.versions());
    for group in snapshot.duplicates() {
        assert!(group.len() > 1);
    }
    for of in [Of::OtherSandboxes(SANDBOX), Of::Sandbox(SANDBOX)] {
        for port in stale(snapshot, Path::new(SHARE), of) {
            let path = port.options.get("vhost-server-path").expect("it has a path");
            let alike = snapshot.ports.iter().filter(|other| other.options.get("vhost-server-path") == Some(path));
            assert_eq!(alike.count(), 1, "{path}");
            assert_ne!(port.link_state.as_deref(), Some("up"));
            assert!(Path::new(path).file_name().is_some() && port.name.ends_with("_h"), "{port:?}");
        }
    }
}
