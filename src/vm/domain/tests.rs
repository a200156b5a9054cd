use super::*;

fn domain(memory: &str, devices: &str) -> Description {
    let text = format!(
        "<domain type='qemu' id='1'><name>vm</name><vcpu placement='static' current='2'>4</vcpu>{memory}<devices>
         <controller type='pci' index='0' model='pcie-root'><alias name='pcie.0'/></controller>
         <controller type='pci' index='1' model='pcie-root-port'><alias name='pci.1'/>
           <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0' multifunction='on'/></controller>
         <controller type='pci' index='2' model='pcie-root-port'><target chassis='2' hotplug='off'/></controller>
         {devices}</devices></domain>"
    );
    Description::parse(&text).unwrap()
}

const SHARED: &str = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>";
const OURS: &str = "<interface type='vhostuser'><mac address='00:00:00:24:65:F4'/>
    <source type='unix' path='/run/vm/pod1' mode='server'/><target dev=''/><model type='virtio-non-transitional'/>
    <driver name='vhost' queues='4'/><alias name='ua-pod1'/>
    <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></interface>";

fn asked() -> Interface {
    Interface {
        mac: "00:00:00:24:65:f4".into(),
        path: "/run/vm/pod1".into(),
        model: "virtio-non-transitional".into(),
        queues: 4,
        rx_queue_size: None,
        tx_queue_size: None,
        alias: "ua-pod1".into(),
        address: None,
        iommu: false,
    }
}

#[test]
fn vcpus_and_memory_are_read_as_libvirt_means_them() {
    assert_eq!(domain(SHARED, "").vcpus, 2);
    let numa = |a: &str, b: &str| format!("<cpu><numa><cell id='0' {a}/><cell id='1' {b}/></numa></cpu>");
    let own = "memAccess='shared'";
    for (memory, shared) in [
        (SHARED.to_owned(), true),
        ("<memoryBacking><hugepages/></memoryBacking>".to_owned(), false),
        (String::new(), false),
        (numa(own, own), true),
        (numa(own, ""), false),
        (format!("{SHARED}{}", numa(own, "")), true),
        (format!("{SHARED}{}", numa(own, "memAccess='private'")), false),
    ] {
        assert_eq!(domain(&memory, "").shared_memory, shared, "{memory}");
    }
}

#[test]
fn the_same_nic_is_told_by_type_mac_and_socket() {
    let there = domain(SHARED, OURS);
    assert!(matches!(there.compare(&asked(), true), Match::Same(_)));
    let mut other_alias = asked();
    other_alias.alias = "ua-other".into();
    assert!(matches!(there.compare(&other_alias, true), Match::Same(_)));
    assert_eq!(domain(SHARED, "").compare(&asked(), true), Match::Absent);
}

#[test]
fn whatever_else_holds_alias_mac_or_socket_is_a_conflict_in_words() {
    let there = domain(SHARED, OURS);
    let edit = |change: fn(&mut Interface)| {
        let mut nic = asked();
        change(&mut nic);
        match there.compare(&nic, true) {
            Match::Conflict(text) => text,
            other => panic!("{other:?}"),
        }
    };
    assert!(edit(|nic| nic.queues = 2).contains("queues=4; requested 2"));
    assert!(edit(|nic| nic.model = "virtio".into()).contains("model=virtio-non-transitional; requested virtio:"));
    assert!(
        edit(|nic| nic.address = PciAddress::parse("02:00.0"))
            .contains("pci_address=0000:01:00.0; requested 0000:02:00.0")
    );
    assert!(edit(|nic| nic.mac = "02:00:00:00:00:01".into()).starts_with("alias ua-pod1"));
    assert!(edit(|nic| (nic.path, nic.alias) = ("/x".into(), "ua-x".into())).starts_with("MAC 00:00:00:24:65:f4"));
    assert!(edit(|nic| (nic.mac, nic.alias) = ("x".into(), "ua-x".into())).starts_with("socket /run/vm/pod1"));
    assert!(edit(|nic| (nic.mac, nic.path, nic.alias) = ("x".into(), "/x".into(), "pci.1".into())).contains("device"));
    let mut auto = asked();
    auto.queues = 1;
    assert!(matches!(there.compare(&auto, false), Match::Same(_)), "a number nobody asked for does not matter");
}

#[test]
fn a_nic_that_was_plugged_must_be_there_once() {
    assert_eq!(domain(SHARED, OURS).mismatch(&asked()), None);
    assert!(domain(SHARED, "").mismatch(&asked()).unwrap().contains("does not show it"));
    assert!(domain(SHARED, &OURS.repeat(2)).mismatch(&asked()).unwrap().contains("2 NICs"));
    let elsewhere = OURS.replace("/run/vm/pod1", "/run/vm/other");
    assert!(domain(SHARED, &elsewhere).mismatch(&asked()).unwrap().starts_with("alias ua-pod1"));
    let again = OURS.replace("/run/vm/pod1", "/run/vm/other").replace("ua-pod1", "ua-other");
    assert!(domain(SHARED, &(OURS.to_owned() + &again)).mismatch(&asked()).unwrap().contains("2 NICs"));
}

#[test]
fn a_conflict_quotes_the_tenant_within_bounds() {
    let long = "\u{202e}".repeat(40_000);
    let there = domain(SHARED, &OURS.replace("ua-pod1", &long).replace("non-transitional", &long));
    let mut asked = asked();
    let mut texts = vec![there.compare(&asked, true)];
    asked.path = "/x".into();
    texts.push(there.compare(&asked, true));
    for text in texts {
        assert!(
            matches!(&text, Match::Conflict(text) if text.len() < 8192 && !text.contains('\u{202e}')),
            "{:.300}",
            format!("{text:?}")
        );
    }
}

#[test]
fn a_nic_to_detach_needs_two_marks() {
    let there = domain(SHARED, OURS);
    let (mac, path, alias) = ("00:00:00:24:65:f4", "/run/vm/pod1", "ua-pod1");
    for (mac, path, alias, found) in [
        (Some(mac), path, alias, true),
        (None, path, alias, true),
        (Some(mac), path, "ua-x", true),
        (Some(mac), "/x", alias, true),
        (None, "/x", alias, false),
        (None, path, "ua-x", false),
        (Some("x"), "/x", alias, false),
    ] {
        assert_eq!(there.find(Target { mac, path: &path.into(), alias }).is_some(), found, "{mac:?} {path} {alias}");
    }
}

#[test]
fn obstacles_are_seen_before_libvirt_is_asked() {
    assert_eq!(domain("", "").check(&asked()), Err(Error::MemoryNotShared));
    assert_eq!(domain(SHARED, "").check(&asked()), Ok(()));
    assert_eq!(domain(SHARED, OURS).check(&asked()), Err(Error::NoFreePort), "the other port is closed");
    let mut transitional = asked();
    transitional.model = "virtio-transitional".into();
    assert_eq!(domain(SHARED, "").check(&transitional), Err(Error::NoConventionalSlot));
    let bridge = "<controller type='pci' index='3' model='pcie-to-pci-bridge'/>";
    assert_eq!(domain(SHARED, bridge).check(&transitional), Ok(()));
    let old = Description::parse(&format!(
        "<domain>{SHARED}<devices><controller type='pci' index='0' model='pci-root'/></devices></domain>"
    ));
    assert_eq!(old.unwrap().check(&asked()), Ok(()));
}

#[test]
fn the_mtu_that_qemus_arguments_give_is_that_of_the_models_nics() {
    let with = |values: &[&str]| {
        let values: String = values.iter().map(|value| format!("<qemu:arg value='{value}'/>")).collect();
        Description::parse(&format!("<domain><qemu:commandline>{values}</qemu:commandline></domain>")).unwrap()
    };
    let (ours, short) = ("virtio-non-transitional", "virtio-net-device.host_mtu=1400");
    for (values, model, mtu) in [
        (&[][..], ours, None),
        (&["-global", short], ours, Some(1400)),
        (&["-global", short], "virtio", Some(1400)),
        (&["driver=virtio-net-device,property=host_mtu,value=1300"], ours, Some(1300)),
        (&["virtio-net-pci-non-transitional.host_mtu=1400"], ours, Some(1400)),
        (&["virtio-net-pci-non-transitional.host_mtu=1400"], "virtio", None),
        (&["virtio-net-pci-transitional.host_mtu=1400"], "virtio-transitional", Some(1400)),
        (&["virtio-net-pci.host_mtu=1400"], ours, None),
        (&["virtio-net-pci.host_mtu=1400"], "virtio", Some(1400)),
        (&["virtio-net-device.host_mtu=1300", short], ours, Some(1400)),
        (&["virtio-net-device.host_mtu=x", "virtio-net-device.host_mtu="], ours, None),
    ] {
        assert_eq!(with(values).host_mtu(model), mtu, "{values:?} {model}");
    }
}

#[test]
fn an_encrypted_guest_takes_no_transitional_nic() {
    let encrypted = domain(&format!("{SHARED}<launchSecurity type='sev'/>"), "");
    assert!(encrypted.encrypted && encrypted.encrypted_pci);
    assert_eq!(encrypted.check(&asked()), Ok(()));
    let transitional = Interface { model: "virtio-transitional".into(), ..asked() };
    assert_eq!(encrypted.check(&transitional), Err(Error::EncryptedTransitional));
    let plain = domain(SHARED, "");
    assert!(!plain.encrypted && !plain.encrypted_pci);
    let s390 = domain(&format!("{SHARED}<launchSecurity type='s390-pv'/>"), "");
    assert!(s390.encrypted && !s390.encrypted_pci);
}
