//! Plugged, pinged, unplugged.

use serde_json::json;

use super::lab::{Pod, lab};

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_is_plugged_pinged_and_unplugged_with_one_queue_and_with_four() {
    let pod = Pod::new(&["--vcpus", "4"]);
    for (keys, queues) in [(json!({"queues": 1}), 1), (json!({"queues": 4}), 4), (json!({}), 4)] {
        let nic = pod.call("add", "pod59cc33fa39b", &keys).nic();
        assert!(pod.guest_has(&nic), "no NIC with {} in the guest", nic.mac);
        let xml = lab(&["virsh", &pod.name, "dumpxml", pod.fact("DOMAIN")]);
        // libvirt does not write a number of queues that is one.
        let driver = if queues == 1 { "<driver name='vhost'/>" } else { "<driver name='vhost' queues='4'/>" };
        for part in [driver, "<alias name='ua-pod59cc33fa39b'/>", "virtio-non-transitional", "mode='server'"] {
            assert!(xml.contains(part), "{part} is not in\n{xml}");
        }
        let seen = pod.guest(&format!("ls -d /sys/class/net/$(nic {})/queues/rx-* | wc -l", nic.mac));
        assert_eq!(seen, queues.to_string(), "queues that the guest sees");
        pod.ping(&nic);

        pod.call("check", "pod59cc33fa39b", &keys).succeeded();
        pod.call("del", "pod59cc33fa39b", &keys).succeeded();
        assert!(!pod.guest_has(&nic), "the guest still has it");
        assert_eq!(pod.leftovers(), Vec::<String>::new());
    }
    let persistent = lab(&["virsh", &pod.name, "dumpxml", "--inactive", pod.fact("DOMAIN")]);
    assert!(!persistent.contains("<interface"), "nothing was made persistent");
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn two_nics_of_a_pod_live_apart_and_every_call_may_be_repeated() {
    let pod = Pod::new(&[]);
    let (one, two) = ("pod59cc33fa39b", "pod0123456789a");
    let first = pod.add(one).nic();
    let second = pod.add(two).nic();
    pod.ping(&first);
    pod.ping(&second);

    let before = lab(&["virsh", &pod.name, "dumpxml", pod.fact("DOMAIN")]);
    pod.add(one).succeeded();
    assert_eq!(
        lab(&["virsh", &pod.name, "dumpxml", pod.fact("DOMAIN")]),
        before,
        "a repeated ADD does not touch the VM"
    );
    pod.ping(&first);

    pod.del(one).succeeded();
    assert!(!pod.guest_has(&first) && pod.guest_has(&second));
    pod.ping(&second);
    pod.call("check", two, &json!({})).succeeded();
    pod.del(one).succeeded();
    pod.del(two).succeeded();
    pod.del(two).succeeded();
    assert!(!pod.guest_has(&second));
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_directory_without_the_mount_as_kube_ovn_leaves_it_is_mended() {
    let pod = Pod::new(&[]);
    lab(&["exec", "mkdir", "-p", &format!("/run/openvswitch/vhost_sockets/{}/vhostuser-sockets", pod.fact("POD_UID"))]);
    let nic = pod.add("net1").nic();
    pod.ping(&nic);
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn kubevirts_daemon_of_an_ordinary_user_is_found_and_used() {
    let pod = Pod::new(&["--session", "--cgroup", "systemd"]);
    let nic = pod.add("net1").nic();
    pod.ping(&nic);
    let xml = lab(&["virsh", &pod.name, "dumpxml", pod.fact("DOMAIN")]);
    assert!(xml.contains("path='/run/vm/dpdk/net1'"), "{xml}");
    pod.call("check", "net1", &json!({})).succeeded();
    pod.del("net1").succeeded();
    assert!(!pod.guest_has(&nic));
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn libvirt_9_will_do_and_a_pod_without_cgroups_too() {
    let pod = Pod::new(&["--libvirt", "9", "--cgroup", "none"]);
    assert!(lab(&["virsh", &pod.name, "version", "--daemon"]).contains("9.0.0"));
    let nic = pod.add("net1").nic();
    pod.ping(&nic);
    pod.del("net1").succeeded();
    assert!(!pod.guest_has(&nic));
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_qemu_that_libvirt_put_outside_the_pods_cgroup_is_found() {
    let pod = Pod::new(&[]);
    // As a libvirt does that sees the host's cgroups.
    let facts = lab(&["info", &pod.name]);
    let qemu = facts.lines().find_map(|line| line.strip_prefix("QEMU_PID=")).unwrap();
    let marks = |pid: &str| lab(&["exec", "cat", &format!("/proc/{pid}/cgroup")]).matches(pod.fact("POD_UID")).count();
    assert!(marks(qemu) > 0);
    let roots = "awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts";
    lab(&["exec", "sh", "-c", &format!("for root in $({roots}); do echo {qemu} >$root/cgroup.procs; done")]);
    assert_eq!((marks(qemu), marks(pod.fact("PID")) > 0), (0, true));
    let nic = pod.add("net1").nic();
    pod.ping(&nic);
    pod.call("check", "net1", &json!({})).succeeded();
    pod.del("net1").succeeded();
    assert!(!pod.guest_has(&nic));
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}
