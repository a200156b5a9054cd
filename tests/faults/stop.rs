//! SIGSTOP of libvirtd, QEMU or the data plane at every step of ADD and of DEL, as a debugger, a frozen cgroup or a node that
//! is out of memory would have it. The call's own deadline is short, so that it answers while its partner is stopped. What
//! follows then (a DEL, an ADD, nothing) meets a partner that is still stopped; then all go on.
//!
//! No success may be said that is not so, neither then nor later; the VM must not stand still once all go on; and in the end
//! nothing is left.
//!
//! The steps are found as in `kill.rs`. strace(1) stops the plugin just after a system call of its; that is when its partner
//! is stopped, and the plugin goes on.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::libvirt::{client, nics};
use support::patience::{output, until};
use support::scene::{STEPS, Scene, every_way, short};
use support::signals::{go_on, send};
use support::strace::{Point, Stopping, points};
use support::{Call, Node, Pod, answer};
use vhostuser_hotplug::libvirt::Xml;

/// How many pods are worked on at once: a trial waits for a deadline most of its time.
const WORKERS: usize = 24;

/// How often DEL is repeated at most once all go on.
const DELS: usize = 10;

/// The deadline of what follows a call that was hit, in seconds.
fn shorter() -> u64 {
    short() / 2
}

/// How long is waited for what comes by itself once all go on; only a verdict of "never" waits for so long.
fn ever() -> Duration {
    Duration::from_secs(15 * short())
}

/// The libvirts: with the first, reading the XML waits for an attach that is under way; with the second it does not.
const LIBVIRTS: [u64; 2] = [11_003_000, 9_000_000];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Libvirtd,
    Qemu,
    DataPlane,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    Del,
    Add,
    Nothing,
}

#[derive(Clone, Debug)]
struct Trial<'a> {
    point: &'a Point,
    libvirt: u64,
    victim: Victim,
    then: Then,
}

impl Victim {
    fn stop(self, scene: &Scene) {
        let pid = match self {
            Self::Libvirtd => scene.double.libvirtd,
            Self::Qemu => scene.double.qemu(),
            Self::DataPlane => scene.plane.pid(),
        };
        send("STOP", pid);
        until("the victim stops", || is_stopped(pid));
    }

    fn go_on(self, scene: &Scene) {
        match self {
            Self::Libvirtd => go_on(scene.double.child.id()),
            Self::Qemu => send("CONT", scene.double.qemu()),
            Self::DataPlane => scene.plane.go_on_all(),
        }
    }
}

fn is_stopped(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") T ")
}

/// The same call with so many seconds for it.
fn within(call: Call, seconds: u64) -> Call {
    call.set("attach_timeout", json!(seconds)).set("detach_timeout", json!(seconds))
}

/// Waits until libvirtd and QEMU have done all that any call has asked of them. False if the VM waits for a back end, and no
/// end of that is in sight.
fn settled(scene: &Scene) -> bool {
    // A client that comes last is accepted last: whoever connected before it is in the log then.
    drop(client(&scene.pod));
    let log = scene.double.log();
    let numbers = |key: &str, log: &[Value]| -> BTreeSet<u64> {
        log.iter().filter(|line| !line[key].is_null()).filter_map(|line| line["connection"].as_u64()).collect()
    };
    let all = numbers("call", &log);
    let begun = Instant::now();
    while begun.elapsed() < ever() {
        let ended = numbers("ended", &scene.double.log());
        let waits = scene.double.vm_waits();
        if !waits && all.is_subset(&ended) {
            return true;
        }
        if waits && !scene.node.is_shared(&scene.pod.uid) {
            // No data plane will ever get to where QEMU listens.
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

/// What was said last holds, and goes on to hold.
fn holds(scene: &Scene, command: &str) {
    match command {
        "ADD" => {
            assert_eq!(nics(&scene.pod, Xml::Live), ["ua-net1"], "ADD said that the NIC is there");
            scene.run("CHECK");
        }
        _ => scene.is_clean(),
    }
}

/// Once all go on: nothing waits, what was said is so, and DEL ends it.
fn ends_well(scene: &Scene, claim: Option<&str>) {
    assert!(settled(scene), "the VM stands still after {claim:?} {:?}", tail(scene));
    if let Some(claim) = claim {
        holds(scene, claim);
    }
    let dels = (1..=DELS).find(|_| within(scene.call("DEL"), 5 * short()).run(&scene.node).ok);
    assert!(dels.is_some(), "{DELS} DELs, and none succeeds");
    assert!(settled(scene), "the VM stands still after DEL: {:?}", tail(scene));
    scene.is_clean();
}

/// The end of the double's log.
fn tail(scene: &Scene) -> Vec<String> {
    let log = scene.double.log();
    let said =
        |line: &Value| line["call"].as_str().or(line["qemu"].as_str()).or(line["vm"].as_str()).map(str::to_owned);
    log.iter().rev().filter_map(said).take(8).collect::<Vec<_>>().into_iter().rev().collect()
}

/// Whether the point was reached.
fn tried(node: &Node, command: &'static str, trial: &Trial<'_>) -> bool {
    let scene = Scene::with(node, &json!({"lib_version": trial.libvirt}));
    if command == "DEL" {
        scene.run("ADD");
    } else {
        scene.forget_the_node();
    }
    let call = within(scene.call(command), short());
    let mut stopping = Stopping::start(|words| call.through(words).start(&scene.node), trial.point);
    let reached = stopping.reaches_it();
    if reached {
        trial.victim.stop(&scene);
    }
    let mut last = (command, answer(stopping.goes_on()));
    if reached {
        let follow = |command: &'static str| (command, within(scene.call(command), shorter()).run(node));
        match trial.then {
            Then::Del => last = follow("DEL"),
            Then::Add => last = follow("ADD"),
            Then::Nothing => {}
        }
        trial.victim.go_on(&scene);
    }
    let (command, answer) = last;
    assert!(answer.ok || answer.code() == 11 || command == "ADD", "{command}: {answer:?}");
    ends_well(&scene, Some(command).filter(|_| answer.ok));
    reached
}

fn at_every_step(command: &'static str) {
    let found: Vec<Point> = {
        let node = Node::new();
        let scene = Scene::new(&node);
        if command == "DEL" {
            scene.run("ADD");
        }
        points(scene.traced(command))
    };
    let mut todo = Vec::new();
    for (libvirt, victim) in LIBVIRTS
        .iter()
        .flat_map(|libvirt| [Victim::Libvirtd, Victim::Qemu, Victim::DataPlane].map(|victim| (*libvirt, victim)))
    {
        for then in [Then::Del, Then::Add, Then::Nothing] {
            todo.extend(found.iter().map(|point| Trial { point, libvirt, victim, then }));
        }
    }
    let every = todo.len();
    if every_way() {
        println!("{command}: all of {every} stops ({} steps)", found.len());
    } else {
        // 18 ways for each step; 17 leaves each step one of them, another from step to step, and some steps two.
        let chosen =
            |(number, _): &(usize, Trial<'_>)| (number / found.len() + number % found.len()).is_multiple_of(17);
        todo = todo.into_iter().enumerate().filter(chosen).map(|(_, trial)| trial).collect();
        println!(
            "{command}: ONLY {} OF {every} STOPS ({} steps); {STEPS}=all is for all of them",
            todo.len(),
            found.len()
        );
    }
    let reached = AtomicUsize::new(0);
    each(&todo, |node, trial| {
        let was_reached = tried(node, command, trial);
        reached.fetch_add(usize::from(was_reached), Ordering::SeqCst);
    });
    let (reached, all) = (reached.into_inner(), todo.len());
    println!("{command}: {reached} of {all} steps were reached");
    // How often a call waits is a matter of time.
    assert!(reached * 2 > all, "only {reached} of {all} steps were reached: they are wrong");
}

/// Tries each of these, many at once, on nodes of their own, and then tells of all that failed.
fn each<T: Debug + Sync>(rows: &[T], run: impl Fn(&Node, &T) + Sync) {
    let (turn, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(rows.len()) {
            scope.spawn(|| {
                let mut node = Node::new();
                while let Some(row) = rows.get(turn.fetch_add(1, Ordering::SeqCst)) {
                    if let Err(why) = catch_unwind(AssertUnwindSafe(|| run(&node, row))) {
                        let why = why.downcast::<String>().map_or_else(|_| String::new(), |why| *why);
                        let why = why.lines().take(3).collect::<Vec<_>>().join(" ");
                        failed.lock().unwrap().push(format!("{row:?}: {why}"));
                        // What is left of it is not the next one's.
                        node = Node::new();
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} failed:\n{}", failed.len(), rows.len(), failed.join("\n"));
}

#[test]
fn a_partner_stopped_anywhere_in_an_add() {
    at_every_step("ADD");
}

#[test]
fn a_partner_stopped_anywhere_in_a_del() {
    at_every_step("DEL");
}

/// The last call of an ADD before the attach, and which of its kind it is.
fn last_before_the_attach(node: &Node, libvirt: u64) -> (String, usize) {
    let scene = Scene::with(node, &json!({"lib_version": libvirt}));
    scene.run("ADD");
    let calls: Vec<String> = scene.double.calls().into_iter().map(|(call, _)| call).collect();
    scene.run("DEL");
    let attach = calls.iter().position(|call| call == "attach").unwrap();
    let last = calls[attach - 1].clone();
    (last.clone(), calls[..attach].iter().filter(|call| **call == last).count())
}

/// Every combination of these with what may follow.
fn with_each_successor<T: Clone>(rows: &[T]) -> Vec<(T, Then)> {
    let with_each = |row: &T| [Then::Del, Then::Add, Then::Nothing].map(|then| (row.clone(), then));
    rows.iter().flat_map(with_each).collect()
}

/// libvirtd stops just before it gets the attach. The ADD gives up; what follows must not forget the attach, which waits in
/// libvirtd's socket.
#[test]
fn an_attach_that_libvirtd_has_yet_to_read_is_not_forgotten() {
    each(&with_each_successor(&LIBVIRTS), |node, (libvirt, then)| {
        let (at, nth) = last_before_the_attach(node, *libvirt);
        let lie = json!({"at": at, "nth": nth, "lie": {"answer-then": "stop"}});
        let scene = Scene::with(node, &json!({"lib_version": libvirt, "lies": [lie]}));
        let add = within(scene.call("ADD"), short()).run(node);
        assert_eq!(add.code(), 11, "{add:?}");
        assert!(is_stopped(scene.double.libvirtd), "it was stopped before the attach");
        let claim = follow(&scene, *then);
        go_on(scene.double.child.id());
        ends_well(&scene, claim);
    });
}

/// The same with libvirtd awake, and QEMU stopped before it listens, or later.
#[test]
fn an_attach_that_qemu_has_yet_to_do_is_not_forgotten() {
    let steps = ["chardev-add", "netdev-add", "handshake", "device-add"];
    let rows: Vec<_> = LIBVIRTS.iter().flat_map(|libvirt| steps.map(|step| (*libvirt, step))).collect();
    each(&with_each_successor(&rows), |node, ((libvirt, step), then)| {
        let scene = Scene::with(node, &json!({"lib_version": libvirt, "stop": {"qemu": step}}));
        let add = within(scene.call("ADD"), short()).run(node);
        assert_eq!(add.code(), 11, "{add:?}");
        assert!(is_stopped(scene.double.qemu()));
        let claim = follow(&scene, *then);
        send("CONT", scene.double.qemu());
        ends_well(&scene, claim);
    });
}

/// An ADD that is killed once its attach is sent, and what follows before QEMU listens.
#[test]
fn an_attach_of_an_add_that_was_killed_is_not_forgotten() {
    each(&with_each_successor(&LIBVIRTS), |node, (libvirt, then)| {
        let scene = Scene::with(node, &json!({"lib_version": libvirt, "stop": {"qemu": "chardev-add"}}));
        let mut add = scene.call("ADD").start(node);
        until("QEMU has the attach", || is_stopped(scene.double.qemu()));
        support::end(&mut add);
        let claim = follow(&scene, *then);
        send("CONT", scene.double.qemu());
        ends_well(&scene, claim);
    });
}

/// libvirtd stops between two commands of its attach.
#[test]
fn a_libvirtd_that_stops_in_the_middle_of_an_attach() {
    each(&with_each_successor(&["chardev-add", "netdev-add", "device-add"]), |node, (step, then)| {
        let scene = Scene::with(node, &json!({"stop": {"libvirtd": step}}));
        let add = within(scene.call("ADD"), short()).run(node);
        assert_eq!(add.code(), 11, "{add:?}");
        assert!(is_stopped(scene.double.libvirtd));
        let claim = follow(&scene, *then);
        go_on(scene.double.child.id());
        ends_well(&scene, claim);
    });
}

/// Either of them stops in the middle of a removal.
#[test]
fn a_partner_that_stops_in_the_middle_of_a_removal() {
    let rows = ["libvirtd", "qemu"].into_iter().flat_map(|who| ["device-del", "netdev-del"].map(|step| (who, step)));
    each(&with_each_successor(&rows.collect::<Vec<_>>()), |node, ((who, step), then)| {
        let scene = Scene::with(node, &json!({"stop": {*who: step}}));
        scene.run("ADD");
        let del = within(scene.call("DEL"), short()).run(node);
        assert_eq!(del.code(), 11, "{del:?}");
        let claim = follow(&scene, *then);
        if *who == "qemu" {
            send("CONT", scene.double.qemu())
        } else {
            go_on(scene.double.child.id())
        }
        ends_well(&scene, claim);
    });
}

/// Makes the call that follows; what it said, if it succeeded.
fn follow(scene: &Scene, then: Then) -> Option<&'static str> {
    let command = match then {
        Then::Del => "DEL",
        Then::Add => "ADD",
        Then::Nothing => return None,
    };
    within(scene.call(command), shorter()).run(&scene.node).ok.then_some(command)
}

/// An ADD whose attach QEMU has yet to begin leaves a directory at the socket's name, which QEMU cannot unlink: the attach
/// fails when it comes, and nobody waits for anything. The next ADD removes it.
#[test]
fn a_late_attach_fails_cleanly() {
    let node = Node::new();
    let (at, nth) = last_before_the_attach(&node, LIBVIRTS[0]);
    let scene = Scene::with(&node, &json!({"lies": [{"at": at, "nth": nth, "lie": {"answer-then": "stop"}}]}));
    assert_eq!(within(scene.call("ADD"), short()).run(&node).code(), 11);
    let socket = format!("{}/net1", node.target(&scene.pod.uid));
    assert!(node.holds(&format!("test -d {socket}")), "{}", node.sh(&format!("ls -l {socket} || true")));
    go_on(scene.double.child.id());
    assert!(settled(&scene));
    assert!(!scene.has_nic());
    assert!(!tail(&scene).iter().any(|line| line == "waits"), "{:?}", tail(&scene));
    scene.run("ADD");
    scene.is_whole();
    scene.run("DEL");
    scene.is_clean();
}

/// QEMU wants more of its back end than the data plane has, and no check foresaw it: the stand-in stays until QEMU has what
/// it wants, and the NIC is unplugged.
#[test]
fn a_qemu_that_wants_more_than_the_data_plane_has_is_freed() {
    let rows = [
        json!({"memory_slots": 10}),
        json!({"memory_slots": 509}),
        // CONFIGURE_MEM_SLOTS and VIRTIO_NET_F_STATUS, neither of which this data plane has.
        json!({"protocol_features": 1 << 15}),
        json!({"features": 1 << 16}),
    ];
    each(&rows, |node, wants| {
        let scene = Scene::with(node, &json!({"attach": {"data_plane": "handshake", "wants": wants}}));
        let add = within(scene.call("ADD"), 7 * short()).run(node);
        assert!(!add.ok && !scene.double.vm_waits(), "the VM stands still: {add:?}");
        assert_eq!(add.code(), 102, "{add:?}");
        scene.is_clean();
    });
}

/// A QEMU that waits for a back end at the NIC's socket, since both the ADD and the data plane were killed.
fn waiting(node: &Node) -> Scene {
    let mut scene = Scene::with(node, &json!({"stop": {"qemu": "netdev-add"}}));
    let mut add = scene.call("ADD").start(node);
    until("QEMU listens", || is_stopped(scene.double.qemu()));
    support::end(&mut add);
    scene.lose_plane();
    send("CONT", scene.double.qemu());
    until("the VM waits", || scene.double.vm_waits());
    scene
}

#[test]
fn a_del_frees_a_qemu_that_waits_at_the_nics_socket() {
    let node = Node::new();
    let scene = waiting(&node);
    let del = within(scene.call("DEL"), 7 * short()).run(&node);
    assert!(!scene.double.vm_waits(), "the VM stands still: {del:?}");
    del.succeeded();
    scene.is_clean();
}

#[test]
fn a_repeated_add_frees_a_qemu_that_waits_at_the_nics_socket() {
    let node = Node::new();
    let scene = waiting(&node);
    let add = within(scene.call("ADD"), 7 * short()).run(&node);
    assert!(!scene.double.vm_waits(), "the VM stands still: {add:?}");
    assert!(!add.ok, "there is no data plane: {add:?}");
    ends_well(&scene, None);
}

/// A guest that answers nothing while a file is there.
struct Guest {
    file: PathBuf,
}

impl Guest {
    fn new() -> Self {
        let file = std::env::temp_dir().join(format!("vhu-guest-{}", support::new_uid()));
        Self { file }
    }

    fn is_deaf(&self) {
        std::fs::write(&self.file, "").unwrap();
    }

    fn answers(&self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.answers();
    }
}

/// The guest has released everything that it was asked to release, and libvirt knows.
fn removal_is_over(scene: &Scene, removals: usize) {
    until("the pending removal is carried out", || scene.double.times(&json!(333)).len() >= removals);
    assert!(settled(scene));
}

#[test]
fn an_add_does_not_rely_on_a_nic_that_a_paused_guest_is_about_to_release() {
    for key in ["paused_while", "deaf_while"] {
        let (node, guest) = (Node::new(), Guest::new());
        let file = json!(guest.file);
        let ways = if key == "paused_while" { json!({key: file}) } else { json!({"detach": {key: file}}) };
        let scene = Scene::with(&node, &ways);
        scene.run("ADD");
        guest.is_deaf();
        assert_eq!(within(scene.call("DEL"), short()).run(&node).code(), 11, "{key}");
        let add = within(scene.call("ADD"), short()).run(&node);
        assert_eq!(add.code(), 11, "{key}: the guest has yet to release the NIC: {add:?}");
        guest.answers();
        scene.run("ADD");
        removal_is_over(&scene, 1);
        scene.is_whole();
        assert_eq!(scene.double.count("attach"), 2, "{key}: it was plugged anew");
        scene.run("DEL");
        scene.is_clean();
    }
}

#[test]
fn an_add_after_a_del_that_was_killed_once_it_had_asked_the_guest() {
    let (node, guest) = (Node::new(), Guest::new());
    let scene = Scene::with(&node, &json!({"detach": {"deaf_while": guest.file}}));
    scene.run("ADD");
    guest.is_deaf();
    let mut del = scene.call("DEL").start(&node);
    until("the guest is asked", || scene.double.count("detach-alias") == 1);
    support::end(&mut del);
    let add = scene.call("ADD").start(&node);
    // Whether it has come to look at the NIC by then or not: both must end well.
    std::thread::sleep(Duration::from_millis(300));
    guest.answers();
    answer(output(add)).succeeded();
    removal_is_over(&scene, 1);
    scene.is_whole();
    scene.run("DEL");
    scene.is_clean();
}

/// Whoever repairs what CHECK says is missing would take a NIC away that works.
#[test]
fn a_check_that_cannot_look_at_the_vm_does_not_say_that_the_nic_is_missing() {
    let node = Node::new();
    let scene = Scene::new(&node);
    scene.run("ADD");
    Victim::Libvirtd.stop(&scene);
    let check = within(scene.call("CHECK"), short()).run(&node);
    assert_eq!(check.code(), 11, "{check:?}");
    Victim::Libvirtd.go_on(&scene);
    scene.run("CHECK");
    scene.run("DEL");
    drop(scene);
    // The connection ends in the middle of the look, as with a daemon that is restarted. ADD makes each call at least once.
    for at in ["connect", "auth-list", "open", "list", "xml"] {
        let count = |pod: &Pod| {
            let double = support::Double::start(pod, &json!({}));
            let _plane = support::DataPlane::start(&node, pod, "net1");
            pod.add().run(&node).succeeded();
            let count = double.count(at);
            pod.del().run(&node).succeeded();
            count
        };
        let nth = count(&Pod::new(&node)) + 1;
        let scene = Scene::with(&node, &json!({"lies": [{"at": at, "nth": nth, "lie": "close"}]}));
        scene.run("ADD");
        let check = scene.call("CHECK").run(&node);
        assert_eq!(check.code(), 11, "{at}: {check:?}");
        scene.run("CHECK");
        scene.run("DEL");
    }
}
