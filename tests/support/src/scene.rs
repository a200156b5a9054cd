//! A pod with a VM, the calls for its NIC, and what must be true after them.

use std::sync::OnceLock;
use std::time::Instant;

use serde_json::{Value, json};
use vhostuser_hotplug::libvirt::Xml;

use crate::libvirt::{Double, nics};
use crate::node::{INSIDE, KUBELET, SOCKETS, STATE, VOLUME};
use crate::patience::output;
use crate::strace::Run;
use crate::{Call, DataPlane, Node, Pod};

/// With `all` in this variable a call that is hit at every step of its meets there all that may hit it and follow; else some
/// of it in turn.
pub const STEPS: &str = "VHU_STEPS";

/// Whether each step is to meet everything.
pub fn every_way() -> bool {
    std::env::var(STEPS).is_ok_and(|steps| steps == "all")
}

/// The pod and its daemon.
pub struct Scene {
    pub node: Node,
    pub pod: Pod,
    pub double: Double,
    pub plane: DataPlane,
}

impl Scene {
    pub fn new(node: &Node) -> Self {
        Self::with(node, &json!({}))
    }

    /// With a daemon of its own ways.
    pub fn with(node: &Node, changes: &Value) -> Self {
        let pod = Pod::new(node);
        let double = Double::start(&pod, changes);
        let plane = DataPlane::start(node, &pod, "net1");
        Self { node: node.clone(), pod, double, plane }
    }

    /// Ends the data plane.
    pub fn lose_plane(&mut self) {
        self.plane.end();
    }

    /// Where the runtime wants to be told of the NIC.
    fn device_info(&self) -> String {
        format!("/run/k8s.cni.cncf.io/devinfo/cni/{}-net1", self.pod.uid)
    }

    pub fn call(&self, command: &'static str) -> Call {
        let call = self.pod.call(command);
        call.set("runtimeConfig", json!({"CNIDeviceInfoFile": self.device_info()}))
    }

    /// The call as a program to put faults into.
    pub fn traced(&self, command: &'static str) -> impl Run {
        move |words: &[&str]| output(self.call(command).through(words).start(&self.node))
    }

    pub fn run(&self, command: &'static str) {
        self.call(command).run(&self.node).succeeded();
    }

    /// Removes what calls for any pod leave: the plugin's and kube-ovn's own directories, which must be empty.
    pub fn forget_the_node(&self) {
        self.node.sh(&format!("rm -rf {STATE} /run/openvswitch /run/k8s.cni.cncf.io"));
    }

    /// A GC of a runtime that knows no attachment.
    pub fn gc(&self) {
        self.call("GC").gc().run(&self.node).succeeded();
    }

    /// The NIC is there once, with all that belongs to it, as an ADD that nothing disturbed would have left it.
    pub fn is_whole(&self) {
        assert_eq!(nics(&self.pod, Xml::Live), ["ua-net1"]);
        assert!(self.node.is_shared(&self.pod.uid));
        let target = self.node.target(&self.pod.uid);
        let mounts = self.node.sh(&format!("grep -F ' {target} ' /proc/self/mountinfo | cut -d ' ' -f 6"));
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        for option in ["nosuid", "nodev", "noexec"] {
            assert!(mounts.split(',').any(|is| is == option), "{mounts}");
        }
        assert!(self.node.holds(&format!("grep -q {INSIDE}/net1 {}", self.device_info())), "the runtime is not told");
        self.run("CHECK");
    }

    /// Nothing is told of a NIC any more, not even half.
    pub fn is_untold(&self) {
        assert_eq!(self.node.sh("find /run/k8s.cni.cncf.io -type f 2>/dev/null || true"), "");
    }

    pub fn has_nic(&self) -> bool {
        !nics(&self.pod, Xml::Live).is_empty()
    }

    /// Nothing is left: no NIC, socket, mount, directory, record or lock.
    pub fn is_clean(&self) {
        assert_eq!(nics(&self.pod, Xml::Live), Vec::<String>::new());
        let uid = &self.pod.uid;
        let left = self.node.sh(&format!(
            "find {SOCKETS} {STATE}/pods {STATE}/locks -mindepth 1 2>/dev/null || true; \
             find {KUBELET}/pods/{uid}/volumes/kubernetes.io~empty-dir/{VOLUME} -mindepth 1; \
             grep -F ' {SOCKETS}' /proc/self/mountinfo || true"
        ));
        assert_eq!(left, "", "left of {uid}");
    }
}

/// Returns a deadline for calls that meet somebody who hangs, in seconds: long enough for all that comes before on this machine,
/// with as many calls at once as here, and at least 2.
pub fn short() -> u64 {
    static SHORT: OnceLock<u64> = OnceLock::new();
    *SHORT.get_or_init(|| {
        let node = Node::new();
        let scene = Scene::new(&node);
        // The first of them may have met the start of all tests.
        let took = (0..3).map(|_| {
            let begun = Instant::now();
            scene.run("ADD");
            let took = begun.elapsed();
            scene.run("DEL");
            took
        });
        let took = took.min().unwrap();
        (took.as_secs() * 20 + u64::from(took.subsec_millis()) / 50).max(2)
    })
}

/// Says where a test was when it failed.
pub struct Told(String);

impl Told {
    pub fn at(place: String) -> Self {
        Self(place)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed at: {}", self.0);
        }
    }
}
