//! The protocol with the runtime, shown by the real binary: each test starts it as a runtime does, with an environment
//! and a configuration, for a container that is a real network namespace, and looks at nothing but what a runtime sees.
//!
//! Rules are numbered R1 to R68 as in the list that the project goes by: what the CNI specification 0.1.0 to 1.1.0
//! demands, what libcni fixes where the specification leaves it open, and the conventions of Kubernetes' runtimes. A
//! test is named after the rule that it shows, and runs at every version of the specification that has the rule.
//!
//! | rules | here |
//! |---|---|
//! | R1-R7 | [`process`] |
//! | R8-R22 | [`environment`] |
//! | R23-R28 | [`configuration`] |
//! | R29-R32 | [`version`] |
//! | R33-R41 | [`add`] |
//! | R43-R50 | [`del_check`] |
//! | R51-R56 | [`status_gc`] |
//! | R58, R59 | [`attachments`] |
//! | R60-R67 | [`conventions`] |
//! | none: the plugin's own keys, its logs, a static binary, what others pay | [`own_keys`], [`logs`], [`binary`], [`cost`] |
//!
//! Not shown here, and why:
//! - R42 (an interface that exists already) binds plugins that create it; a chained plugin finds it there.
//! - R57 (GC goes on after an error and reports all) needs errors from inside.
//! - R66 (delegation): this plugin delegates to no other.
//! - R68 (a real libcni in front) has a group of its own.
//!
//! The pod here has no volume for vhost-user sockets, so the plugin has nothing to do but to keep to the protocol. What
//! R47, R49, R54 and R58 mean for a NIC and a mount that it did make is shown where there is a pod with a VM.
//!
//! Every path that the plugin works with points into a directory of the test, and every namespace ends with its test,
//! even one that is killed. It takes root, for the namespaces, and `ip` of iproute2.

mod add;
mod attachments;
mod binary;
mod configuration;
mod conventions;
mod cost;
mod del_check;
mod environment;
mod json;
mod logs;
mod own_keys;
mod plugin;
mod process;
mod results;
mod scene;
mod status_gc;
mod version;
