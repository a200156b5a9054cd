//! Names, paths and words with every metacharacter: they change the structure neither of what libvirt is sent, nor of
//! what is logged, nor of what is answered.

use serde_json::{Value, json};
use support::fields::{own_words, parse};
use support::libvirt::{DOMAIN, domain};
use support::{Answer, DataPlane, Double, INSIDE, Node, Pod};
use vhostuser_hotplug::vm::xml::Element;

/// Part of each hostile text; it must never stand among the plugin's own words.
const MARK: &str = "FORGED";

/// Texts that mean something to XML, to logs, to shells, to terminals, to eyes.
pub fn nasty() -> Vec<String> {
    let mut all: Vec<String> = [
        "'/><FORGED a='",
        "\"/><FORGED a=\"",
        "</interface><FORGED>",
        "]]><FORGED>",
        "<!--FORGED",
        "<?FORGED ?>",
        "&FORGED;&amp;&#0;",
        "a uid=FORGED",
        "a: done in 0 ms FORGED",
        "a; FORGED 1 ms",
        "\" uid=FORGED: x \"",
        "\\\" uid=FORGED \\",
        "$(FORGED)`FORGED`",
        "%s%n{FORGED}",
        "FORGED\u{a0}\u{3000}x",
        "\u{202e}FORGED\u{2066}",
        "\u{200b}FORGED\u{feff}\u{e0041}",
    ]
    .map(str::to_owned)
    .into();
    all.extend(controls());
    all.push(format!("FORGED {}", "x".repeat(65_536)));
    all.push(format!("FORGED {}", "\u{1b}\"".repeat(20_000)));
    all
}

/// Those that no XML can hold, or that it does not keep as they are.
fn controls() -> Vec<String> {
    ["a\nADD uid=FORGED: done", "a\r\n\tFORGED", "\u{1b}[2J\u{1b}]0;FORGED\u{7}", "\u{1}\u{7f}\u{85}FORGED"]
        .map(str::to_owned)
        .into()
}

/// Each of its records is one line, with a head that is read back, and no text of others outside quotes; the answer
/// is one object of bounded length, which steers nothing.
fn sound(answer: &Answer, what: &str) {
    for line in answer.log.lines() {
        let message = line.strip_prefix("vhostuser-hotplug: ").and_then(|rest| rest.split_once(": "));
        let (_, message) = message.unwrap_or_else(|| panic!("{what}: not a record: {line:?}"));
        let own = own_words(message).unwrap_or_else(|| panic!("{what}: a quote does not end: {message}"));
        assert!(!own.contains(MARK), "{what}: {message}");
        assert!(!message.contains(char::is_control) && message.len() < 8100, "{what}: {message:?}");
        if message.starts_with("ADD ") || message.starts_with("DEL ") {
            let record = parse(message).unwrap_or_else(|| panic!("{what}: {message}"));
            let keys: Vec<&str> = record.fields.iter().map(|(key, _)| key.as_str()).collect();
            assert_eq!(keys, ["containerid", "ifname", "netns", "pod", "uid"], "{what}: {message}");
        }
    }
    if !answer.ok {
        let object = answer.json.as_object().unwrap();
        assert_eq!(object.keys().collect::<Vec<_>>(), ["cniVersion", "code", "details", "msg"], "{what}");
        let text = answer.text();
        assert!(!text.contains(char::is_control) && !text.contains('\u{202e}'), "{what}: {text:?}");
        assert!(own_words(&text).is_some_and(|own| !own.contains(MARK)), "{what}: {text}");
        assert!(object["msg"].as_str().unwrap().len() < 4200 && text.len() < 21_000, "{what}: {} bytes", text.len());
    }
}

/// What libvirt was sent: exactly the elements and attributes that a NIC has, with this alias and path.
fn is_the_nic(xml: &str, alias: &str, path: &str) {
    let nic = Element::parse(xml).unwrap_or_else(|error| panic!("{error}: {xml}"));
    assert_eq!((nic.name.as_str(), nic.attribute("type"), nic.text()), ("interface", Some("vhostuser"), ""), "{xml}");
    let names: Vec<&str> = nic.all_children().iter().map(|child| child.name.as_str()).collect();
    assert_eq!(names, ["mac", "source", "model", "driver", "alias", "rom"], "{xml}");
    assert!(nic.all_children().iter().all(|child| child.all_children().is_empty() && child.text().is_empty()), "{xml}");
    for (child, attributes) in [
        ("mac", vec![("address", "00:00:00:24:65:f4")]),
        ("source", vec![("type", "unix"), ("path", path), ("mode", "server")]),
        ("model", vec![("type", "virtio-non-transitional")]),
        ("driver", vec![("name", "vhost"), ("queues", "2")]),
        ("alias", vec![("name", alias)]),
        ("rom", vec![("enabled", "no")]),
    ] {
        for (name, value) in attributes {
            assert_eq!(nic.child_attribute(child, name), Some(value), "{child} {name} in {xml}");
        }
    }
    assert_eq!(xml.matches('=').count() - alias.matches('=').count() - path.matches('=').count(), 10, "{xml}");
}

fn sent(double: &Double) -> String {
    let calls = double.calls();
    let (_, args) = calls.iter().find(|(call, _)| call == "attach").unwrap_or_else(|| panic!("{calls:?}"));
    args["device"].as_str().unwrap().to_owned()
}

#[test]
fn names_of_a_pod_are_quoted_in_the_log() {
    let (node, pod) = Node::with_pod();
    for name in nasty() {
        // All three are in one variable, which Linux bounds by 128 KiB.
        let name: String = name.chars().take(20_000).collect();
        let args = format!("K8S_POD_NAMESPACE={name};K8S_POD_NAME={name};K8S_POD_UID={name}");
        for call in [pod.add().args(&args), pod.add().args(&args).netns(&format!("/nowhere/{name}"))] {
            sound(&call.set("attach", json!("always")).run(&node), &name);
        }
        let answer = pod.add().args(&format!("K8S_POD_NAME={name};K8S_POD_UID={}", pod.uid)).run(&node);
        assert_eq!(answer.code(), 11, "there is no libvirt: {answer:?}");
        sound(&answer, &name);
    }
}

#[test]
fn an_interfaces_name_is_sent_as_it_is_and_quoted_elsewhere() {
    let node = Node::new();
    for name in ["'/><a='", "\"&lt;&\"", "$(id)`id`", "a;uid=b", "ä<ö>ü", "\u{202e}1ten", "a=b"] {
        let name = name.replace('/', "|");
        let pod = Pod::new(&node);
        let _plane = DataPlane::start(&node, &pod, &name);
        let double = Double::start(&pod, &json!({}));
        let call = pod.add().ifname(&name);
        let answer = call.run(&node);
        answer.succeeded();
        sound(&answer, &name);
        let alias: String = name
            .bytes()
            .map(
                |byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("_{byte:02x}") },
            )
            .collect();
        is_the_nic(&sent(&double), &format!("ua-{alias}-ifname-spelled"), &format!("{INSIDE}/{name}"));
        let answer = call.command("DEL").run(&node);
        answer.succeeded();
        sound(&answer, &name);
        assert!(node.is_clean(&pod.uid), "{name}");
    }
}

/// Mounts the volume at this path inside the container, and nowhere else.
fn remount(pod: &Pod, path: &str) {
    let script = "mkdir -p \"$1\" && mount --bind \"$2\" \"$1\" && umount \"$2\"";
    assert!(pod.command("sh").args(["-c", script, "sh", path, INSIDE]).status().unwrap().success(), "{path:?}");
}

#[test]
fn a_mount_point_of_the_pod_is_sent_as_it_is_or_refused() {
    let node = Node::new();
    let short = nasty().into_iter().filter(|text| text.len() < 80);
    for path in short.map(|text| format!("/run/v/{}", text.replace('/', "|"))) {
        let pod = Pod::new(&node);
        remount(&pod, &path);
        let _plane = DataPlane::start(&node, &pod, "net1");
        let double = Double::start(&pod, &json!({}));
        let answer = pod.add().run(&node);
        sound(&answer, &path);
        if path.contains(char::is_control) {
            assert_eq!(answer.code(), 103, "{path:?}: {answer:?}");
            assert_eq!(double.count("attach"), 0);
            continue;
        }
        answer.succeeded();
        is_the_nic(&sent(&double), "ua-net1", &format!("{path}/net1"));
        let check = pod.call("CHECK").run(&node);
        check.succeeded();
        let answer = pod.del().run(&node);
        answer.succeeded();
        sound(&answer, &path);
    }
}

#[test]
fn a_mount_point_that_is_too_long_is_told_in_quotes() {
    let (node, pod) = Node::with_pod();
    remount(&pod, &format!("/run/v/FORGED uid=1: {}", "x".repeat(120)));
    let _double = Double::start(&pod, &json!({}));
    let answer = pod.add().run(&node);
    assert_eq!(answer.code(), 7, "{answer:?}");
    sound(&answer, "a long path");
}

#[test]
fn a_mac_address_that_is_none_is_told_in_quotes() {
    let (node, pod) = Node::with_pod();
    for mac in nasty() {
        let answer = pod.add().mac(&mac).run(&node);
        assert_eq!(answer.code(), 7, "{answer:?}");
        sound(&answer, &mac);
    }
}

/// A domain with a NIC of this alias, path and MAC address.
fn with_nic(alias: &str, path: &str, mac: &str) -> Value {
    let escape = |text: &str| quick_xml::escape::escape(text).into_owned();
    let nic = format!(
        "<interface type='vhostuser'><mac address='{}'/><source type='unix' path='{}' mode='server'/>\
         <model type='virtio-non-transitional'/><driver name='vhost' queues='2'/><alias name='{}'/></interface></devices>",
        escape(mac),
        escape(path),
        escape(alias)
    );
    json!({"domains": [domain("ns_vm", "1", &DOMAIN.replace("</devices>", &nic))]})
}

#[test]
fn what_libvirt_names_is_told_in_quotes() {
    let (node, pod) = Node::with_pod();
    let (mac, path) = ("00:00:00:24:65:f4", format!("{INSIDE}/net1"));
    for text in nasty() {
        let others = json!({"domains": [domain(&text, "1", DOMAIN), domain("b", "2", DOMAIN)]});
        for (script, code) in [(others, 7), (with_nic(&text, "/x", mac), 100), (with_nic("ua-x", &path, &text), 100)] {
            let _double = Double::start(&pod, &script);
            let answer = pod.add().run(&node);
            assert_eq!(answer.code(), code, "{answer:?}");
            sound(&answer, &text);
        }
    }
}

#[test]
fn an_alias_of_any_length_does_not_spoil_the_record() {
    let node = Node::new();
    let (mac, path) = ("00:00:00:24:65:f4", format!("{INSIDE}/net1"));
    let try_it = |text: String| {
        let pod = Pod::new(&node);
        let _double = Double::start(&pod, &with_nic(&text, &path, mac));
        // A double has no socket for what its VM had at the start; the NIC is recorded all the same.
        let answer = pod.add().set("attach_timeout", json!(4)).run(&node);
        assert_eq!(answer.code(), 11, "{answer:?}");
        assert!(answer.text().contains("plugged already, and no data plane"), "{answer:?}");
        sound(&answer, &text);
        let answer = pod.call("CHECK").run(&node);
        assert!(!answer.log.contains("broken") && answer.code() == 104, "{answer:?}");
        assert!(answer.text().contains("data plane: nobody") && !answer.text().contains("NIC:"), "{answer:?}");
        let answer = pod.del().run(&node);
        answer.succeeded();
        sound(&answer, &text);
        assert!(node.is_clean(&pod.uid), "{text}");
    };
    std::thread::scope(|scope| nasty().into_iter().for_each(|text| drop(scope.spawn(|| try_it(text)))));
}
