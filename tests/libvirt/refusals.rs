//! What libvirt refuses, with which numbers and in which words. The same table holds the double and the real libvirtd to each
//! other, and a libvirtd that speaks another language to the same numbers.

use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use vhostuser_hotplug::deadline::Deadline;
use vhostuser_hotplug::libvirt::connection::Connection;
use vhostuser_hotplug::libvirt::devices::Attach;
use vhostuser_hotplug::libvirt::procedures::{AuthList, Call, LibraryVersion, ListDomains, Open};
use vhostuser_hotplug::libvirt::xdr::{self, Reader, Writer};
use vhostuser_hotplug::libvirt::{Access, Client, Domain, Error, EventKind, Scope, Uri};

use crate::harness::{Double, named, nic, plain, soon};

/// What a daemon says, held to the words of libvirt 11.3.
#[derive(Default)]
struct Heard {
    /// How often it said something else, as in another language.
    otherwise: Cell<usize>,
}

impl Heard {
    /// Asserts on the error's number, its domain and the number that goes with it, and compares its words.
    #[track_caller]
    fn refused(&self, what: &str, result: Result<(), Error>, numbers: (i32, i32, i32), message: &str) -> Error {
        let error = match result {
            Err(error) => error,
            Ok(()) => panic!("{what}: libvirt took it"),
        };
        let refusal = error.refusal().unwrap_or_else(|| panic!("{what}: no refusal but {error}"));
        assert_eq!((refusal.code, refusal.domain, refusal.number), numbers, "{what}: {error}");
        if refusal.message.as_deref() != Some(message) {
            println!("{what}: {error}");
            self.otherwise.set(self.otherwise.get() + 1);
        }
        error
    }
}

/// Runs the table on a daemon with the three domains of `domains/`. Returns how often it had other words.
pub fn table(client: &mut Client, dir: &Path) -> usize {
    let heard = Heard::default();
    let refused = |what: &str, result, numbers, message: &str| heard.refused(what, result, numbers, message);
    // An attach that is taken by mistake waits for a data plane without end.
    let wait = || Deadline::after(Duration::from_secs(20));
    let domain = plain(client);
    let unshared = named(client, "ns_unshared");
    let portless = named(client, "ns_portless");
    let xml = nic("ua-nic", &dir.join("nic"));

    let ghost = Domain { name: "ghost".into(), uuid: [0xab; 16], id: 1 };
    let message = "Domain not found: no domain with matching uuid 'abababab-abab-abab-abab-abababababab' (ghost)";
    let result = client.state(&ghost, soon()).map(|_| ());
    assert!(refused("unknown uuid", result, (42, 10, -1), message).is_no_domain());
    refused(
        "detach from an unknown uuid",
        client.detach_alias(&ghost, "ua-nic", Scope::Live, soon()),
        (42, 10, -1),
        message,
    );

    let message = "unsupported configuration: 'interface' requires shared memory";
    let error =
        refused("memory not shared", client.attach(&unshared, &xml, Scope::Live, wait()), (67, 10, -1), message);
    assert!(!error.is_retryable());
    refused(
        "alias in use",
        client.attach(&domain, &nic("ua-port", &dir.join("nic")), Scope::Live, wait()),
        (67, 20, -1),
        "unsupported configuration: non unique alias detected: ua-port",
    );
    let message = "internal error: No more available PCI slots";
    refused("no port", client.attach(&portless, &xml, Scope::Live, wait()), (1, 20, -1), message);
    refused(
        "model e1000",
        client.attach(&domain, &xml.replace("virtio-non-transitional", "e1000"), Scope::Live, wait()),
        (67, 10, -1),
        "unsupported configuration: invalid model for interface of type 'vhostuser': 'e1000' - must be 'virtio'",
    );
    refused(
        "mtu",
        client.attach(&domain, &xml.replace("<alias", "<mtu size='1400'/><alias"), Scope::Live, wait()),
        (38, 0, 19),
        "Cannot set interface MTU on '': No such device",
    );
    let missing = dir.join("missing/nic");
    refused(
        "no directory",
        client.attach(&domain, &nic("ua-nic", &missing), Scope::Live, wait()),
        (1, 10, -1),
        &format!(
            "internal error: unable to execute QEMU command 'chardev-add': Failed to add chardev 'charua-nic': Failed to bind socket to {}: No such file or \
             directory",
            missing.display()
        ),
    );
    refused(
        "stored config of a transient domain",
        client.attach(&domain, &xml, Scope::Config, wait()),
        (55, 20, -1),
        "Requested operation is not valid: transient domains do not have any persistent config",
    );

    let message = "internal error: no device found with alias ua-none";
    let error =
        refused("unknown alias", client.detach_alias(&domain, "ua-none", Scope::Live, soon()), (1, 20, -1), message);
    assert!(error.is_internal() && !error.is_device_missing());
    let error = refused(
        "unknown NIC",
        client.detach_xml(&domain, &xml, Scope::Live, soon()),
        (99, 20, -1),
        "device not found: no device found at address '(<null>)' matching MAC address '00:00:00:24:65:f4' and alias \
         'ua-nic'",
    );
    assert!(error.is_device_missing());
    client.subscribe(EventKind::DeviceAdded, &domain, soon()).unwrap();
    refused(
        "subscribed twice",
        client.subscribe(EventKind::DeviceAdded, &domain, soon()),
        (8, 0, -1),
        "invalid argument: event callback already tracked",
    );
    heard.otherwise.get()
}

/// A call that the client itself never makes: arguments as they are, and whatever comes back.
struct Raw<const PROCEDURE: i32>(Vec<u8>);

impl<const PROCEDURE: i32> Call for Raw<PROCEDURE> {
    const PROCEDURE: i32 = PROCEDURE;
    const DOING: &'static str = "testing";
    type Reply = ();

    fn encode(&self, writer: &mut Writer) -> Result<(), xdr::Error> {
        writer.opaque(&self.0);
        Ok(())
    }

    fn decode(_: &mut Reader<'_>) -> Result<(), xdr::Error> {
        Ok(())
    }
}

/// Runs what a well-behaved client never asks, on a fresh connection: answers that the double must not invent.
pub fn rude_table(stream: UnixStream) -> usize {
    let heard = Heard::default();
    let mut connection = Connection::new(stream).unwrap();
    let mut refused = |what: &str, call: &dyn Fn(&mut Connection) -> Result<(), Error>, numbers, message: &str| {
        heard.refused(what, call(&mut connection), numbers, message);
    };
    let not_open = "internal error: hypervisor connection not open";
    let version = |c: &mut Connection| c.call(&LibraryVersion, soon()).map(|_| ());
    // Authentication comes first, as ever.
    refused("auth list", &|c| c.call(&AuthList, soon()).and_then(|_| version(c)), (1, 7, -1), not_open);
    let message = "no connection driver available for qemu+unix:///system";
    refused(
        "transport in the URI",
        &|c| c.call(&Open { uri: "qemu+unix:///system", read_only: false }, soon()),
        (5, 0, -1),
        message,
    );
    let message = "internal error: unexpected qemu URI path '/', try qemu:///system";
    refused("path of the URI", &|c| c.call(&Open { uri: "qemu:///", read_only: false }, soon()), (1, 0, -1), message);
    let open = |c: &mut Connection| c.call(&Open { uri: "qemu:///system", read_only: false }, soon());
    let message = "internal error: connection already open";
    refused("open twice", &|c| open(c).and_then(|()| open(c)), (1, 7, -1), message);
    refused("after opening twice", &version, (1, 7, -1), not_open);
    let message = "unknown procedure: 9999";
    refused("unknown procedure", &|c| c.call(&Raw::<9999>(vec![]), soon()), (39, 7, -1), message);
    let message = "Unable to decode message payload";
    refused("short arguments", &|c| c.call(&Raw::<212>(vec![0; 8]), soon()), (39, 7, -1), message);
    let event = [0, 0, 0, 99, 0, 0, 0, 0].to_vec();
    let message = "internal error: unsupported event ID 99";
    refused(
        "unknown event",
        &|c| open(c).and_then(|()| c.call(&Raw::<316>(event.clone()), soon())),
        (1, 7, -1),
        message,
    );
    let plain = |c: &mut Connection| c.call(&ListDomains { flags: 1 }, soon()).map(|mut domains| domains.remove(0));
    let flagged = |c: &mut Connection| {
        let domain = plain(c)?;
        c.call(&Attach { domain: &domain, xml: "<rng/>", flags: 4 }, soon())
    };
    let message = "unsupported flags (0x4) in function qemuDomainAttachDeviceLiveAndConfig";
    refused("unknown flags", &flagged, (8, 10, 0), message);
    // Opened once more, it is closed, so that it can be opened for a look alone.
    let look = |c: &mut Connection| {
        let _ = open(c);
        c.call(&Open { uri: "qemu:///system", read_only: true }, soon())?;
        let domain = plain(c)?;
        c.call(&Attach { domain: &domain, xml: "<rng/>", flags: 1 }, soon())
    };
    let message = "operation forbidden: read only access prevents virDomainAttachDeviceFlags";
    refused("a change by one who said he would look", &look, (29, 20, -1), message);
    heard.otherwise.get()
}

#[test]
fn the_double_refuses_as_the_table_says() {
    let double = Double::start(&json!({}));
    assert_eq!((table(&mut double.client(), &double.dir), rude_table(double.connect())), (0, 0));
}

#[test]
fn another_language_changes_no_number() {
    let double = Double::start(&json!({"foreign": true}));
    assert_eq!((table(&mut double.client(), &double.dir), rude_table(double.connect())), (12, 10));
}

#[test]
fn a_daemon_of_the_session_is_found_in_any_language() {
    for foreign in [false, true] {
        let double = Double::start(&json!({"uris": ["qemu:///session"], "foreign": foreign}));
        let uris = [Uri::System, Uri::Session];
        let (_, uri) = Client::open_any(double.connect(), &uris, Access::Full, soon()).unwrap();
        assert_eq!(uri, Uri::Session);
    }
    // What keeps both from opening is told.
    let double = Double::lying("open", &json!({"error": {"code": 38, "domain": 10, "message": "no space"}}));
    let error = Client::open_any(double.connect(), &[Uri::System, Uri::Session], Access::Full, soon()).unwrap_err();
    assert_eq!(error.refusal().map(|refusal| refusal.code), Some(38), "{error}");
}
