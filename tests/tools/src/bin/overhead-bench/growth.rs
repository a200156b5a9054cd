//! Whether a busy node makes the calls dearer.

use crate::Options;
use crate::contenders::{NOOP, OURS, call};
use crate::scene::Scene;
use tools::crowd::{Mounts, Pods, Processes};
use tools::figures::Sorted;

/// One scene: what there is how much of, and what ADD takes there, in milliseconds.
pub struct Point {
    pub what: &'static str,
    pub size: usize,
    pub ours: Sorted,
    pub noop: Sorted,
}

/// ADD of a pod that we have nothing to do with, in each scene.
pub fn run(options: &Options, scene: &Scene) -> Vec<Point> {
    let mut points = Vec::new();
    for size in [1, 100, 1000] {
        let _there = Pods::beside_one(&scene.kubelet(), size);
        points.push(point(options, scene, "pods", size, 0));
    }
    for size in [10, 1000, 10_000] {
        let _there = Mounts::below(&scene.path("mounts"), size);
        points.push(point(options, scene, "mounts", size, 0));
    }
    for size in [10, 1000, 10_000] {
        let _there = Processes::start(size);
        points.push(point(options, scene, "processes", size, 0));
    }
    for size in [1 << 10, 1 << 15, 1 << 20] {
        points.push(point(options, scene, "bytes of prevResult", size, size));
    }
    points
}

fn point(options: &Options, scene: &Scene, what: &'static str, size: usize, result: usize) -> Point {
    let ours = call(OURS, &options.plugin, "ADD", scene, result);
    let noop = call(NOOP, &options.noop, "ADD", scene, result);
    let (mut of_ours, mut of_noop) = (Vec::new(), Vec::new());
    for _ in 0..options.growth_rounds {
        of_ours.push(ours.once().wall);
        of_noop.push(noop.once().wall);
    }
    Point { what, size, ours: Sorted::new(of_ours), noop: Sorted::new(of_noop) }
}
