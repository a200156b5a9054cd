//! The honest job: everything the plugin asks of libvirt, in the plugin's order.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use vhostuser_hotplug::deadline::Deadline;
use vhostuser_hotplug::libvirt::events::Change;
use vhostuser_hotplug::libvirt::{Access, Client, DomainState, Event, EventKind, Scope, Uri, Xml};

use crate::harness::{Double, named, nic, open, plain, soon};

#[test]
fn a_nic_comes_and_goes() {
    let double = Double::start(&json!({}));
    let mut client = double.client();
    assert_eq!(client.library_version(soon()).unwrap(), 11_003_000);
    let names: Vec<_> = client.running_domains(soon()).unwrap().into_iter().map(|domain| domain.name).collect();
    assert_eq!(names, ["ns_plain", "ns_unshared", "ns_portless"]);
    let domain = plain(&mut client);
    assert_eq!((domain.uuid[..3].to_vec(), domain.id), (vec![0x11; 3], 1));
    assert_eq!(client.state(&domain, soon()).unwrap(), DomainState::Paused);
    assert!(!client.is_persistent(&domain, soon()).unwrap());
    assert!(!client.xml(&domain, Xml::Live, soon()).unwrap().contains("interface"));

    client.subscribe(EventKind::DeviceAdded, &domain, soon()).unwrap();
    client.subscribe(EventKind::DeviceRemoved, &domain, soon()).unwrap();
    let socket = double.dir.join("nic");
    client.attach(&domain, &nic("ua-nic", &socket), Scope::Live, soon()).unwrap();
    let event = client.next_event(soon()).unwrap().unwrap();
    assert_eq!(event, Event::DeviceAdded { domain: domain.clone(), alias: "ua-nic".into() });
    let xml = client.xml(&domain, Xml::Live, soon()).unwrap();
    assert!(xml.contains("<alias name='ua-nic'/>") && xml.contains("bus='0x01'"), "{xml}");
    let file = std::fs::symlink_metadata(&socket).unwrap();
    assert!(file.file_type().is_socket() && file.permissions().mode() & 0o777 == 0o775);

    // The listener, and the peer that it has accepted.
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let ours: Vec<_> = sockets.lines().filter(|line| line.ends_with(socket.to_str().unwrap())).collect();
    assert!(ours.iter().any(|line| line.contains(" 00010000 0001 01 ")), "{ours:?}");
    assert!(ours.iter().any(|line| line.contains(" 00000000 0001 03 ")), "{ours:?}");

    client.detach_alias(&domain, "ua-nic", Scope::Live, soon()).unwrap();
    let event = client.next_event(soon()).unwrap().unwrap();
    assert_eq!(event, Event::DeviceRemoved { domain: domain.clone(), alias: "ua-nic".into() });
    assert!(!client.xml(&domain, Xml::Live, soon()).unwrap().contains("interface"));
    assert!(!socket.exists());
    assert!(client.next_event(Deadline::after(Duration::from_millis(50))).unwrap().is_none());
    let calls = double.call_names();
    assert_eq!(calls[..3], ["connect", "auth-list", "open"]);
    let attach = double.calls().into_iter().find(|(name, _)| name == "attach").unwrap().1;
    assert_eq!((attach["flags"].as_i64(), attach["domain"].as_str()), (Some(1), Some("ns_plain")));
    assert!(attach["device"].as_str().unwrap().starts_with("<interface type='vhostuser'>"));
}

#[test]
fn a_daemon_of_the_session_is_found_on_the_same_connection() {
    let double = Double::start(&json!({"uris": ["qemu:///session"]}));
    let (mut client, uri) =
        Client::open_any(double.connect(), &[Uri::System, Uri::Session], Access::Full, soon()).unwrap();
    assert_eq!(uri, Uri::Session);
    plain(&mut client);
    let opens: Vec<_> = double.calls().into_iter().filter(|(name, _)| name == "open").collect();
    assert_eq!(opens.len(), 2);
    assert_eq!(double.call_names().iter().filter(|name| *name == "connect").count(), 1);
    let error = open(double.connect(), soon()).unwrap_err();
    assert!(error.refusal().is_some(), "{error}");
}

#[test]
fn polkit_is_asked_where_it_is_wanted() {
    let double = Double::start(&json!({"auth": "polkit"}));
    drop(double.client());
    assert_eq!(double.call_names(), ["connect", "auth-list", "auth-polkit", "open"]);
    let double = Double::start(&json!({"auth": "polkit-refused"}));
    let error = open(double.connect(), soon()).unwrap_err();
    assert!(error.is_authentication() && error.to_string().contains("access denied by policy"), "{error}");
}

#[test]
fn sasl_is_refused_in_words() {
    let double = Double::start(&json!({"auth": "sasl"}));
    let error = open(double.connect(), soon()).unwrap_err();
    assert!(error.is_authentication(), "{error}");
    assert!(error.to_string().contains("SASL") && error.to_string().contains("auth_unix_rw"), "{error}");
    assert_eq!(double.call_names(), ["connect", "auth-list"]);
}

#[test]
fn a_guest_that_takes_its_time_is_waited_for() {
    let deaf = std::env::temp_dir().join(format!("vhu-deaf-{}", std::process::id()));
    std::fs::write(&deaf, "").unwrap();
    let double = Double::start(&json!({"detach": {"deaf_while": deaf}}));
    let mut client = double.client();
    let domain = plain(&mut client);
    client.attach(&domain, &nic("ua-nic", &double.dir.join("nic")), Scope::Live, soon()).unwrap();
    client.subscribe(EventKind::DeviceRemoved, &domain, soon()).unwrap();
    // By alias libvirt does not wait.
    client.detach_alias(&domain, "ua-nic", Scope::Live, soon()).unwrap();
    assert!(client.xml(&domain, Xml::Live, soon()).unwrap().contains("ua-nic"));
    std::fs::remove_file(&deaf).unwrap();
    assert!(
        matches!(client.next_event(soon()).unwrap(), Some(Event::DeviceRemoved { alias, .. }) if alias == "ua-nic")
    );
}

#[test]
fn a_guest_that_ignores_the_request_is_silence() {
    let double = Double::start(&json!({"detach": {"guest": "second-ask"}}));
    let mut client = double.client();
    let domain = plain(&mut client);
    client.attach(&domain, &nic("ua-nic", &double.dir.join("nic")), Scope::Live, soon()).unwrap();
    client.subscribe(EventKind::DeviceRemoved, &domain, soon()).unwrap();
    client.detach_alias(&domain, "ua-nic", Scope::Live, soon()).unwrap();
    assert_eq!(client.next_event(Deadline::after(Duration::from_millis(200))).unwrap(), None);
    client.detach_alias(&domain, "ua-nic", Scope::Live, soon()).unwrap();
    assert!(client.next_event(soon()).unwrap().is_some());
    let error = client.detach_alias(&domain, "ua-nic", Scope::Live, soon()).unwrap_err();
    assert!(error.is_internal(), "{error}");
}

#[test]
fn a_detach_by_xml_waits_for_the_guest() {
    let double = Double::start(&json!({"detach": {"after_ms": 200}}));
    let mut client = double.client();
    let domain = plain(&mut client);
    let xml = nic("ua-nic", &double.dir.join("nic"));
    client.attach(&domain, &xml, Scope::Live, soon()).unwrap();
    let begun = Instant::now();
    client.detach_xml(&domain, &xml, Scope::Live, soon()).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(200));
    let error = client.detach_xml(&domain, &xml, Scope::Live, soon()).unwrap_err();
    assert!(error.is_device_missing(), "{error}");
}

#[test]
fn a_refusal_of_the_guest_is_an_event() {
    let double = Double::start(&json!({"detach": {"guest": "refuses"}}));
    let mut client = double.client();
    let domain = plain(&mut client);
    client.attach(&domain, &nic("ua-nic", &double.dir.join("nic")), Scope::Live, soon()).unwrap();
    client.subscribe(EventKind::DeviceRemovalFailed, &domain, soon()).unwrap();
    client.detach_alias(&domain, "ua-nic", Scope::Live, soon()).unwrap();
    assert_eq!(client.next_event(soon()).unwrap().unwrap().kind(), EventKind::DeviceRemovalFailed);
}

#[test]
fn the_end_of_a_domain_is_heard() {
    let double = Double::start(&json!({"detach": {"guest": "stops", "after_ms": 50}}));
    let mut client = double.client();
    let domain = plain(&mut client);
    let socket = double.dir.join("nic");
    client.attach(&domain, &nic("ua-nic", &socket), Scope::Live, soon()).unwrap();
    client.subscribe(EventKind::Lifecycle, &domain, soon()).unwrap();
    client.subscribe(EventKind::DeviceRemoved, &domain, soon()).unwrap();
    client.detach_alias(&domain, "ua-nic", Scope::Live, soon()).unwrap();
    let changes: Vec<_> = (0..2).filter_map(|_| client.next_event(soon()).unwrap()).collect();
    assert!(matches!(changes[0], Event::Lifecycle { change: Change::Shutdown, .. }), "{changes:?}");
    assert!(matches!(changes[1], Event::Lifecycle { change: Change::Stopped, detail: 1, .. }), "{changes:?}");
    assert!(!socket.exists());
    assert!(client.state(&domain, soon()).unwrap_err().is_no_domain());
}

#[test]
fn an_attach_waits_for_the_data_plane_and_holds_the_domain() {
    let double = Double::start(&json!({"attach": {"data_plane": "wait"}, "job_timeout_ms": 100}));
    let mut client = double.client();
    let domain = plain(&mut client);
    let socket = double.dir.join("nic");
    let error = client
        .attach(&domain, &nic("ua-nic", &socket), Scope::Live, Deadline::after(Duration::from_secs(1)))
        .unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("in time while attaching a device"), "{error}");
    // libvirt goes on without us: the domain is held, and a look at its state is not.
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut second = double.client();
    assert_eq!(second.state(&domain, soon()).unwrap(), DomainState::Paused);
    let error = second.xml(&domain, Xml::Live, soon()).unwrap_err();
    assert!(error.is_busy() && error.is_retryable(), "{error}");
    second.subscribe(EventKind::DeviceAdded, &domain, soon()).unwrap();
    let _data_plane = UnixStream::connect(&socket).unwrap();
    assert!(matches!(second.next_event(soon()).unwrap(), Some(Event::DeviceAdded { .. })));
    assert!(second.xml(&domain, Xml::Live, soon()).unwrap().contains("ua-nic"));
}

#[test]
fn two_clients_see_one_world() {
    let double = Double::start(&json!({}));
    let (mut one, mut two) = (double.client(), double.client());
    let domain = plain(&mut one);
    two.subscribe(EventKind::DeviceAdded, &domain, soon()).unwrap();
    one.attach(&domain, &nic("ua-nic", &double.dir.join("nic")), Scope::Live, soon()).unwrap();
    assert!(two.next_event(soon()).unwrap().is_some());
    assert!(two.xml(&domain, Xml::Live, soon()).unwrap().contains("ua-nic"));
    assert!(one.next_event(Deadline::after(Duration::from_millis(50))).unwrap().is_none());
}

#[test]
fn a_nic_is_stored_for_the_next_start() {
    let double = Double::start(&json!({}));
    stored_nic(&mut double.client());
}

/// The stored description of a domain, apart from a live one: as the double does it and as libvirt does.
pub fn stored_nic(client: &mut Client) {
    let domain = named(client, "ns_stored");
    assert_eq!(domain.id, -1);
    assert_eq!(client.state(&domain, soon()).unwrap(), DomainState::ShutOff);
    assert!(client.is_persistent(&domain, soon()).unwrap());
    assert!(!client.running_domains(soon()).unwrap().contains(&domain));
    assert!(client.domains(soon()).unwrap().contains(&domain) && !domain.is_active());
    let xml = nic("ua-nic", Path::new("/run/volumes/pod59cc33fa39b"));
    let error = client.attach(&domain, &xml, Scope::Live, soon()).unwrap_err();
    assert!(error.is_wrong_state(), "{error}");
    client.attach(&domain, &xml, Scope::Config, soon()).unwrap();
    let stored = client.xml(&domain, Xml::Persistent, soon()).unwrap();
    let begin = stored.find("    <interface").expect("the NIC is stored");
    let end = stored.find("</interface>").expect("the NIC is stored");
    let expected = "    <interface type='vhostuser'>
      <mac address='00:00:00:24:65:f4'/>
      <source type='unix' path='/run/volumes/pod59cc33fa39b' mode='server'/>
      <model type='virtio-non-transitional'/>
      <driver name='vhost' queues='4'/>
      <alias name='ua-nic'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    ";
    assert_eq!(&stored[begin..end], expected);
    client.detach_alias(&domain, "ua-nic", Scope::Config, soon()).unwrap();
    assert!(!client.xml(&domain, Xml::Persistent, soon()).unwrap().contains("<interface"));
}

/// What a back end of vhost-user says of its queues, when asked three times.
fn back_end(socket: &Path, queues: u64) -> JoinHandle<Vec<u32>> {
    let mut peer = UnixStream::connect(socket).unwrap();
    std::thread::spawn(move || {
        let (mut asked, mut head) = (Vec::new(), [0; 12]);
        while peer.read_exact(&mut head).is_ok() {
            let word = |at: usize| u32::from_ne_bytes(*head[at..].first_chunk().unwrap());
            let (request, size) = (word(0), word(8));
            asked.push(request);
            peer.read_exact(&mut vec![0; usize::try_from(size).unwrap()]).unwrap();
            // Of the protocol's features, several queues alone.
            let Some((_, answer)) = [(1, 1u64 << 30), (15, 1), (17, queues)].into_iter().find(|(of, _)| *of == request)
            else {
                continue;
            };
            let words = [request, 5, 8].map(u32::to_ne_bytes).concat();
            peer.write_all(&[&words[..], &answer.to_ne_bytes()].concat()).unwrap();
        }
        asked
    })
}

#[test]
fn a_data_plane_that_offers_too_little_does_not_end_the_wait() {
    let double = Double::start(&json!({"attach": {"data_plane": "handshake"}}));
    let mut client = double.client();
    let domain = plain(&mut client);
    let socket = double.dir.join("nic");
    let xml = nic("ua-nic", &socket);
    let attach = std::thread::spawn(move || client.attach(&domain, &xml, Scope::Live, soon()));
    // One that connects and hangs up is none.
    while UnixStream::connect(&socket).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let poor = back_end(&socket, 1);
    let asked = poor.join().unwrap();
    assert_eq!(asked, [1, 15, 16, 17, 3, 1, 13, 14, 13, 14], "one queue where four are asked for: QEMU hangs up");
    assert!(!attach.is_finished());
    let rich = back_end(&socket, 4);
    attach.join().unwrap().unwrap();
    drop(double);
    let pair = [1, 15, 16, 1, 13, 14, 13, 14].repeat(3);
    assert_eq!(rich.join().unwrap(), [asked, pair, vec![18, 18]].concat(), "as a real QEMU 10.0 was heard to ask");
}
