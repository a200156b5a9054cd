//! What OVS's log says of its main loop.
//!
//! A line is `TIME|NUMBER|MODULE|LEVEL|MESSAGE`. Each thread numbers its messages by itself. OVS names its own threads after
//! the module, except the main one; threads of DPDK have no name there, either.

/// How many messages a thread may write between a long poll interval and what it was busy with: OVS adds its statistics.
const STATISTICS: u64 = 100;

/// What OVS logged.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Connections that ended before their device was started. OVS registers the port anew then.
    pub closed_early: usize,
    /// When the main loop stood still.
    pub stalls: Vec<Stall>,
    /// Lines that look like that, of other threads.
    pub false_alarms: usize,
}

/// A time of a second or longer in which the main loop stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// When it ended, in milliseconds of the epoch.
    pub end: u64,
    /// How long it was, in milliseconds.
    pub millis: u64,
}

struct Line<'a> {
    time: &'a str,
    number: u64,
    module: &'a str,
    message: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(5, '|');
        let (time, number, module) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
        Some(Self { time, number, module, message: parts.nth(1)? })
    }

    /// The milliseconds of "Unreasonably long 1001ms poll interval (0ms user, 3ms system)".
    fn poll_interval(&self) -> Option<u64> {
        self.message.strip_prefix("Unreasonably long ")?.split_once("ms poll interval")?.0.parse().ok()
    }
}

/// Reads these lines of the log.
pub fn read(lines: &[&str]) -> Said {
    let lines: Vec<Line<'_>> = lines.iter().filter_map(|line| Line::parse(line)).collect();
    let mut said = Said::default();
    for (index, line) in lines.iter().enumerate() {
        said.closed_early += usize::from(line.message.ends_with("closed during initialization."));
        match line.poll_interval() {
            Some(_) if is_a_removal_and_no_stall(&lines, index) => said.false_alarms += 1,
            Some(millis) => said.stalls.push(Stall { end: epoch(line.time).unwrap_or_default(), millis }),
            None => {}
        }
    }
    said
}

/// Returns true if this long poll interval is that of DPDK's vhost thread, which removes a device.
///
/// OVS measures the time between two calls of its poll function in every thread. DPDK's thread calls it only when a device
/// is removed (`destroy_device` waits for other threads, `ovsrcu_synchronize`). Then the interval is the time since the last
/// removal, and nothing stood still. By the thread's own numbers, the message before it is about a front end's messages or
/// end, and the one after it, and after OVS's statistics, says that the device is gone.
fn is_a_removal_and_no_stall(lines: &[Line<'_>], index: usize) -> bool {
    let Line { number, module, .. } = lines[index];
    if module.contains('(') {
        return false;
    }
    let begun = lines[..index].iter().rev().take(50).any(|line| line.number + 1 == number && is_of_vhost_thread(line));
    let ends = |line: &Line<'_>| line.message.ends_with("has been removed");
    let ended = |line: &Line<'_>| (number + 1..=number + STATISTICS).contains(&line.number) && ends(line);
    begun && lines[index..].iter().take(200).any(ended)
}

/// Returns true if only DPDK's vhost thread writes such a message. Most often it is "vhost peer closed" or a request; OVS
/// limits the rate of DPDK's messages, and may drop these. The main loop removes devices, too, after "free connfd".
fn is_of_vhost_thread(line: &Line<'_>) -> bool {
    let words = ["vhost peer closed", "read message VHOST_USER_", "vring base idx:", "has been added on numa node"];
    ["dpdk", "netdev_dpdk"].contains(&line.module) && words.iter().any(|words| line.message.contains(words))
}

/// Milliseconds of the epoch at such a time: "2026-11-27T19:43:11.657Z".
fn epoch(time: &str) -> Option<u64> {
    let numbers = time.strip_suffix('Z')?.split(['-', 'T', ':', '.']).map(|part| part.parse::<u64>().ok());
    let [year, month, day, hour, minute, second, millis] = numbers.collect::<Option<Vec<_>>>()?[..] else {
        return None;
    };
    // A year that begins in March ends with its leap day.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    // 1970-01-01, counted so.
    let days = days.checked_sub(719_469)?;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest's end, as OVS 3.5 logs it; some statistics and part of the paths left out.
    const GUEST_ENDED: &str = "\
2026-11-27T19:43:10.911Z|00141|dpif_netdev|INFO|Core  1 on numa node 0 assigned port '994940ad_net1_h' rx queue 1 (measured processing cycles 0).
2026-11-27T19:43:11.657Z|00158|dpdk|INFO|VHOST_CONFIG: (/var/run/openvswitch/vhost_sockets/net1) vhost peer closed
2026-11-27T19:43:11.657Z|00159|timeval|WARN|Unreasonably long 1118ms poll interval (2ms user, 0ms system)
2026-11-27T19:43:11.657Z|00160|timeval|WARN|faults: 20 minor, 0 major
2026-11-27T19:43:11.657Z|00162|coverage|INFO|Event coverage, avg rate over last: 5 seconds, last minute, last hour,  hash=971ed91f:
2026-11-27T19:43:11.657Z|00163|coverage|INFO|bridge_reconfigure         0.2/sec     0.167/sec        0.0028/sec   total: 10
2026-11-27T19:43:11.661Z|00211|netdev_dpdk|INFO|vHost Device '/var/run/openvswitch/vhost_sockets/net1' has been removed
2026-11-27T19:43:11.661Z|00212|netdev_dpdk|INFO|vHost Device '/var/run/openvswitch/vhost_sockets/net1' connection has been destroyed
2026-11-27T19:43:11.665Z|00142|dpif_netdev|INFO|Performing pmd to rx queue assignment using cycles algorithm.";

    /// A NIC that was unplugged.
    const NIC_STOPPED: &str = "\
2026-11-27T19:44:01.144Z|00226|dpdk|INFO|VHOST_CONFIG: (/var/run/openvswitch/vhost_sockets/pod59cc33fa39b) read message VHOST_USER_GET_VRING_BASE
2026-11-27T19:44:01.144Z|00227|timeval|WARN|Unreasonably long 1562ms poll interval (0ms user, 4ms system)
2026-11-27T19:44:01.144Z|00228|timeval|WARN|faults: 28 minor, 0 major
2026-11-27T19:44:01.144Z|00229|timeval|WARN|context switches: 41 voluntary, 2 involuntary
2026-11-27T19:44:01.147Z|00230|netdev_dpdk|INFO|vHost Device '/var/run/openvswitch/vhost_sockets/pod59cc33fa39b' has been removed";

    /// The probe's device, whose end OVS 3.1 did not log: its messages were too many.
    const END_DROPPED: &str = "\
2026-11-27T20:21:21.806Z|02429|dpdk|INFO|VHOST_CONFIG: (/var/run/openvswitch/vhost_sockets/net1) read message VHOST_USER_SET_OWNER
2026-11-27T20:21:21.807Z|02430|netdev_dpdk|INFO|vHost Device '/var/run/openvswitch/vhost_sockets/net1' has been added on numa node 0
2026-11-27T20:21:21.808Z|00434|dpif_netdev|INFO|Performing pmd to rx queue assignment using cycles algorithm.
2026-11-27T20:21:21.808Z|02431|timeval|WARN|Unreasonably long 1326ms poll interval (1ms user, 1ms system)
2026-11-27T20:21:21.808Z|02432|timeval|WARN|faults: 4 minor, 0 major
2026-11-27T20:21:21.808Z|02433|timeval|WARN|context switches: 28 voluntary, 24 involuntary
2026-11-27T20:21:21.819Z|02434|netdev_dpdk|INFO|vHost Device '/var/run/openvswitch/vhost_sockets/net1' has been removed
2026-11-27T20:21:21.875Z|02436|dpdk|INFO|Dropped 43 log messages in last 0 seconds (most recently, 0 seconds ago) due to excessive rate";

    /// A connection that was hung up too early: the port was registered anew, which took a second.
    const REGISTERED_ANEW: &str = "\
2026-11-27T19:39:19.907Z|00001|dpdk|INFO|VHOST_CONFIG: (/var/run/openvswitch/vhost_sockets/net1) vhost peer closed
2026-11-27T19:39:19.907Z|00002|netdev_dpdk|WARN|Connection on socket '/var/run/openvswitch/vhost_sockets/net1' closed during initialization.
2026-11-27T19:39:19.907Z|00003|netdev_dpdk|INFO|vHost Device '/var/run/openvswitch/vhost_sockets/net1' connection has been destroyed
2026-11-27T19:39:20.908Z|00094|netdev_dpdk|INFO|vHost User device '51c83144_net1_h' created in 'client' mode, using client socket '/var/run/openvswitch/vhost_sockets/net1'
2026-11-27T19:39:20.909Z|00098|dpif_netdev|INFO|Core  1 on numa node 0 assigned port '51c83144_net1_h' rx queue 0 (measured processing cycles 0).
2026-11-27T19:39:20.911Z|00099|timeval|WARN|Unreasonably long 1005ms poll interval (0ms user, 3ms system)
2026-11-27T19:39:20.911Z|00100|timeval|WARN|faults: 1 minor, 0 major";

    const STALL: Stall = Stall { end: 1_795_808_360_911, millis: 1005 };

    fn said(text: &str) -> Said {
        read(&text.lines().collect::<Vec<_>>())
    }

    #[test]
    fn a_removal_of_a_device_is_no_stall() {
        for text in [GUEST_ENDED, NIC_STOPPED, END_DROPPED] {
            assert_eq!(said(text), Said { false_alarms: 1, ..Said::default() });
        }
    }

    #[test]
    fn a_port_that_is_registered_anew_is_a_stall() {
        assert_eq!(said(REGISTERED_ANEW), Said { closed_early: 1, stalls: vec![STALL], false_alarms: 0 });
    }

    #[test]
    fn a_stall_is_found_among_removals() {
        let all = [GUEST_ENDED, REGISTERED_ANEW, NIC_STOPPED].join("\n");
        assert_eq!(said(&all), Said { closed_early: 1, stalls: vec![STALL], false_alarms: 2 });
    }

    #[test]
    fn without_a_removal_before_and_after_it_an_interval_is_a_stall() {
        let lines: Vec<&str> = NIC_STOPPED.lines().collect();
        for part in [&lines[1..], &lines[..lines.len() - 1]] {
            assert_eq!(read(part).stalls[0].millis, 1562);
        }
        let named = NIC_STOPPED.replace("|timeval|", "|timeval(urcu1)|");
        assert_eq!(said(&named).stalls[0].millis, 1562);
    }

    #[test]
    fn times_are_of_the_epoch() {
        assert_eq!(epoch("1970-01-01T00:00:00.001Z"), Some(1));
        assert_eq!(epoch("2024-02-29T23:59:59.999Z"), Some(1_709_251_199_999));
        assert_eq!(epoch("2026-11-27T19:39:20.911Z"), Some(STALL.end));
        assert_eq!(epoch("yesterday"), None);
    }
}
