//! A data plane that is not OVS: DPDK's testpmd. It has no port in OVS, and nobody asks OVSDB for it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::lab::{Answer, Nic, Pod, holds, lab};
use super::watch::{Watch, assert_ran_on, monitor_answers, until, watched};

/// The NIC whose data plane testpmd is.
const IFNAME: &str = "net2";

/// testpmd beside a pod that has a share; it ends with this value.
struct Testpmd<'a> {
    pod: &'a Pod,
    /// What the ADD answered that made the share.
    share: Value,
}

impl<'a> Testpmd<'a> {
    /// Makes the share; testpmd does not run yet.
    fn beside(pod: &'a Pod) -> Self {
        let answer = pod.call("add", "net1", &json!({"attach": "never"}));
        answer.succeeded();
        Self { pod, share: answer.json }
    }

    fn start(&self) {
        lab(&[
            "testpmd",
            &format!("/run/openvswitch/vhost_sockets/{}/vhostuser-sockets/{IFNAME}", self.pod.fact("POD_UID")),
        ]);
    }

    fn call(&self, command: &str, keys: &Value) -> Answer {
        self.pod.call_plugin_alone(command, IFNAME, keys, &self.share)
    }

    /// Removes the share; nothing may be left.
    fn end(self) {
        self.pod.del("net1").succeeded();
        assert_eq!(self.pod.leftovers(), Vec::<String>::new());
    }

    /// The packets that testpmd has received from the guest.
    fn received(&self) -> u64 {
        let text = lab(&["testpmd-command", "show", "port", "stats", "0"]);
        let count = text.split("RX-packets:").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        count.unwrap_or_else(|| panic!("{text}"))
    }

    /// Has the guest ping through the NIC. testpmd answers for every address, ARP too.
    fn ping(&self, nic: &Nic) {
        let (mac, address) = (&nic.mac, &nic.address);
        let before = self.received();
        let script = format!(
            "n=$(nic {mac}) && ip addr replace {address} dev $n && ip link set $n up && ping -c 3 -w 10 -I $n 172.18.0.1"
        );
        self.pod.guest(&script);
        let count = self.received() - before;
        assert!(count >= 3, "{count} packets");
    }

    /// Whether the guest sees a link.
    fn has_link(&self, nic: &Nic) -> bool {
        holds(&["guest", &self.pod.name, &format!("[ $(cat /sys/class/net/$(nic {})/carrier) = 1 ]", nic.mac)])
    }

    /// Whether the VM has a NIC.
    fn is_plugged(&self) -> bool {
        lab(&["virsh", &self.pod.name, "dumpxml", self.pod.fact("DOMAIN")]).contains("<interface")
    }
}

impl Drop for Testpmd<'_> {
    fn drop(&mut self) {
        let _ = holds(&["testpmd-kill"]);
    }
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_is_plugged_used_and_unplugged_without_a_stop() {
    let pod = Pod::new(&[]);
    let testpmd = Testpmd::beside(&pod);
    testpmd.start();
    for keys in [json!({"queues": 1}), json!({"queues": 2})] {
        let add = || testpmd.call("add", &keys).nic();
        let (nic, longest) = watched(&pod, add, || testpmd.call("del", &keys).succeeded());
        assert_ran_on(&pod, longest, "plugged");
        testpmd.ping(&nic);
        testpmd.call("check", &keys).succeeded();

        let watch = Watch::begin(&pod, 3);
        testpmd.call("del", &keys).succeeded();
        assert_ran_on(&pod, watch.longest(), "unplugged");
        assert!(!pod.guest_has(&nic));
    }
    testpmd.end();
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_works_again_when_a_data_plane_that_was_killed_is_back() {
    let pod = Pod::new(&[]);
    let testpmd = Testpmd::beside(&pod);
    testpmd.start();
    let nic = testpmd.call("add", &json!({})).nic();
    testpmd.ping(&nic);
    let watch = Watch::begin(&pod, 3);
    lab(&["testpmd-kill"]);
    assert_ran_on(&pod, watch.longest(), "testpmd killed");
    assert!(!testpmd.has_link(&nic), "the guest must see that its data plane is gone");
    testpmd.start();
    until("the link comes back", || testpmd.has_link(&nic));
    testpmd.ping(&nic);
    testpmd.call("check", &json!({})).succeeded();
    testpmd.call("del", &json!({})).succeeded();
    testpmd.end();
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn without_it_nothing_is_touched_and_the_next_add_succeeds() {
    let pod = Pod::new(&[]);
    let testpmd = Testpmd::beside(&pod);
    for stop in ["testpmd-kill", "testpmd-pause"] {
        testpmd.start();
        lab(&[stop]);
        let watch = Watch::begin(&pod, 8);
        let begun = Instant::now();
        let answer = testpmd.call("add", &json!({"attach_timeout": 8}));
        assert_eq!(answer.code(), 11, "{answer:#?}");
        assert!(
            answer.json.to_string().contains("No data plane connected to /var/run/openvswitch/vhost_sockets"),
            "{answer:#?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
        assert!(monitor_answers(&pod));
        assert_ran_on(&pod, watch.longest(), stop);
        assert!(!testpmd.is_plugged());
        if stop == "testpmd-pause" {
            lab(&["testpmd-cont"]);
        } else {
            testpmd.start();
        }
        let nic = testpmd.call("add", &json!({})).nic();
        testpmd.ping(&nic);
        testpmd.call("del", &json!({})).succeeded();
        lab(&["testpmd-stop"]);
    }
    testpmd.end();
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_is_unplugged_in_time_though_it_hangs() {
    let pod = Pod::new(&[]);
    let testpmd = Testpmd::beside(&pod);
    testpmd.start();
    let nic = testpmd.call("add", &json!({})).nic();
    testpmd.ping(&nic);
    lab(&["testpmd-pause"]);
    let watch = Watch::begin(&pod, 5);
    let begun = Instant::now();
    testpmd.call("del", &json!({})).succeeded();
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert_ran_on(&pod, watch.longest(), "testpmd stopped");
    assert!(!pod.guest_has(&nic) && monitor_answers(&pod));
    testpmd.end();
}
