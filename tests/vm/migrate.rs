//! Live migration from one pod into another, as KubeVirt's: what the target needs, what the NIC needs meanwhile.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use super::lab::{Nic, Pod, holds, lab, log, program};
use super::watch::PATIENCE;

/// A pod whose VM has a NIC that answers, and a pod without a VM that it may move into.
struct Move {
    from: Pod,
    to: Pod,
    nic: Nic,
    /// The VM's name; it keeps it.
    domain: String,
}

impl Move {
    /// `options` are those of `lab pod`, for both.
    fn new(options: &[&str]) -> Self {
        let from = Pod::new(options);
        let to = Pod::new(&[options, &["--no-vm"]].concat());
        let nic = from.add("net1").nic();
        from.ping(&nic);
        // kube-ovn gives both pods of a VM that migrates the same addresses.
        let ip = nic.address.split('/').next().unwrap();
        let file = format!("/run/kube-ovn-standin/{}/{}/net1.json", to.fact("NAMESPACE"), to.name);
        lab(&["exec", "sh", "-c", &format!("echo '{{\"mac\": \"{}\", \"ip\": \"{ip}\"}}' > {file}", nic.mac)]);
        let domain = from.fact("DOMAIN").to_owned();
        Self { from, to, nic, domain }
    }

    /// Makes kube-ovn's port and the share in the target pod.
    fn prepare(&self) {
        self.to.call("add", "net1", &json!({"attach": "never"})).succeeded();
    }

    /// Begins to migrate, with these options of `virsh migrate`.
    fn begin(&self, options: &[&str]) -> Child {
        let words = [&["migrate", &self.from.name, &self.to.name][..], options].concat();
        Command::new(program()).args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// What the pod's libvirt says that the domain does; nothing where it has none.
    fn state(&self, pod: &Pod) -> String {
        let words = ["virsh", &pod.name, "domstate", &self.domain];
        if holds(&words) { lab(&words) } else { String::new() }
    }

    /// Until the memory is on its way.
    fn until_it_runs(&self) {
        let job = || lab(&["virsh", &self.from.name, "domjobinfo", &self.domain]);
        until("the migration begins", || job().contains("Memory processed"));
    }

    /// The VM is here, and no longer there.
    fn arrived(&self) {
        assert_eq!(self.state(&self.to), "running");
        assert_eq!(self.state(&self.from), "shut off");
        self.answers();
    }

    /// The NIC, which the guest has set up already, answers through OVS-DPDK.
    fn answers(&self) {
        lab(&["exec", "ping", "-c", "3", "-i", "0.2", "-w", "10", self.nic.address.split('/').next().unwrap()]);
    }

    /// What is done on either side once the VM has arrived.
    fn settle(&self) {
        let before = lab(&["virsh", &self.to.name, "dumpxml", &self.domain]);
        assert_eq!(self.to.add("net1").nic().mac, self.nic.mac);
        assert_eq!(lab(&["virsh", &self.to.name, "dumpxml", &self.domain]), before, "the VM is not touched");
        self.to.call("check", "net1", &json!({})).succeeded();
        self.answers();
        self.from.del("net1").succeeded();
        assert_eq!(self.from.leftovers(), Vec::<String>::new());
        self.to.call("check", "net1", &json!({})).succeeded();
        self.answers();
        self.leave();
    }

    /// The NIC is unplugged where the VM is now.
    fn leave(&self) {
        self.to.del("net1").succeeded();
        assert!(!self.to.guest_has(&self.nic));
        assert_eq!(self.to.leftovers(), Vec::<String>::new());
    }
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "in vain: until {what}\n{}", log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn ended_well(mut migration: Child) {
    assert!(migration.wait().unwrap().success());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_goes_along_with_its_vm() {
    for options in [&[][..], &["--session", "--cgroup", "systemd"]] {
        let way = Move::new(options);
        way.prepare();
        // A look at the guest's clock every 2 ms; the guest takes its file along.
        way.from.guest("gap-detector 8 >/tmp/gaps 2>&1 & true");
        let pinging = ["exec", "ping", "-q", "-i", "0.02", "-c", "500", way.nic.address.split('/').next().unwrap()];
        let ping = Command::new(program()).args(pinging).stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let begun = Instant::now();
        ended_well(way.begin(&[]));
        println!("{options:?}: migrated in {:?}", begun.elapsed());
        way.arrived();
        println!("{}", lab(&["virsh", &way.to.name, "domjobinfo", &way.domain, "--completed"]));
        println!("{}", String::from_utf8_lossy(&ping.wait_with_output().unwrap().stdout));
        println!("{}", way.to.guest("cat /tmp/gaps"));
        way.settle();
    }
}

/// KubeVirt has libvirt store in the target what ran in the source, hot-plugged NICs too.
#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_that_the_migration_makes_persistent_goes_for_good() {
    let way = Move::new(&[]);
    way.prepare();
    let file = std::env::temp_dir().join(format!("{}.xml", way.from.name));
    std::fs::write(&file, lab(&["virsh", &way.from.name, "dumpxml", &way.domain, "--migratable"])).unwrap();
    let file = file.to_str().unwrap();
    ended_well(way.begin(&["--persistent", "--xml", file, "--persistent-xml", file]));
    std::fs::remove_file(file).unwrap();
    way.arrived();
    let stored = || lab(&["virsh", &way.to.name, "dumpxml", "--inactive", &way.domain]);
    assert!(stored().contains(&way.nic.mac));
    way.settle();
    assert!(!stored().contains("<interface"), "{}", stored());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_that_no_add_has_recorded_in_the_target_is_unplugged_there_all_the_same() {
    let way = Move::new(&[]);
    way.prepare();
    ended_well(way.begin(&[]));
    way.arrived();
    way.leave();
    way.from.del("net1").succeeded();
    assert_eq!(way.from.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_target_without_a_port_holds_up_the_migration_and_not_the_vm() {
    let way = Move::new(&[]);
    let mut migration = way.begin(&[]);
    until("QEMU is there", || way.state(&way.to) == "paused");
    std::thread::sleep(Duration::from_secs(3));
    assert!(migration.try_wait().unwrap().is_none(), "QEMU waits for the data plane");
    assert_eq!(way.state(&way.from), "running");
    way.answers();
    // The port may come late.
    way.prepare();
    ended_well(migration);
    way.arrived();
    way.settle();
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn while_the_vm_migrates_nothing_is_plugged_and_an_aborted_migration_leaves_all_as_it_was() {
    let way = Move::new(&[]);
    way.prepare();
    let mut migration = way.begin(&["--bandwidth", "1"]);
    way.until_it_runs();

    way.from.add("net1").succeeded();
    way.from.call("check", "net1", &json!({})).succeeded();
    let begun = Instant::now();
    let answer = way.from.call("add", "net2", &json!({"attach_timeout": 300}));
    assert_eq!(answer.code(), 11, "{answer:#?}");
    assert!(answer.json.to_string().contains("busy with a migration"), "{answer:#?}");
    assert!(begun.elapsed() < Duration::from_secs(150), "not at the deadline: {:?}", begun.elapsed());
    // libvirt keeps whoever asks there waiting.
    let answer = way.to.call("add", "net1", &json!({"attach_timeout": 3}));
    assert_eq!(answer.code(), 11, "{answer:#?}");
    way.answers();

    lab(&["virsh", &way.from.name, "domjobabort", &way.domain]);
    assert!(!migration.wait().unwrap().success());
    assert_eq!(way.state(&way.from), "running");
    until("the target is rid of the VM", || way.state(&way.to).is_empty());
    // An attach that libvirt had kept waiting would come about now.
    std::thread::sleep(Duration::from_secs(2));
    let xml = lab(&["virsh", &way.from.name, "dumpxml", &way.domain]);
    assert_eq!(xml.matches("<interface").count(), 1, "{xml}");
    way.answers();
    way.from.call("check", "net1", &json!({})).succeeded();
    way.to.del("net1").succeeded();
    assert_eq!(way.to.leftovers(), Vec::<String>::new());
    way.from.del("net2").succeeded();
    way.from.del("net1").succeeded();
    assert!(!way.from.guest_has(&way.nic));
    assert_eq!(way.from.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_del_that_meets_a_migration_ends_in_time_and_the_next_one_with_it() {
    let way = Move::new(&[]);
    way.prepare();
    let migration = way.begin(&["--bandwidth", "1"]);
    way.until_it_runs();
    let begun = Instant::now();
    let answer = way.from.call("del", "net1", &json!({"detach_timeout": 3}));
    assert_eq!(answer.code(), 11, "{answer:#?}");
    assert!(answer.json.to_string().contains("such as a migration"), "{answer:#?}");
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    way.answers();
    // The VM leaves while a DEL waits.
    std::thread::scope(|scope| {
        let del = scope.spawn(|| way.from.call("del", "net1", &json!({"detach_timeout": 60})));
        std::thread::sleep(Duration::from_secs(1));
        lab(&["virsh", &way.from.name, "migrate-setspeed", &way.domain, "1000"]);
        del.join().unwrap().succeeded();
    });
    ended_well(migration);
    assert_eq!(way.from.leftovers(), Vec::<String>::new());
    way.arrived();
    way.settle();
}
