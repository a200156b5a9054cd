//! One connection: frames in, answers out.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::devices::{Device, devices};
use crate::lies::tell;
use crate::script::Auth;
use crate::wire::{Head, In, KEEPALIVE, Out, REMOTE, Refusal};
use crate::world::{World, Writer};

/// What a connection has been through.
#[derive(Default)]
struct Session {
    authenticated: bool,
    open: bool,
    read_only: bool,
}

/// Serves until either side hangs up.
pub fn connection(world: &Arc<World>, number: usize, stream: &UnixStream) {
    let writer: Writer = Arc::new(Mutex::new(stream.try_clone().unwrap()));
    let mut session = Session::default();
    let greeting = world.called(number, "connect", &Value::Null);
    if greeting.is_none_or(|lie| tell(&lie, Head::event(0), &[], &writer)) {
        while let Some((head, payload)) = frame(stream) {
            if !serve(world, number, &mut session, head, &payload, &writer) {
                break;
            }
        }
    }
    world.unsubscribe(number);
    world.ended(number);
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

/// The next frame, if there is one that libvirt would read.
fn frame(mut stream: &UnixStream) -> Option<(Head, Vec<u8>)> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap();
    if !(28..=33_554_436).contains(&length) {
        return None;
    }
    let mut rest = vec![0; length - 4];
    stream.read_exact(&mut rest).ok()?;
    Some((Head::read(&rest)?, rest.split_off(24)))
}

/// Answers one frame; false when the connection is over.
fn serve(
    world: &Arc<World>,
    number: usize,
    session: &mut Session,
    head: Head,
    payload: &[u8],
    writer: &Writer,
) -> bool {
    if head.kind != 0 {
        if (head.program, head.procedure, head.kind) == (KEEPALIVE, 1, 2) {
            return writer.lock().unwrap().write_all(&Head { procedure: 2, ..head }.frame(&[])).is_ok();
        }
        return true; // libvirt keeps silent
    }
    let call = name(head.procedure);
    let mut args = In(payload);
    let described = describe(call, In(payload));
    let lie = world.called(number, call, described.as_ref().unwrap_or(&json!("not what the procedure takes")));
    let result = if head.program != REMOTE || head.version != 1 {
        Err(Refusal::new(39, 7, format!("Cannot find program {} version {}", head.program, head.version)))
    } else if call == "unknown" {
        Err(Refusal::new(39, 7, format!("unknown procedure: {}", head.procedure)))
    } else if lie.as_ref().is_some_and(|lie| !lie.acts()) {
        Ok(Out::default())
    } else {
        let undecoded = Err(Refusal::new(39, 7, "Unable to decode message payload"));
        let answer = described.and_then(|_| answer(world, number, session, call, &mut args, writer));
        answer.unwrap_or(undecoded)
    };
    let (status, payload) = match result {
        Ok(out) => (0, out.0),
        Err(refusal) if world.script.foreign => (1, refusal.in_another_language().payload()),
        Err(refusal) => (1, refusal.payload()),
    };
    let head = Head { kind: 1, status, ..head };
    let goes_on = match lie {
        Some(lie) => tell(&lie, head, &payload, writer),
        None => writer.lock().unwrap().write_all(&head.frame(&payload)).is_ok(),
    };
    goes_on && call != "close"
}

/// The procedures that the double knows.
fn name(procedure: i32) -> &'static str {
    match procedure {
        1 => "open",
        2 => "close",
        14 => "xml",
        23 => "lookup",
        60 => "feature",
        66 => "auth-list",
        67 => "auth-sasl-init",
        70 => "auth-polkit",
        151 => "persistent",
        157 => "version",
        160 => "attach",
        161 => "detach",
        212 => "state",
        273 => "list",
        298 => "job",
        316 => "subscribe",
        392 => "detach-alias",
        _ => "unknown",
    }
}

/// The arguments, for the log; None where they are not what the procedure takes.
fn describe(call: &str, mut args: In<'_>) -> Option<Value> {
    Some(match call {
        "open" => {
            let uri = if args.word()? == 1 { Some(args.text()?) } else { None };
            json!({"uri": uri, "flags": args.word()?})
        }
        "lookup" => json!({"name": args.text()?}),
        "list" => json!({"need_results": args.word()?, "flags": args.word()?}),
        "feature" => json!({"feature": args.word()?}),
        "state" | "xml" | "persistent" | "job" | "attach" | "detach" | "detach-alias" => {
            let name = args.text()?;
            args.uuid()?;
            let id = args.word()?;
            let device = if call.contains("tach") { Some(args.text()?) } else { None };
            let flags = if call == "persistent" { None } else { Some(args.word()?) };
            json!({"domain": name, "id": id, "device": device, "flags": flags})
        }
        "subscribe" => {
            let event = args.word()?;
            let domain = if args.word()? == 1 { Some(args.domain()?.0) } else { None };
            json!({"event": event, "domain": domain})
        }
        _ => Value::Null,
    })
}

/// The honest answer; None where the arguments are not what the procedure takes.
fn answer(
    world: &Arc<World>,
    number: usize,
    session: &mut Session,
    call: &str,
    args: &mut In<'_>,
    writer: &Writer,
) -> Option<Result<Out, Refusal>> {
    let out = Out::default();
    if call.starts_with("auth") {
        return Some(authenticate(world, session, call));
    }
    if !session.authenticated && world.script.auth != Auth::None {
        return Some(Err(Refusal::new(39, 7, "authentication required")));
    }
    if call == "open" {
        let uri = if args.word()? == 1 { args.text()? } else { String::new() };
        session.read_only = args.word()? & 1 != 0;
        return Some(open(world, session, &uri).map(|()| out));
    }
    if !session.open && call != "close" {
        return Some(Err(Refusal::new(1, 7, "internal error: hypervisor connection not open")));
    }
    Some(match call {
        "close" => Ok(out),
        "version" => Ok(out.double(world.script.lib_version)),
        "feature" => Ok(out.word(i32::from([8, 10, 14, 15].contains(&args.word()?)))),
        "list" => {
            let wanted = args.word()? != 0;
            let (count, domains) = world.listed(args.word()?);
            let out = if wanted { out.word(count).raw(&domains.0) } else { out.word(0) };
            Ok(out.word(count))
        }
        "lookup" => {
            let name = args.text()?;
            let found = world.look(|domain| domain.name == name, |domain| domain.encode(out));
            found
                .ok_or_else(|| Refusal::new(42, 10, format!("Domain not found: no domain with matching name '{name}'")))
        }
        "state" => {
            let known = world.known(args.domain()?);
            let paused = world.script.is_paused();
            let state = |domain: &crate::world::Domain| if paused && domain.id >= 0 { 3 } else { domain.state };
            known.and_then(|uuid| world.by_uuid(uuid, |domain| out.word(state(domain)).word(1)))
        }
        "job" => {
            let known = world.known(args.domain()?);
            known.and_then(|uuid| world.operation(uuid)).map(|operation| job(out, operation))
        }
        "persistent" => {
            let known = world.known(args.domain()?);
            known.and_then(|uuid| world.by_uuid(uuid, |domain| out.word(i32::from(domain.stored.is_some()))))
        }
        "xml" => {
            let (domain, flags) = (args.domain()?, args.word()?);
            world.known(domain).and_then(|uuid| world.xml(uuid, flags & 2 != 0)).map(|xml| out.text(&xml))
        }
        "subscribe" => {
            let event = args.word()?;
            let domain = if args.word()? == 1 { Some(args.domain()?.1) } else { None };
            world.subscribe(number, event, domain, Arc::clone(writer)).map(|callback| out.word(callback))
        }
        "attach" | "detach" | "detach-alias" => {
            let (domain, device, flags) = (args.domain()?, args.text()?, args.word()?);
            if session.read_only {
                return Some(Err(read_only(call)));
            }
            world.known(domain).and_then(|uuid| change(world, call, uuid, &device, flags)).map(|()| out)
        }
        _ => Err(Refusal::new(39, 7, format!("the double has no answer to {call}"))),
    })
}

/// The long job of a domain: its type, and parameters of two types.
fn job(out: Out, operation: Option<i32>) -> Out {
    match operation {
        None => out.word(0).word(0),
        Some(operation) => {
            let out = out.word(2).word(2).text("time_elapsed").word(4).double(1500);
            out.text("operation").word(1).word(operation)
        }
    }
}

/// What libvirt's own functions say before any driver is asked.
fn read_only(call: &str) -> Refusal {
    let function = match call {
        "attach" => "virDomainAttachDeviceFlags",
        "detach" => "virDomainDetachDeviceFlags",
        _ => "virDomainDetachDeviceAlias",
    };
    Refusal::new(29, 20, format!("operation forbidden: read only access prevents {function}"))
}

fn authenticate(world: &World, session: &mut Session, call: &str) -> Result<Out, Refusal> {
    match (call, world.script.auth) {
        ("auth-list", Auth::None) => {
            session.authenticated = true;
            Ok(Out::default().word(1).word(0))
        }
        ("auth-list", Auth::Sasl) => Ok(Out::default().word(1).word(1)),
        ("auth-list", Auth::Polkit | Auth::PolkitRefused) => Ok(Out::default().word(1).word(2)),
        ("auth-polkit", Auth::Polkit) => {
            session.authenticated = true;
            Ok(Out::default().word(1))
        }
        ("auth-polkit", Auth::PolkitRefused) => {
            Err(Refusal::new(45, 60, "authentication failed: access denied by policy"))
        }
        _ => Err(Refusal::new(45, 7, "authentication failed")),
    }
}

fn open(world: &World, session: &mut Session, uri: &str) -> Result<(), Refusal> {
    // Asked twice, libvirt drops the first connection as well.
    if std::mem::take(&mut session.open) {
        return Err(Refusal::new(1, 7, "internal error: connection already open"));
    }
    let Some(path) = uri.strip_prefix("qemu://").filter(|path| path.starts_with('/')) else {
        return Err(Refusal::new(5, 0, format!("no connection driver available for {uri}")));
    };
    if !world.script.uris.iter().any(|known| known == uri) {
        let known = world.script.uris.first().map_or("", String::as_str);
        return Err(Refusal::new(1, 0, format!("internal error: unexpected qemu URI path '{path}', try {known}")));
    }
    session.open = true;
    Ok(())
}

fn change(world: &Arc<World>, call: &str, uuid: [u8; 16], device: &str, flags: i32) -> Result<(), Refusal> {
    match call {
        "attach" => world.attach(uuid, device, flags),
        "detach-alias" => world.detach(uuid, flags, call, |all| {
            let found = all.iter().find(|other| other.alias == device);
            let missing = || Refusal::new(1, 20, format!("internal error: no device found with alias {device}"));
            found.cloned().ok_or_else(missing)
        }),
        _ => {
            let asked = devices(device, 0).and_then(|mut all| all.pop()).unwrap_or_default();
            let same = |other: &&Device| {
                (asked.alias.is_empty() || asked.alias == other.alias)
                    && (asked.mac.is_empty() || asked.mac.eq_ignore_ascii_case(&other.mac))
                    && other.name == "interface"
            };
            world.detach(uuid, flags, call, |all| {
                let missing = format!(
                    "device not found: no device found at address '(<null>)' matching MAC address '{}' and alias '{}'",
                    asked.mac, asked.alias
                );
                all.iter().find(same).cloned().ok_or_else(|| Refusal::new(99, 20, missing))
            })
        }
    }
}
