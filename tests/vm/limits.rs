//! Calls in a cgroup with the limits that Multus has as it is shipped, beside a process that computes.

use super::lab::{Pod, lab};
use super::watch::{Watch, assert_ran_on};
use support::limited::Limited;

#[test]
#[ignore = "needs the lab: run tests/run"]
fn a_nic_comes_and_goes_under_the_limits_of_multus() {
    let mut group = Limited::new();
    group.keep_busy();
    let pod = Pod::new(&[]);
    let begins = lab(&["log"]).lines().count();
    let watch = Watch::begin(&pod, 20);
    let nic = pod.call_in(&group, "add", "net1").nic();
    pod.ping(&nic);
    pod.call_in(&group, "del", "net1").succeeded();
    let longest = watch.longest();
    assert_ran_on(&pod, longest, "under the limits of Multus");
    let log = lab(&["log"]);
    for verb in ["ADD", "DEL"] {
        let of_verb = format!(": {verb} ");
        let lines: Vec<&str> = log.lines().skip(begins).filter(|line| line.contains(&of_verb)).collect();
        for limit in group.limits() {
            let left = lines.iter().any(|line| line.contains("left cgroup") && line.contains(limit));
            assert!(left, "{verb} has not left {limit}: {lines:#?}");
        }
    }
    assert!(group.throttled() > 0, "the cgroup was not limited");
    assert_eq!(group.oom_kills(), 0);
    assert_eq!(pod.leftovers(), Vec::<String>::new());
}
