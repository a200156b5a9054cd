//! Values of any kind, written and read back.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value};
use vhostuser_hotplug::attachment::record::{Nic, Record};
use vhostuser_hotplug::cni::{Args, Command, NetConf, Version};
use vhostuser_hotplug::dataplane::message::{self, Connection, Message, PAYLOAD_LIMIT};
use vhostuser_hotplug::deadline::Deadline;
use vhostuser_hotplug::libvirt::Domain;
use vhostuser_hotplug::libvirt::procedures::{Call, GetState, ListDomains};
use vhostuser_hotplug::libvirt::xdr::{self, Reader, Writer};
use vhostuser_hotplug::pod::cgroup;
use vhostuser_hotplug::pod::identity::PodUid;
use vhostuser_hotplug::pod::mounts::{self, Mount};
use vhostuser_hotplug::pod::unix_sockets::{OfPath, Socket};
use vhostuser_hotplug::quote;
use vhostuser_hotplug::vm::interface::{Interface, PciAddress, alias_of};

use crate::for_all;
use crate::properties::{cni_call, domain_xml, proc_tables, vhost_user};

/// Any text, with more of the characters that mean something to XML, JSON, a shell, a path, a log or a terminal.
fn text(most: usize) -> impl Strategy<Value = String> + Clone {
    let special: Vec<char> =
        "<>&'\"\\/;=:{}[]()#%@ \t\n\r\u{b}\0\u{1b}\u{7f}\u{85}\u{2028}\u{202e}\u{feff}\u{fffe}]]>".chars().collect();
    vec(prop_oneof![proptest::sample::select(special), any::<char>()], 0..most)
        .prop_map(|characters| characters.into_iter().collect())
}

fn pci_address() -> impl Strategy<Value = PciAddress> {
    (any::<u16>(), any::<u8>(), 0..32_u8, 0..8_u8).prop_map(|(domain, bus, slot, function)| PciAddress {
        domain,
        bus,
        slot,
        function,
    })
}

#[test]
fn a_nic_is_read_as_it_was_written_whatever_its_names_are() {
    let queue = || option::of(any::<u16>());
    let texts = (text(40), text(120), text(40), text(40));
    let nics = (texts, any::<u16>(), queue(), queue(), option::of(pci_address())).prop_map(
        |((mac, path, model, alias), queues, rx_queue_size, tx_queue_size, address)| Interface {
            mac,
            path: path.into(),
            model,
            queues,
            rx_queue_size,
            tx_queue_size,
            alias,
            address,
            iommu: queues % 2 == 0,
        },
    );
    for_all(400, nics, |nic| domain_xml::is_written_as_it_is(&nic));
}

#[test]
fn a_pci_address_is_read_as_it_is_printed_and_nothing_else_is_read() {
    for_all(500, pci_address(), |address| assert_eq!(PciAddress::parse(&address.to_string()), Some(address)));
    for_all(1000, "[0-9a-fA-F:.+ xg]{0,14}", |text| domain_xml::pci_address_is_strict(&text));
}

#[test]
fn no_two_interface_names_have_one_alias() {
    let name = || "[a-zA-Z0-9_.@-]{1,15}|\\PC{1,4}";
    for_all(500, (name(), name()), |(one, other)| {
        domain_xml::alias_is_plain(&one);
        assert_eq!(alias_of(&one) == alias_of(&other), one == other, "{one:?} {other:?}");
    });
}

#[test]
fn a_domain_goes_over_the_wire_and_back() {
    let domains = (text(60), any::<[u8; 16]>(), -1..i32::MAX);
    for_all(500, domains, |(name, uuid, id)| {
        let domain = Domain { name, uuid, id };
        let mut writer = Writer::new();
        let written = GetState { domain: &domain }.encode(&mut writer);
        if domain.name.contains('\0') {
            return assert_eq!(written, Err(xdr::Error::Nul));
        }
        // Behind the domain stand flags, which are 0. A list of one is its count, the domain and the count again.
        let bytes = writer.into_bytes();
        let list = [&[0, 0, 0, 1], &bytes[..bytes.len() - 4], &[0, 0, 0, 1]].concat();
        assert_eq!(ListDomains::decode(&mut Reader::new(&list)), Ok(vec![domain]));
        assert!((0..list.len()).all(|cut| ListDomains::decode(&mut Reader::new(&list[..cut])).is_err()));
    });
}

#[test]
fn a_peers_words_are_made_fit_for_a_log() {
    for_all(100, text(700), |words| {
        let (value, line) = (quote::value(&words), quote::text(&words));
        for shown in [&value, &line] {
            assert!(!shown.contains(char::is_control) && shown.len() <= 1024 + 32, "{shown:?}");
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if !words.is_empty() && words.len() <= 384 && words.chars().all(is_plain) {
            assert_eq!((&value, line), (&words, format!("\"{words}\"")));
        }
    });
}

#[test]
fn a_vhost_user_message_goes_over_the_line_and_back() {
    let size = prop_oneof![0..300_usize, PAYLOAD_LIMIT - 4..PAYLOAD_LIMIT + 5];
    let payload = size.prop_flat_map(|size| vec(any::<u8>(), size));
    for_all(200, (any::<u32>(), any::<bool>(), any::<bool>(), payload), |(request, is_reply, needs_reply, payload)| {
        let soon = || Deadline::after(Duration::from_secs(20));
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (Connection::new(one).unwrap(), Connection::new(other).unwrap());
        let message = Message { request, is_reply, needs_reply, payload };
        one.send(&message, soon()).unwrap();
        let arrived = other.receive(soon());
        if message.payload.len() <= PAYLOAD_LIMIT {
            assert_eq!(arrived, Ok(message));
        } else {
            assert!(matches!(arrived, Err(message::Error::Protocol(_))), "{arrived:?}");
        }
    });
}

#[test]
fn a_data_planes_figures_are_believed_within_bounds() {
    let word = || prop_oneof![Just(0), Just(1), Just(1 << 15), Just((1 << 15) + 1), any::<u64>()];
    // Whether it has protocol features, multiqueue and memory slots decides what it is asked.
    let asked = (any::<u64>(), any::<bool>(), any::<u64>(), any::<bool>());
    for_all(300, (asked, word(), word()), |((features, has, protocol, all), queues, slots)| {
        let features = if has { features | 1 << 30 } else { features };
        let protocol = if all { protocol | 1 | 1 << 15 } else { protocol };
        let answers = [(1_u32, features), (15, protocol), (17, queues), (36, slots)];
        let bytes = answers.iter().flat_map(|(request, word)| {
            let head = [*request, 5, 8].into_iter().flat_map(u32::to_ne_bytes);
            head.chain(word.to_ne_bytes()).collect::<Vec<_>>()
        });
        vhost_user::holds(&bytes.collect::<Vec<_>>());
    });
}

#[test]
fn the_names_of_a_call_are_checked() {
    let name = || prop_oneof!["\\.{0,3}", "[a./:_ \n-]{0,4}", "[a-z0-9.]{12,18}", text(6)];
    for_all(500, (name(), name(), text(20)), |(container_id, ifname, args)| {
        for command in ["ADD", "DEL", "CHECK"] {
            let variables = [
                format!("CNI_COMMAND={command}"),
                format!("CNI_CONTAINERID=a{container_id}"),
                format!("CNI_IFNAME={ifname}"),
                "CNI_NETNS=/proc/none/ns/net".to_owned(),
                format!("CNI_ARGS={args}"),
            ];
            // A variable ends where it has a NUL.
            let variables: String =
                variables.iter().map(|text| text.split('\0').next().unwrap().to_owned() + "\0").collect();
            cni_call::holds(format!("{variables}\0{{\"cniVersion\":\"1.0.0\",\"name\":\"n\"}}").as_bytes());
        }
    });
}

#[test]
fn a_mount_is_read_as_the_kernel_writes_it() {
    // Any bytes but NUL.
    let path = || vec(prop_oneof![proptest::sample::select(b" \\\n\t#/01".to_vec()), 1..=255_u8], 0..60);
    let tags = (any::<bool>(), any::<bool>());
    for_all(
        400,
        (any::<u64>(), any::<u32>(), path(), path(), tags),
        |(id, device, root, point, (is_shared, is_slave))| {
            let path = |bytes: Vec<u8>| PathBuf::from(OsString::from_vec(bytes));
            let mount = Mount {
                id,
                device: format!("{}:{device}", id % 4096),
                root: path(root),
                point: path(point),
                is_shared,
                is_slave,
            };
            let line = proc_tables::line(&mount);
            let read: Vec<_> = mounts::mounts(&[&line[..], &line].join(&b'\n')).collect();
            assert_eq!(read, vec![mount; 2]);
        },
    );
}

#[test]
fn a_pod_is_named_by_a_cgroup_of_either_driver_and_by_nothing_else() {
    let uid = || "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}";
    for_all(500, (uid(), text(20), text(20)), |(uid, before, after)| {
        let clean = |text: &str| text.replace(['\n', '\r', '/'], "").replace("pod", "");
        let (before, after) = (clean(&before), clean(&after));
        let expected = PodUid::parse(&uid);
        assert!(expected.is_some());
        let slice = |pod: &str| format!("kubepods-burstable-{pod}{}.slice", uid.replace('-', "_"));
        let named = |component: &str| {
            let table = format!("1:name=systemd:/\n0::/{before}/{component}/{after}\n");
            // The node's own cgroup makes no difference, unless the pod's is above it.
            let found = cgroup::pod_of(&table, "");
            assert_eq!(cgroup::pod_of(&table, &format!("1:name=systemd:/\n0::/{before}/init.scope\n")), found);
            found
        };
        for form in [format!("pod{uid}"), slice("pod"), format!("{}:cri-containerd:{after}", slice("pod"))] {
            assert_eq!(named(&form), expected, "{form}");
            // What the pod makes below its own changes nothing.
            assert_eq!(named(&format!("{form}/pod{}", "0".repeat(32))), expected, "{form}");
        }
        assert_eq!((named(&format!("xpod{uid}")), named(&slice("xpod"))), (None, None));
        assert_eq!(named(&format!("pod{uid}x")), None);
    });
    let spoiled = (uid(), any::<Index>(), proptest::sample::select(vec!["g", "/", ".", "-", "_", "", "00", "\n", "é"]));
    for_all(500, spoiled, |(uid, at, other)| {
        let at = at.index(uid.len());
        let text = format!("{}{other}{}", &uid[..at], &uid[at + 1..]);
        assert!(PodUid::parse(&text).is_none() || text == uid, "{text}");
    });
}

#[test]
fn sockets_are_found_by_their_whole_path() {
    let sockets = vec((any::<u64>(), 0..4_u8, any::<bool>(), 0..3_usize), 0..20);
    for_all(500, sockets, |sockets| {
        let paths = ["/run/vm/net1", "/run/vm/net1 (x)", "/x/run/vm/net1"];
        let line = |(inode, state, accepts, path): &(u64, u8, bool, usize)| {
            let flags = if *accepts { 0x10000 } else { 0 };
            format!("0000000000000000: 00000002 00000000 {flags:08X} 0001 {state:02X} {inode:5} {}\n", paths[*path])
        };
        let list: String = sockets.iter().map(line).collect();
        for (number, path) in paths.into_iter().enumerate() {
            let here: Vec<_> = sockets.iter().filter(|(_, _, _, at)| *at == number).collect();
            let accepted: BTreeSet<u64> =
                here.iter().filter(|(_, state, ..)| *state == 3).map(|(inode, ..)| *inode).collect();
            let mut found = OfPath::default();
            for socket in list.lines().filter_map(|line| Socket::parse(line.as_bytes())) {
                assert_eq!(found.add(|other| other == path.as_bytes(), &socket), None);
            }
            assert_eq!(found.accepted, accepted, "{list}");
            let listens = here.iter().any(|(_, state, accepts, _)| *accepts && *state == 1);
            assert_eq!(!found.listeners.is_empty(), listens, "{list}");
        }
    });
}

/// Any JSON value, a few levels deep.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text(12).prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((text(8), inner), 0..6).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

#[test]
fn another_plugins_result_comes_out_to_the_letter() {
    let known =
        proptest::sample::select(vec!["interfaces", "ips", "ip4", "cniVersion", "dns", "x"]).prop_map(str::to_owned);
    let members = vec((prop_oneof![known, text(8)], json()), 0..8);
    let version = proptest::sample::select(Version::ALL.to_vec());
    for_all(
        200,
        (members, version, option::of(proptest::sample::select(Version::ALL.to_vec()))),
        |(members, version, own)| {
            let mut result: Map<String, Value> = members.into_iter().collect();
            if let Some(own) = own {
                result.insert("cniVersion".to_owned(), own.as_str().into());
            }
            let result = Value::Object(result);
            for printed in [result.to_string(), serde_json::to_string_pretty(&result).unwrap()] {
                let text = format!("{{\"cniVersion\":\"{version}\",\"name\":\"n\",\"prevResult\":{printed}}}");
                let conf = NetConf::parse(text.into_bytes(), Command::Add).unwrap();
                let given = conf.prev_result().unwrap().unwrap();
                assert_eq!(given.text(), printed);
                cni_call::result_is_passed_through(&given, version);
            }
        },
    );
}

#[test]
fn an_argument_is_the_last_of_its_name() {
    let pair = ("[A-C]", "[^;=]{0,6}");
    for_all(500, vec(pair, 0..8), |pairs| {
        let line: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let args = Args::new(OsStr::new(&line.join(";")));
        for name in ["A", "B", "C", "D"] {
            let last = pairs.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
            assert_eq!(args.get(name), last.filter(|value| !value.is_empty()), "{line:?}");
        }
    });
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let nic = (text(20), text(20), text(40), option::of(any::<u16>()), any::<[bool; 2]>()).prop_map(
        |(alias, mac, path, queues, [attached, detaching])| Nic {
            alias,
            socket: mac.clone(),
            domain: mac.clone(),
            mac,
            path,
            mtu: queues.map(u32::from),
            guest_mtu: queues.map(u32::from),
            queues,
            attached,
            detaching,
        },
    );
    let records = (text(20), text(20), text(20), text(40), option::of(nic), any::<u64>());
    for_all(500, records, |(network, container_id, ifname, pod, nic, created)| {
        let record = Record {
            format: Record::format(),
            uid: network.clone(),
            netns: PathBuf::from(&pod),
            volume: pod.clone(),
            socket_base_dir: PathBuf::from(&ifname),
            network,
            container_id,
            ifname,
            pod,
            started: created % 2 == 0,
            nic,
            device_info: None,
            keys: None,
            created,
        };
        assert_eq!(Record::parse(&serde_json::to_vec(&record).unwrap()), Ok(record));
    });
}
