//! Native PCIe hot-plug: a button, and an indicator that blinks for five seconds, in which a second press cancels.

use std::time::{Duration, Instant};

use serde_json::json;

use super::lab::{Nic, Pod};
use super::watch::PATIENCE;

/// The NIC, once the guest has it: its slot may be blinking first.
fn plugged(pod: &Pod) -> Nic {
    let nic = pod.add("net1").nic();
    let end = Instant::now() + PATIENCE;
    while !pod.guest_has(&nic) {
        assert!(Instant::now() < end, "{}", slots(pod));
    }
    nic
}

/// What the guest's driver of the slots said since it was asked last.
fn slots(pod: &Pod) -> String {
    pod.guest("dmesg -c | grep 'pciehp: Slot' || true")
}

/// The guest was asked once and let go: no second press reached the slot's button.
fn was_pressed_once(pod: &Pod) {
    let said = slots(pod);
    assert_eq!(said.matches("Attention button pressed").count(), 1, "{said}");
    assert_eq!(said.matches("Powering off due to button press").count(), 1, "{said}");
    assert!(!said.to_lowercase().contains("cancel"), "{said}");
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_is_plugged_and_unplugged() {
    let pod = Pod::new(&["--native-hotplug"]);
    let nic = plugged(&pod);
    assert!(slots(&pod).contains("Attention button pressed"), "the slot's own driver plugs it, not ACPI's");
    pod.ping(&nic);
    let begun = Instant::now();
    pod.del("net1").succeeded();
    assert!(begun.elapsed() >= Duration::from_secs(5), "the slot's indicator blinks for 5 s: {:?}", begun.elapsed());
    assert!(!pod.guest_has(&nic));
    assert_eq!(pod.leftovers(), Vec::<String>::new());
    was_pressed_once(&pod);
}

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_del_that_is_repeated_while_the_indicator_blinks_does_not_cancel_the_removal() {
    let pod = Pod::new(&["--native-hotplug"]);
    let nic = plugged(&pod);
    pod.ping(&nic);
    slots(&pod);
    let mut refused = 0;
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = pod.call("del", "net1", &json!({"detach_timeout": 1}));
        if answer.ok {
            break;
        }
        assert_eq!(answer.code(), 11, "{answer:#?}");
        assert!(Instant::now() < end, "{}", slots(&pod));
        let words = answer.json.to_string();
        refused += u32::from(words.contains("in the process of unplug") || words.contains("indicator blinking"));
    }
    assert!(refused >= 2, "only {refused} DELs came while the guest was at it");
    assert!(!pod.guest_has(&nic));
    assert_eq!(pod.leftovers(), Vec::<String>::new());
    was_pressed_once(&pod);
}

/// A slot that has just been filled may blink too, and takes no request then.
#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_del_right_after_the_add_waits_for_the_slot() {
    let pod = Pod::new(&["--native-hotplug"]);
    for _ in 0..3 {
        let nic = pod.add("net1").nic();
        pod.del("net1").succeeded();
        assert!(!pod.guest_has(&nic), "{}", slots(&pod));
        assert_eq!(pod.leftovers(), Vec::<String>::new());
    }
    let nic = plugged(&pod);
    pod.ping(&nic);
    pod.del("net1").succeeded();
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}
