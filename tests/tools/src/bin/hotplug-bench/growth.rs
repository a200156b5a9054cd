//! Whether a busy node, or a VM with many NICs, makes plugging and unplugging dearer.
//!
//! The scenes are made in the lab's node by this program, started there once more: a process of the node can make mounts and
//! processes of the node, and time the plugin without a script in between.

use std::fmt::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::inside::{self, Pod, Took};
use crate::lab::Bench;
use tools::bars::{Bar, Chart};
use tools::crowd::{Mounts, Pods, Processes};
use tools::figures::Sorted;

/// NICs in the VM, with the one that is measured. OVS-DPDK takes 32 such ports.
const NICS: [usize; 4] = [1, 8, 16, 32];

/// The NIC that is measured.
const IFNAME: &str = "net1";

/// One scene: what there is how much of, and what plugging and unplugging take there, in ms.
pub struct Point {
    what: String,
    size: u64,
    add: Sorted,
    del: Sorted,
    attach: Sorted,
    reconnect: Sorted,
    detach: Sorted,
}

/// Measures in every scene, so often.
pub fn measure(bench: &Bench, rounds: u32) -> Vec<Point> {
    if rounds == 0 {
        return Vec::new();
    }
    let mut points = in_node(bench, "node", rounds);
    let many = Bench::new("many", &["--vcpus", "2", "--ports", &NICS[NICS.len() - 1].to_string()], 2);
    points.extend(in_node(&many, "nics", rounds));
    many.end();
    points
}

/// Has this program do a part of it in the node.
fn in_node(bench: &Bench, part: &str, rounds: u32) -> Vec<Point> {
    let measured = inside::run(bench, json!({"part": part, "rounds": rounds}));
    let points = measured.as_array().unwrap_or_else(|| panic!("no points: {measured}"));
    let column = |point: &Value, key: &str| {
        let values = point[key].as_array().unwrap_or_else(|| panic!("no {key}: {point}"));
        Sorted::new(values.iter().filter_map(Value::as_f64).collect())
    };
    let point = |point: &Value| Point {
        what: point["with"].as_str().unwrap().to_owned(),
        size: point["size"].as_u64().unwrap(),
        add: column(point, "add"),
        del: column(point, "del"),
        attach: column(point, "attach"),
        reconnect: column(point, "reconnect"),
        detach: column(point, "detach"),
    };
    points.iter().map(point).collect()
}

/// That part, in the node; what was measured.
pub fn run_inside(part: &str, rounds: u64, pod: Pod) -> Value {
    let mut scenes = Scenes { pod, rounds, points: Vec::new() };
    match part {
        "node" => scenes.node(),
        _ => scenes.nics(),
    }
    scenes.points.into()
}

struct Scenes {
    pod: Pod,
    rounds: u64,
    points: Vec<Value>,
}

impl Scenes {
    fn node(&mut self) {
        // Nothing is in memory yet.
        self.pod.measure(IFNAME, 0);
        let kubelet = Path::new("/var/lib/kubelet");
        for size in [1, 100, 1000] {
            let _there = Pods::beside_one(kubelet, size);
            self.point("pods", size, 0);
        }
        let mounts = Path::new("/run/hotplug-bench");
        for size in [10, 1000, 10_000] {
            let _there = Mounts::below(mounts, size);
            self.point("mounts", size, 0);
        }
        for size in [10, 1000, 10_000] {
            let _there = Processes::start(size);
            self.point("processes", size, 0);
        }
        for size in [10, 1000, 10_000] {
            let _there = unix_sockets(size);
            self.point("unix sockets", size, 0);
        }
        for size in [1 << 10, 1 << 15, 1 << 20] {
            self.point("bytes of prevResult", size, size);
        }
    }

    fn nics(&mut self) {
        self.pod.measure(IFNAME, 0);
        let mut others = Vec::new();
        for size in NICS {
            while others.len() + 1 < size {
                let ifname = format!("more{}", others.len());
                others.push((self.pod.plug(&ifname), ifname));
            }
            self.point("NICs in the VM", size, 0);
        }
        for (result, ifname) in others.iter().rev() {
            self.pod.unplug(ifname, result);
        }
    }

    fn point(&mut self, what: &str, size: usize, result: usize) {
        let took: Vec<Took> = (0..self.rounds).map(|_| self.pod.measure(IFNAME, result)).collect();
        let own = |verb: usize| took.iter().map(|took| took.own[verb]).collect::<Vec<_>>();
        let wait = |which: usize| took.iter().map(|took| took.waits[which]).collect::<Vec<_>>();
        self.points.push(json!({
            "with": what, "size": size, "add": own(0), "del": own(1), "attach": wait(0), "reconnect": wait(1),
            "detach": wait(2),
        }));
        eprintln!("growth: {size} {what}");
    }
}

/// Unix sockets of the node: connected pairs.
fn unix_sockets(wanted: usize) -> Vec<(UnixStream, UnixStream)> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("setrlimit");
    (0..wanted / 2).map(|_| UnixStream::pair().expect("a pair of sockets")).collect()
}

/// The scenes, one a line.
pub fn text(points: &[Point]) -> String {
    if points.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\n| with | | ADD, own work, ms: median | max | x the first of its kind | attach | reconnect | \
         DEL, own work, ms: median | max | x the first of its kind | detach |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for point in points {
        let first = points.iter().find(|other| other.what == point.what).expect("at least itself");
        let own = |own: &Sorted, first: &Sorted| {
            let (median, max) = (own.median(), own.quantile(1.0));
            format!("{median:.1} | {max:.1} | {:.2}", median / first.median())
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.1} | {:.1} | {} | {:.1} |",
            point.what,
            point.size,
            own(&point.add, &first.add),
            point.attach.median(),
            point.reconnect.median(),
            own(&point.del, &first.del),
            point.detach.median(),
        );
    }
    text
}

/// Every value.
pub fn json(points: &[Point]) -> Value {
    let point = |point: &Point| {
        json!({
            "with": point.what, "size": point.size, "add_own_ms": point.add.values(), "del_own_ms": point.del.values(),
            "attach_ms": point.attach.values(), "reconnect_ms": point.reconnect.values(),
            "detach_ms": point.detach.values(),
        })
    };
    points.iter().map(point).collect()
}

/// The own work in each scene.
pub fn chart(points: &[Point]) -> Chart {
    let bars = points.iter().enumerate().map(|(index, point)| {
        let (add, del) = (point.add.median(), point.del.median());
        Bar {
            name: format!("{} {}", point.size, point.what),
            values: [add, del],
            words: format!("{add:.1} ms, DEL {del:.1} ms"),
            is_ours: true,
            is_apart: index > 0 && points[index - 1].what != point.what,
        }
    });
    let title = "The plugin's own work on a busy node: ADD (full) and DEL (pale), medians in ms";
    Chart { title: title.to_owned(), bars: bars.collect() }
}
