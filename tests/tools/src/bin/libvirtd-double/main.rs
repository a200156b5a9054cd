//! A double of libvirtd and of QEMU: honest like libvirt 11.3 and QEMU 10.0, or lying on order.
//!
//! `libvirtd-double SOCKET SCRIPT.json` listens on SOCKET, prints `ready`, and serves until it is killed. What it knows,
//! how its guest behaves and when it lies is said by the script (see `script.rs`). Each call that it receives becomes a
//! line of JSON in the script's log, and each command of its QEMU. Its wire code is its own, so that it shares no mistake
//! with the client under test. It is a process of its own because a client may ask the kernel whose process listens, and in
//! which namespace.
//!
//! Each running domain has a QEMU (where there are many, some only once they are needed), a child of the process (see `machine.rs`). SIGSTOP for the one or the other is what it
//! is in life: libvirtd stopped, with the VM running on and whatever QEMU was last told under way; or QEMU stopped, with
//! libvirtd answering, and a job of the domain held by whoever waits for the monitor. Either ends with libvirtd: a VM that
//! outlives its daemon is not among the double's arts.

mod checks;
mod devices;
mod handshake;
mod lies;
mod log;
mod machine;
mod monitor;
mod qemu;
mod script;
mod serve;
mod socket;
mod wire;
mod world;

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

fn script(file: &Path) -> script::Script {
    let text = std::fs::read_to_string(file).expect("the script can be read");
    serde_json::from_str(&text).expect("the script is what script.rs says")
}

fn main() {
    let mut args = std::env::args_os().skip(1);
    let (Some(socket), Some(file), None) = (args.next(), args.next(), args.next()) else {
        eprintln!("usage: libvirtd-double SOCKET SCRIPT.json");
        std::process::exit(2);
    };
    if socket == "--qemu" {
        return machine::run(script(file.as_ref()));
    }
    let listener = UnixListener::bind(&socket).expect("the socket can be bound");
    let world = Arc::new(world::World::new(script(file.as_ref())));
    world.boot(file.as_ref());
    if world.script.until_eof {
        std::thread::spawn(|| {
            // An error ends it as well as the end does.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(0);
        });
    }
    println!("ready");
    let server = Arc::clone(&world);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let world = Arc::clone(&server);
            let stream = stream.expect("a connection can be accepted");
            std::thread::spawn(move || serve::connection(&world, number, &stream));
        }
    });
    world.boot_on_demand(file.as_ref());
}
