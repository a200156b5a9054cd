//! SIGKILL at every step of ADD and of DEL. Whatever comes next ends right: the same call again, the other one, or a GC.

use std::sync::atomic::{AtomicUsize, Ordering};

use support::Node;
use support::scene::{STEPS, Scene, Told, every_way};
use support::strace::{Point, kill, points};

/// How many pods are worked on at once.
const WORKERS: usize = 3;

/// The system call that only waits.
const WAITING: &str = "poll";

/// What follows a call that was killed. An ADD is repeated until it is whole, and undone.
const NEXT: [&str; 3] = ["ADD", "DEL", "GC"];

fn follow(scene: &Scene, next: &str) {
    match next {
        "ADD" => {
            scene.run("ADD");
            scene.is_whole();
            scene.run("DEL");
        }
        "DEL" => scene.run("DEL"),
        _ => scene.gc(),
    }
    scene.is_clean();
    scene.is_untold();
}

/// Kills `command` at every point, before a repeated ADD, a DEL or a GC in turn, or before each of them. `ready` prepares the
/// pod for it.
fn at_every_step(command: &'static str, ready: fn(&Scene)) {
    let found: Vec<Point> = {
        let node = Node::new();
        let scene = Scene::new(&node);
        ready(&scene);
        points(scene.traced(command))
    };
    let all = found.iter().flat_map(|point| NEXT.map(|next| (point, next)));
    let todo: Vec<(&Point, &str)> = if every_way() {
        all.collect()
    } else {
        println!("{command}: ONLY ONE OF {} CALLS AFTER EACH STEP; {STEPS}=all is for all of them", NEXT.len());
        let chosen = |(number, _): &(usize, _)| number / NEXT.len() % NEXT.len() == number % NEXT.len();
        all.enumerate().filter(chosen).map(|(_, one)| one).collect()
    };
    let (turn, killed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                // A node for each, so that the number of calls does not depend on what another worker does.
                let node = Node::new();
                let scene = Scene::new(&node);
                while let Some((point, next)) = todo.get(turn.fetch_add(1, Ordering::SeqCst)) {
                    let told =
                        Told::at(format!("{command} killed before {} ({}), then {next}", point.call, point.words));
                    ready(&scene);
                    let reached = kill(scene.traced(command), point);
                    killed.fetch_add(usize::from(reached && point.call != WAITING), Ordering::SeqCst);
                    follow(&scene, next);
                    drop(told);
                }
            });
        }
    });
    // How often a call waits is a matter of time; what it changes is not, or the points are wrong.
    let (killed, all) = (killed.into_inner(), todo.iter().filter(|(point, _)| point.call != WAITING).count());
    println!("{command}: {} points; killed {killed} times of {all} before a change", found.len());
    assert!(killed * 100 >= all * 95, "only {killed} of {all} calls were killed: the points are wrong");
}

#[test]
fn add_killed_anywhere_is_completed_or_undone() {
    // The node's first pod ever: the most that an ADD has to make.
    at_every_step("ADD", |scene| scene.forget_the_node());
}

#[test]
fn del_killed_anywhere_is_completed_or_undone() {
    at_every_step("DEL", |scene| scene.run("ADD"));
}
