//! The client against a real libvirtd; `real.sh` beside this file starts one in namespaces of its own and runs these.
//!
//! VHU_LIBVIRT_SOCKET names its socket. The domains of `domains/` must have been made with `virsh create --paused` (`stored` with `virsh define`), and
//! the directory in VHU_LIBVIRT_DIR must be the same one for QEMU. VHU_LIBVIRT_SESSION_SOCKET and VHU_LIBVIRT_SASL_SOCKET
//! name those of a daemon that an unprivileged user runs, and of one that wants SASL. VHU_LIBVIRT_CATALOGUE is set if the daemons
//! speak another language.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use vhostuser_hotplug::deadline::Deadline;
use vhostuser_hotplug::libvirt::{Access, Client, DomainState, Event, EventKind, Scope, Uri, Xml};

use crate::harness::{open, plain, soon};
use crate::job::stored_nic;
use crate::refusals::{rude_table, table};

fn given(variable: &str) -> PathBuf {
    let value = std::env::var_os(variable);
    value.unwrap_or_else(|| panic!("{variable} is not set: run tests/libvirt/real.sh")).into()
}

fn connect() -> UnixStream {
    let socket = given("VHU_LIBVIRT_SOCKET");
    UnixStream::connect(&socket).unwrap_or_else(|error| panic!("no libvirtd at {}: {error}", socket.display()))
}

fn client() -> Client {
    open(connect(), Deadline::after(Duration::from_secs(120))).expect("libvirtd opens")
}

#[test]
#[ignore = "needs a real libvirtd: run by tests/libvirt/real.sh"]
fn a_real_libvirtd_answers_as_the_double_does() {
    let mut client = client();
    let version = client.library_version(soon()).unwrap();
    assert!((9_000_000..99_000_000).contains(&version), "{version}");
    println!("libvirt {version}");
    let domains = client.running_domains(soon()).unwrap();
    let names = ["ns_plain", "ns_unshared", "ns_portless"];
    assert!(names.iter().all(|name| domains.iter().any(|domain| domain.name == *name)), "{domains:?}");
    let domain = plain(&mut client);
    assert_eq!(domain.uuid[..3], [0x11; 3]);
    assert!(domain.id > 0);
    assert_eq!(client.state(&domain, soon()).unwrap(), DomainState::Paused);
    assert!(!client.is_persistent(&domain, soon()).unwrap());
    assert_eq!(client.operation(&domain, soon()).unwrap(), None);
    let xml = client.xml(&domain, Xml::Live, soon()).unwrap();
    assert!(xml.contains("<name>ns_plain</name>") && xml.contains("<alias name='ua-port'/>"), "{xml}");
}

#[test]
#[ignore = "needs a real libvirtd: run by tests/libvirt/real.sh"]
fn a_real_libvirtd_refuses_as_the_table_says() {
    let otherwise = table(&mut client(), &given("VHU_LIBVIRT_DIR")) + rude_table(connect());
    // A catalogue need not have all of them.
    assert_eq!(otherwise > 0, std::env::var_os("VHU_LIBVIRT_CATALOGUE").is_some());
}

#[test]
#[ignore = "needs a real libvirtd: run by tests/libvirt/real.sh"]
fn a_refused_open_may_be_followed_by_another() {
    let mut sessions = ["VHU_LIBVIRT_SESSION_SOCKET", "VHU_LIBVIRT_SOCKET"].map(|variable| {
        let stream = UnixStream::connect(given(variable)).expect("the daemon listens");
        Client::open_any(stream, &[Uri::System, Uri::Session], Access::Full, soon())
            .expect("the daemon serves one of the two")
    });
    let uris = sessions.each_ref().map(|(_, uri)| *uri);
    assert_eq!(uris, [Uri::Session, Uri::System], "the unprivileged daemon serves the session alone");
    for (client, _) in &mut sessions {
        client.library_version(soon()).unwrap();
    }
    let stream = UnixStream::connect(given("VHU_LIBVIRT_SESSION_SOCKET")).expect("the daemon listens");
    let error = open(stream, soon()).unwrap_err();
    println!("{error}");
    assert!(error.is_internal(), "{error}");
}

#[test]
#[ignore = "needs a real libvirtd: run by tests/libvirt/real.sh"]
fn a_nic_is_stored_for_the_next_start() {
    stored_nic(&mut client());
}

#[test]
#[ignore = "needs a real libvirtd: run by tests/libvirt/real.sh"]
fn sasl_is_refused_in_words() {
    let stream = UnixStream::connect(given("VHU_LIBVIRT_SASL_SOCKET")).expect("the daemon listens");
    let error = open(stream, soon()).unwrap_err();
    println!("{error}");
    assert!(error.is_authentication() && error.to_string().contains("SASL"), "{error}");
}

#[test]
#[ignore = "needs a real libvirtd: run by tests/libvirt/real.sh"]
fn a_device_comes_and_goes_with_its_events() {
    // A random number generator: unlike a vhost-user NIC it needs nobody at the other end.
    let xml = "<rng model='virtio-non-transitional'><backend model='random'>/dev/urandom</backend><alias name='ua-rng'/></rng>";
    let mut client = client();
    let domain = plain(&mut client);
    for kind in [EventKind::DeviceAdded, EventKind::DeviceRemoved, EventKind::DeviceRemovalFailed, EventKind::Lifecycle]
    {
        client.subscribe(kind, &domain, soon()).unwrap();
    }
    client.attach(&domain, xml, Scope::Live, soon()).unwrap();
    let event = client.next_event(soon()).unwrap().expect("an event after an attach");
    assert!(
        matches!(&event, Event::DeviceAdded { alias, domain: of } if alias == "ua-rng" && *of == domain),
        "{event:?}"
    );
    assert!(client.xml(&domain, Xml::Live, soon()).unwrap().contains("ua-rng"));

    let begun = Instant::now();
    client.detach_alias(&domain, "ua-rng", Scope::Live, soon()).unwrap();
    // By XML it waits for 5 s (qemuDomainRemoveDeviceWaitTime).
    assert!(begun.elapsed() < Duration::from_secs(5), "by alias libvirt does not wait");
    // The guest is paused and cannot let go before it is reset.
    assert_eq!(client.next_event(Deadline::after(Duration::from_millis(500))).unwrap(), None);
    let error = client.attach(&domain, xml, Scope::Live, soon()).unwrap_err();
    assert!(error.refusal().is_some(), "{error}");
    let uri = format!("qemu+unix:///system?socket={}", given("VHU_LIBVIRT_SOCKET").display());
    for verb in ["resume", "reset", "suspend"] {
        let done = Command::new("virsh").args(["-q", "-c", &uri, verb, "ns_plain"]).status().expect("virsh runs");
        assert!(done.success(), "virsh {verb}");
    }
    let mut heard = Vec::new();
    while !heard.iter().any(|event: &Event| event.kind() == EventKind::DeviceRemoved) {
        heard.push(client.next_event(soon()).unwrap().unwrap_or_else(|| panic!("no removal, only {heard:?}")));
    }
    println!("heard {heard:?}");
    assert!(!client.xml(&domain, Xml::Live, soon()).unwrap().contains("ua-rng"));
    assert!(client.detach_alias(&domain, "ua-rng", Scope::Live, soon()).unwrap_err().is_internal());
}
