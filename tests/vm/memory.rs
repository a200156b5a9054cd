//! The VM's memory is in more or fewer regions: what QEMU takes is plugged, and what it would refuse for ever is refused
//! before the VM is touched. How many regions there are, QEMU's own memory map says.

use std::time::{Duration, Instant};

use serde_json::json;

use super::lab::{Pod, lab};
use super::refuse::refused;

/// Memory slots of a data plane that doesn't say (VHOST_MEMORY_BASELINE_NREGIONS).
const BASELINE: usize = 8;
/// 128 of 2 MiB hold the VM's 256 MiB.
const HUGE_PAGES: usize = 128;

/// Counts the regions that QEMU shares: neighbours of one RAM block are one, also where only the rounding to pages of this
/// size makes them neighbours.
fn regions(pod: &Pod, page: u64) -> usize {
    let number = |digits: &str| u64::from_str_radix(digits, 16).unwrap();
    let mut regions: Vec<(String, u64, u64)> = Vec::new();
    for line in lab(&["vm", &pod.name, "regions"]).lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (first, last, block, offset) = (number(fields[0]), number(fields[1]), fields[2], number(fields[3]));
        // Where the block would begin, and which part of it this is.
        let base = first.wrapping_sub(offset);
        let (from, to) = (offset / page * page, (offset + (last - first) + 1).next_multiple_of(page));
        match regions.last_mut() {
            Some((name, its_base, end)) if name == block && *its_base == base && from <= *end => *end = to,
            _ => regions.push((block.to_owned(), base, to)),
        }
    }
    assert!(!regions.is_empty(), "QEMU shows no RAM");
    regions.len()
}

/// The memory slots that the lab's data plane has, as the plugin logged what it offers.
fn slots(pod: &Pod) -> usize {
    let log = lab(&["log"]);
    let offers = |line: &&str| line.contains(&pod.name) && line.contains("protocol_features=");
    let line = log.lines().rev().find(offers).unwrap_or_else(|| panic!("no figures of the data plane in\n{log}"));
    let value = |key: &str| {
        let digits = line.split_once(key)?.1.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
        Some(digits.to_owned())
    };
    value("memory_slots=").map_or(BASELINE, |slots| slots.parse().unwrap())
}

/// How often QEMU has waited for a data plane. Its log comes through virtlogd, some time later.
fn qemu_waited(pod: &Pod) -> usize {
    std::thread::sleep(Duration::from_secs(1));
    let log = lab(&["exec", "sh", "-c", &format!("cat /proc/{}/root/var/log/libvirt/qemu/*.log", pod.fact("PID"))]);
    log.matches("waiting for connection").count()
}

fn uptime(pod: &Pod) -> Duration {
    let uptime = pod.guest("cut -d ' ' -f 1 /proc/uptime");
    Duration::from_secs_f64(uptime.trim().parse().unwrap())
}

/// Plugs, pings and unplugs a NIC if QEMU takes the data plane for this VM; otherwise ADD must refuse it.
fn plug_or_refuse(pod: &Pod, page: u64, expected: usize) {
    let count = regions(pod, page);
    assert_eq!(count, expected, "{}", lab(&["vm", &pod.name, "regions"]));
    let (waited, up, since) = (qemu_waited(pod), uptime(pod), Instant::now());
    let answer = pod.add("net1");
    let slots = slots(pod);
    if count <= slots {
        let nic = answer.nic();
        pod.ping(&nic);
        pod.del("net1").succeeded();
    } else {
        assert_eq!(answer.code(), 102, "{answer:#?}");
        refused(pod, "net1", &json!({}), 102, &[&format!("in {count}"), &format!("map {slots}")]);
        assert_eq!(qemu_waited(pod), waited, "the VM was touched");
    }
    let (guest, host) = (uptime(pod).saturating_sub(up), since.elapsed());
    assert!(guest + Duration::from_secs(2) > host, "{count} regions: the guest's clock went {guest:?} in {host:?}");
    assert_eq!(pod.leftovers(), Vec::<String>::new());
    println!("{count} regions, {slots} slots: {}", if count <= slots { "plugged" } else { "refused" });
}

fn free_huge_pages() -> usize {
    let meminfo = lab(&["exec", "cat", "/proc/meminfo"]);
    let free = meminfo.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    free.and_then(|free| free.trim().parse().ok()).unwrap_or(0)
}

/// Without a VGA adapter, all of a cell is one region (the lab's VMs have none). With one, the first cell is two, unless
/// its pages are huge.
#[test]
#[ignore = "needs the lab: run tests/run"]
fn memory_in_numa_cells() {
    if free_huge_pages() >= HUGE_PAGES {
        plug_or_refuse(&Pod::new(&["--hugepages", "--vga"]), 2 << 20, 1);
    } else {
        println!("no {HUGE_PAGES} huge pages are free: one region in small pages");
        plug_or_refuse(&Pod::new(&[]), 4096, 1);
    }
    for (options, count) in [
        (&["--cells", "5"][..], 5),
        (&["--cells", "6", "--vga"], 7),
        (&["--cells", "8"], 8),
        (&["--cells", "8", "--vga"], 9),
        (&["--cells", "16"], 16),
    ] {
        plug_or_refuse(&Pod::new(options), 4096, count);
    }
}

/// One VM that gets more DIMMs between its NICs; and one that has them from the start.
#[test]
#[ignore = "needs the lab: run tests/run"]
fn memory_in_dimms() {
    let pod = Pod::new(&["--dimms", "0"]);
    let mut count = 1;
    for target in [1, 5, 7, 8, 9, 16] {
        if target > count {
            lab(&["vm", &pod.name, "dimm", &(target - count).to_string()]);
        }
        count = target;
        plug_or_refuse(&pod, 4096, count);
    }
    plug_or_refuse(&Pod::new(&["--dimms", "8"]), 4096, 9);
}
