//! An attach and a detach as bare calls on a connection that is open already: `bare-rpc SOCKET XML` prints how long each
//! took. The floor under what any client of libvirt can reach.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::json;
use vhostuser_hotplug::deadline::Deadline;
use vhostuser_hotplug::libvirt::{Access, Client, Event, EventKind, Scope, Uri};

fn main() {
    let mut words = std::env::args().skip(1);
    let (socket, xml) = (words.next().expect("a socket"), words.next().expect("the NIC's XML"));
    let xml = std::fs::read_to_string(xml).expect("the NIC's XML");
    let alias = xml.split("<alias name='").nth(1).and_then(|rest| rest.split('\'').next()).expect("an alias");
    let deadline = Deadline::after(Duration::from_secs(60));
    let stream = UnixStream::connect(socket).expect("libvirt's socket");
    let mut client = Client::open_any(stream, &[Uri::System], Access::Full, deadline).expect("a connection").0;
    let domain = client.running_domains(deadline).expect("domains").remove(0);
    client.subscribe(EventKind::DeviceRemoved, &domain, deadline).expect("its events");

    let begun = Instant::now();
    client.attach(&domain, &xml, Scope::Live, deadline).expect("the attach");
    let attach = begun.elapsed();
    // The guest's driver takes the NIC first; asked sooner, it lets go only when it is ready.
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    client.detach_alias(&domain, alias, Scope::Live, deadline).expect("the detach");
    loop {
        match client.next_event(deadline).expect("an event") {
            Some(Event::DeviceRemoved { alias: removed, .. }) if removed == alias => break,
            Some(_) => {}
            None => panic!("the guest does not let go"),
        }
    }
    let millis = |span: Duration| span.as_secs_f64() * 1000.0;
    println!("{}", json!({"attach_ms": millis(attach), "released_ms": millis(begun.elapsed())}));
}
