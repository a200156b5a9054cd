//! A call of the runtime: the environment as in `/proc/<pid>/environ` (each variable ended by NUL), an empty variable, and
//! then stdin.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use serde_json::Value;
use vhostuser_hotplug::cni::command::Verb;
use vhostuser_hotplug::cni::error::code;
use vhostuser_hotplug::cni::request::Variables;
use vhostuser_hotplug::cni::{Command, Error, PrevResult, Request, Socket, Version, json, reply};
use vhostuser_hotplug::config::Config;
use vhostuser_hotplug::vm::interface::PciAddress;

use super::domain_xml;

/// Longest error object, in bytes: 4 KiB of message and 16 KiB of details, each byte perhaps spelt `\u0000`.
const ERROR_OBJECT_MAX: usize = 6 * (20 << 10) + 256;

pub fn holds(bytes: &[u8]) {
    let (environment, stdin) = split(bytes);
    let variables = Variables::new(|name| {
        let mut values = environment.iter().filter_map(|(key, value)| (*key == name.as_bytes()).then_some(*value));
        values.next().map(|value| OsString::from_vec(value.to_vec()))
    });
    is_versions(&reply::versions(stdin));
    match variables.verb() {
        Err(error) => is_error(&error, Version::NEWEST),
        Ok(Verb::Version) => {}
        Ok(Verb::Call(command)) => match Request::read(&variables, command, Ok(stdin.to_vec())) {
            (version, Err(error)) => is_error(&error, version),
            (version, Ok(request)) => {
                assert_eq!((request.command, request.conf.version), (command, version));
                is_request(&request);
            }
        },
    }
}

type Variable<'a> = (&'a [u8], &'a [u8]);

fn split(bytes: &[u8]) -> (Vec<Variable<'_>>, &[u8]) {
    let (mut environment, mut rest) = (Vec::new(), bytes);
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let (variable, tail) = (&rest[..end], &rest[end + 1..]);
        rest = tail;
        if variable.is_empty() {
            break;
        }
        if let Some(equals) = variable.iter().position(|byte| *byte == b'=') {
            environment.push((&variable[..equals], &variable[equals + 1..]));
        }
    }
    (environment, rest)
}

fn is_versions(answer: &str) {
    let answer: Value = serde_json::from_str(answer).expect("the answer to VERSION is JSON");
    let known = Version::ALL.map(|version| Value::from(version.as_str()));
    assert_eq!(answer["supportedVersions"], Value::from(known.to_vec()));
    assert!(known.contains(&answer["cniVersion"]));
}

/// An error is one line of JSON of bounded length, whatever it quotes.
fn is_error(error: &Error, version: Version) {
    let text = error.to_json(version);
    assert!(text.len() <= ERROR_OBJECT_MAX && !text.contains('\n'), "{} bytes", text.len());
    let object: Value = serde_json::from_str(&text).expect("an error is JSON");
    assert_eq!((&object["cniVersion"], &object["code"]), (&version.as_str().into(), &error.code.into()));
    let own = [code::INCOMPATIBLE_VERSION, code::INVALID_ENVIRONMENT, code::DECODING, code::INVALID_CONFIG];
    assert!(own.contains(&error.code) && !error.msg.is_empty(), "{error}");
}

fn is_request(request: &Request) {
    if matches!(request.command, Command::Gc | Command::Status) {
        assert!(request.container_id.is_empty() && request.ifname.is_empty() && request.netns.is_none());
    } else {
        assert!(!request.container_id.contains(['/', '\0']) && !request.container_id.starts_with('.'));
        assert!((1..=15).contains(&request.ifname.len()) && !request.ifname.contains(['/', ':', '\0']));
        assert!(![".", ".."].contains(&request.ifname.as_str()));
        assert!(request.netns.is_some() || request.command == Command::Del);
        domain_xml::alias_is_plain(&request.ifname);
    }
    for key in ["K8S_POD_UID", "K8S_POD_NAME", "K8S_POD_NAMESPACE", "IgnoreUnknown"] {
        assert!(request.args.get(key).is_none_or(|value| !value.is_empty() && !value.contains([';', '='])));
    }
    configuration_is_checked(request);
    match request.conf.prev_result() {
        Err(error) => is_error(&error, request.conf.version),
        Ok(None) => {}
        Ok(Some(result)) => result_is_passed_through(&result, request.conf.version),
    }
    if let Err(error) = request.conf.valid_attachments() {
        is_error(&error, request.conf.version);
    }
}

fn configuration_is_checked(request: &Request) {
    let lenient = Config::parse_lenient(&request.conf);
    match Config::parse(&request.conf) {
        Ok(strict) => assert_eq!(strict, lenient),
        Err(error) => is_error(&error, request.conf.version),
    }
    assert!((1..=63).contains(&lenient.volume_name.len()) && !lenient.volume_name.contains(['/', '.']));
    assert!((1..=16).contains(&lenient.libvirt_sockets.len()));
    let own = [&lenient.kubelet_dir, &lenient.socket_base_dir, &lenient.state_dir, &lenient.ovsdb_socket];
    for path in lenient.libvirt_sockets.iter().chain(own) {
        assert!(path.is_absolute() && path.components().all(|part| part.as_os_str() != ".."), "{}", path.display());
    }
    for time in [lenient.attach_timeout, lenient.detach_timeout] {
        assert!((1..=600).contains(&time.as_secs()));
    }
    if let Ok(socket) = lenient.socket_name(&request.ifname) {
        assert!(!socket.contains(['/', '\0']) && socket.len() <= 64);
    }
    if let Some(address) = lenient.nic.pci_address {
        assert_eq!(PciAddress::parse(&address.to_string()), Some(address));
    }
    if let Some(mac) = lenient.nic.mac {
        assert!(mac.is_unicast() && mac.to_string().len() == 17);
    }
}

/// Another plugin's result comes out as it went in, to the letter, but for its version.
pub fn result_is_passed_through(result: &PrevResult<'_>, version: Version) {
    let (given, answer) = (result.text(), result.answer(version, None));
    let quoted = format!("\"{version}\"");
    assert_eq!(json::member(&answer, "cniVersion").map(unquoted), Some(version.as_str().to_owned()));
    match json::Members::of(given).expect("a result is an object").places("cniVersion").count() {
        // Put in behind the brace, and nothing else.
        0 => {
            let added = [format!("\"cniVersion\":{quoted},"), format!("\"cniVersion\":{quoted}")];
            assert!(added.iter().any(|added| answer.strip_prefix(&format!("{{{added}")) == given.strip_prefix('{')));
        }
        1 => {
            let places =
                |text| json::Members::of(text).expect("an object").places("cniVersion").next().expect("a version");
            let (old, new) = (places(given), places(&answer));
            assert_eq!((&given[..old.start], &given[old.end..]), (&answer[..new.start], &answer[new.end..]));
            if unquoted(&given[old]) == version.as_str() {
                assert_eq!(given, answer);
            }
        }
        _ => {}
    }
    let again = format!("{{\"cniVersion\":{quoted},\"name\":\"n\",\"prevResult\":{answer}}}");
    let conf = vhostuser_hotplug::cni::NetConf::parse(again.into_bytes(), Command::Del).expect("an answer is JSON");
    let printed = conf.prev_result().expect("an answer is a result").expect("there is one");
    assert_eq!(printed.interfaces(), result.interfaces());
    assert_eq!(printed.answer(version, None), answer);

    let socket = Socket { ifname: "net1", path: "/run/a \"quoted\" path" };
    let told = result.answer(version, Some(socket));
    let again = format!("{{\"cniVersion\":{quoted},\"name\":\"n\",\"prevResult\":{told}}}");
    let conf = vhostuser_hotplug::cni::NetConf::parse(again.into_bytes(), Command::Del).expect("an answer is JSON");
    let printed = conf.prev_result().expect("an answer is a result").expect("there is one");
    assert_eq!(printed.interfaces(), result.interfaces());
    assert_eq!(printed.answer(version, Some(socket)), told, "told once");
}

fn unquoted(raw: &str) -> String {
    serde_json::from_str(raw).unwrap_or_default()
}
