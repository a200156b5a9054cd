//! A double of libvirtd: honest like libvirt 11.3, or lying on order.
//!
//! `libvirtd-double SOCKET SCRIPT.json` listens on SOCKET, prints `ready`, and serves until it is killed. What it knows,
//! how its guest behaves and when it lies is said by the script (see `script.rs`). Each call that it receives becomes a
//! line of JSON in the script's log. Its wire code is its own, so that it shares no mistake with the client under test.
//! It is a process of its own because a client may ask the kernel whose process listens, and in which namespace.

mod checks;
mod devices;
mod lies;
mod qemu;
mod script;
mod serve;
mod socket;
mod wire;
mod world;

use std::os::unix::net::UnixListener;
use std::sync::Arc;

fn main() {
    let mut args = std::env::args_os().skip(1);
    let (Some(socket), Some(script), None) = (args.next(), args.next(), args.next()) else {
        eprintln!("usage: libvirtd-double SOCKET SCRIPT.json");
        std::process::exit(2);
    };
    let text = std::fs::read_to_string(&script).expect("the script can be read");
    let script: script::Script = serde_json::from_str(&text).expect("the script is what script.rs says");
    let listener = UnixListener::bind(&socket).expect("the socket can be bound");
    let world = Arc::new(world::World::new(script));
    if world.script.until_eof {
        std::thread::spawn(|| {
            // An error ends it as well as the end does.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(0);
        });
    }
    println!("ready");
    for (number, stream) in listener.incoming().enumerate() {
        let world = Arc::clone(&world);
        let stream = stream.expect("a connection can be accepted");
        std::thread::spawn(move || serve::connection(&world, number, &stream));
    }
}
