//! The lies: who tells which, and what is to become of it.

use serde_json::{Value, json};
use support::libvirt::{DOMAIN, domain};

use super::row::{Ends, Liar, Row};

/// The UUID of the pod's domain.
const OURS: &str = "11111111-2222-3333-4444-555555555555";

/// The UUID of another.
const OTHER: &str = "22222222-2222-3333-4444-555555555555";

/// All of them.
pub fn all() -> Vec<Row> {
    let rows = [frames(), payloads(), floods(), time(), xml(), domains(), refusals(), untruths(), qemu(), data_plane()];
    rows.into_iter().flatten().collect()
}

fn told(command: &'static str, lie: &'static str, script: Value, code: u64, says: &'static str) -> Row {
    Row { lie, liar: Liar::Libvirt(script), command, ends: Ends::Code(code), lasts: false, says }
}

/// One that lasts until the deadline.
fn lasting(row: Row) -> Row {
    Row { lasts: true, ..row }
}

/// A lie at one kind of call to libvirt, told to an ADD.
fn at(lie: &'static str, call: &str, words: Value, code: u64, says: &'static str) -> Row {
    told("ADD", lie, json!({"lies": [{"at": call, "lie": words}]}), code, says)
}

fn frames() -> Vec<Row> {
    vec![
        at("a frame of 0 bytes", "auth-list", json!({"length": 0}), 102, "0 is not a possible frame length"),
        at("a frame of 3 bytes", "open", json!({"length": 3}), 102, "3 is not a possible frame length"),
        at("a frame of 27 bytes", "list", json!({"length": 27}), 102, "27 is not a possible frame length"),
        at(
            "a frame of one byte more than is taken",
            "xml",
            json!({"length": 4_259_869}),
            102,
            "4259869 is not a possible",
        ),
        at("a frame of 4 GiB", "xml", json!({"length": u32::MAX}), 102, "4294967295 is not a possible frame length"),
        at(
            "a frame of the most that is taken, and no end of it",
            "xml",
            json!({"endless": 4_259_868}),
            102,
            "broke its protocol",
        ),
        lasting(at(
            "a frame that is claimed and never comes",
            "xml",
            json!({"claim": 4_000_000}),
            11,
            "stuck or still at work",
        )),
        at("an end in the middle of a frame", "xml", json!({"cut-at": 500}), 11, "closed the connection"),
        at("another program", "auth-list", json!({"program": 0x2000_8087}), 102, "not to this call"),
        at("another version", "open", json!({"version": 2}), 102, "not to this call"),
        at("another procedure", "list", json!({"procedure": 999}), 102, "not to this call"),
        at(
            "an answer with descriptors announced",
            "xml",
            json!({"type": 5}),
            102,
            "a ReplyWithFds where a Reply belongs",
        ),
        at("a type that the protocol lacks", "xml", json!({"type": 9}), 102, "9 is not a possible message type"),
        at("a status that the protocol lacks", "list", json!({"status": 9}), 102, "9 is not a possible message status"),
        at("an answer that says it goes on", "xml", json!({"status": 2}), 102, "goes on"),
        at("another serial", "list", json!({"serial": 77}), 102, "not to this call"),
        at("an answer to a call that was never made", "xml", json!("unsolicited"), 102, "not to this call"),
        at("an answer that comes twice", "list", json!("twice"), 102, "not to this call"),
    ]
}

fn payloads() -> Vec<Row> {
    vec![
        at("bytes that mean nothing", "list", json!({"garbage": 400}), 102, "broke its protocol"),
        at("an answer that ends too soon", "list", json!({"short-payload": 9}), 102, "needs"),
        at("bytes after the answer", "open", json!({"long-payload": 4}), 102, "4 bytes follow the last value"),
        at("a count of 2^32-1 domains", "list", json!({"first-word": u32::MAX}), 102, "array of 4294967295 elements"),
        at("a count that the frame has no room for", "list", json!({"first-word": 16_384}), 102, "needs 393216 bytes"),
        at(
            "a string that is longer than its frame",
            "xml",
            json!({"first-word": 4_000_000}),
            102,
            "needs 4000000 bytes",
        ),
        at("a string of 2^32-1 bytes", "xml", json!({"first-word": u32::MAX}), 102, "over the limit"),
        at("padding that is not zero", "xml", json!("padding"), 102, "padding is not zero"),
        at("a string that is not UTF-8", "xml", json!("not-utf8"), 102, "not UTF-8"),
        at("a string with a NUL", "xml", json!("nul"), 102, "holds a NUL byte"),
        Row {
            ends: Ends::Well,
            ..at("250 descriptors with each answer", "xml", json!({"gift": 250}), 0, "data plane connected")
        },
    ]
}

fn floods() -> Vec<Row> {
    let own = json!({"answer-then": {"own-flood": OURS}});
    vec![
        at(
            "events that nobody subscribed to, for ever",
            "list",
            json!("unknown-event-flood"),
            102,
            "messages that nothing asked for",
        ),
        at(
            "events of a subscription that was never made, for ever",
            "xml",
            json!({"event-flood": 0}),
            102,
            "more events than",
        ),
        at("events of half a MiB, for ever", "attach", json!("big-flood"), 11, "more events than"),
        at("the same, of no known kind", "xml", json!("big-unknown-flood"), 102, "messages that nothing asked for"),
        lasting(at("pings for ever, and no answer is read", "xml", json!("ping-flood"), 11, "stuck or still at work")),
        told(
            "DEL",
            "events about another domain, for ever",
            json!({"lies": [{"at": "detach-alias", "lie": {"answer-then": {"foreign-flood": OTHER}}}]}),
            102,
            "broke its protocol",
        ),
        told(
            "DEL",
            "events about another device of the VM, for ever",
            json!({"lies": [{"at": "detach-alias", "lie": own}]}),
            102,
            "broke its protocol",
        ),
    ]
}

fn time() -> Vec<Row> {
    let late = |millis: u64| {
        let calls =
            ["connect", "auth-list", "open", "list", "xml", "attach", "persistent", "subscribe", "detach-alias"];
        calls.map(|call| json!({"at": call, "lie": {"delay": millis}}))
    };
    let rows = vec![
        at("silence where a connection begins", "auth-list", json!("silence"), 11, "cannot be spoken to"),
        at("silence about the VM", "xml", json!("silence"), 11, "stuck or still at work"),
        at("silence to the attach", "attach", json!("silence"), 11, "did not answer in time"),
        at("a byte each second", "open", json!({"trickle": 1000}), 11, "did not answer in time"),
        at("an event now and then, and no answer", "xml", json!({"event-drizzle": 20}), 11, "stuck or still at work"),
        at("a ping now and then, and no answer", "attach", json!({"ping-drizzle": 20}), 11, "did not answer in time"),
        told("ADD", "each answer comes late", json!({"lies": late(1500)}), 11, "did not answer in time"),
        told(
            "DEL",
            "silence to the detach",
            json!({"lies": [{"at": "detach-alias", "lie": "silence"}]}),
            11,
            "did not answer in time",
        ),
        told(
            "DEL",
            "silence about the stored NIC",
            json!({"lies": [{"at": "persistent", "lie": "silence"}]}),
            11,
            "did not answer in time",
        ),
        told(
            "DEL",
            "a byte each second of the subscription",
            json!({"lies": [{"at": "subscribe", "lie": {"trickle": 1000}}]}),
            11,
            "did not answer in time",
        ),
    ];
    rows.into_iter().map(lasting).collect()
}

fn one(xml: &str) -> Value {
    json!({"domains": [domain("ns_vm", "1", xml)]})
}

fn described(lie: &'static str, xml: &str, says: &'static str) -> Row {
    told("ADD", lie, one(xml), 102, says)
}

fn xml() -> Vec<Row> {
    let most = (512 << 10) - 32;
    let laughs: String = (1..10).map(|n| format!("<!ENTITY l{n} '{}'>", format!("&l{};", n - 1).repeat(10))).collect();
    let laughs = format!("<!DOCTYPE d [<!ENTITY l0 'lol'>{laughs}]><domain>&l9;</domain>");
    let attributes = |count: usize| (0..count).map(|n| format!(" a{n}=''")).collect::<String>();
    let inside = |text: &str| format!("<domain>{}</domain>", text.repeat(most / text.len()));
    let attribute = |text: &str| format!("<domain a='{}'/>", text.repeat(most / text.len()));
    vec![
        described("no XML", "", "no root element"),
        described("XML that ends in the middle", "<domain><devices", "not well-formed"),
        described(
            "XML of 4 MiB",
            &format!("<domain>{}</domain>", "x".repeat((4 << 20) - 64)),
            "of which 524288 would be",
        ),
        described("a tag of 512 KiB", &format!("<{}", "x".repeat(most)), "not well-formed"),
        described("an end of another name, of 512 KiB", &format!("<a></{}>", "x".repeat(most)), "not well-formed"),
        described(
            "10,000 elements in each other",
            &format!("{}{}", "<a>".repeat(10_000), "</a>".repeat(10_000)),
            "nested deeper than",
        ),
        described("a document type whose entities would make 10^9 words", &laughs, "a document type"),
        described("an entity that nobody declared", "<domain>&xxe;</domain>", "unknown entity"),
        described("an attribute of 512 KiB", &attribute("x"), "is not shared"),
        described("an attribute of 500,000 lines", &attribute("\n"), "is not shared"),
        described("an attribute of 512 KiB of references", &attribute("&lt;"), "more than 20000 references"),
        described("a text of 512 KiB of references", &inside("&#60;"), "more than 20000 references"),
        described("a text of 500,000 lines", &inside("\r"), "more than 20000 references and carriage returns"),
        described("130,000 elements", &inside("<a/>"), "more than 10000 elements"),
        described(
            "an element with 1,000 attributes",
            &format!("<domain{}/>", attributes(1000)),
            "more than 32 attributes",
        ),
        described("60,000 attributes", &inside(&format!("<a{}/>", attributes(32))), "more than 20000 attributes"),
        described(
            "as many elements and attributes as are taken",
            &inside(&format!("<a{}/><!--{}-->", attributes(2), "x".repeat(40))),
            "is not shared",
        ),
    ]
}

fn domains() -> Vec<Row> {
    let many: Vec<Value> =
        (0..1000).map(|n| json!({"name": format!("vm{n}"), "uuid": format!("{n:032x}"), "xml": ""})).collect();
    let full: Vec<Value> =
        (0..16_000).map(|n| json!({"name": "x".repeat(200), "uuid": format!("{n:032x}"), "xml": ""})).collect();
    let name = "n".repeat(64 << 10);
    vec![
        told("ADD", "a thousand VMs", json!({"domains": many}), 7, "several VMs"),
        told("ADD", "as many VMs as fit into a frame", json!({"domains": full}), 7, "several VMs"),
        told(
            "ADD",
            "the same VM two times",
            json!({"domains": [domain("a", "1", DOMAIN), domain("a", "1", DOMAIN)]}),
            7,
            "several VMs",
        ),
        told(
            "ADD",
            "a VM with the id -2",
            json!({"domains": [domain("a", "1", DOMAIN)], "lies": [{"at": "list", "lie": {"last-id": -2}}]}),
            102,
            "-2 is not a possible domain id",
        ),
        Row {
            ends: Ends::Well,
            ..told(
                "ADD",
                "a VM with a name of 64 KiB",
                json!({"domains": [domain(&name, "1", DOMAIN)]}),
                0,
                "data plane connected",
            )
        },
        told(
            "ADD",
            "a VM that no later call knows",
            json!({"lies": [{"at": "list", "lie": "other-uuid"}]}),
            11,
            "not running",
        ),
    ]
}

fn refusals() -> Vec<Row> {
    let error = |code: i32, domain: i32, message: Value, repeat: usize| json!({"error": {"code": code, "domain": domain, "message": message, "repeat": repeat}});
    vec![
        told("ADD", "authentication by SASL", json!({"auth": "sasl"}), 102, "SASL"),
        told(
            "ADD",
            "authentication by polkit, which refuses",
            json!({"auth": "polkit-refused"}),
            102,
            "access denied by policy",
        ),
        at(
            "a million ways to authenticate",
            "auth-list",
            json!({"first-word": 1_000_000}),
            102,
            "array of 1000000 elements",
        ),
        at("an error without words", "attach", error(1, 10, Value::Null, 1), 102, "it does not say why"),
        at(
            "an error of no known number",
            "attach",
            error(i32::MIN, i32::MAX, json!("x"), 1),
            102,
            "libvirt error -2147483648",
        ),
        at("an error of 1 MiB", "attach", error(1, 10, json!("more "), 200_000), 102, "more more"),
        at(
            "an error that does not fit into a frame",
            "attach",
            error(1, 10, json!("x"), 4_194_304),
            11,
            "while attaching a device",
        ),
        at(
            "an error that steers the terminal",
            "attach",
            error(1, 10, json!("\u{1b}[2J\u{1b}]0;x\u{7}\r\n\u{202e}all is well"), 1),
            102,
            r"\u{1b}[2J\u{1b}]0;x\u{7}\r\n\u{202e}all is well",
        ),
        at(
            "an error that looks like the log's own words",
            "attach",
            error(1, 10, json!("x\", done in 1 ms\nADD uid=1: done"), 1),
            102,
            r#": "x\", done in 1 ms\nADD uid=1: done" (libvirt"#,
        ),
    ]
}

fn untruths() -> Vec<Row> {
    let attach = |words: Value| {
        let mut attach = json!({"data_plane": "handshake"});
        attach.as_object_mut().unwrap().extend(words.as_object().unwrap().clone());
        json!({"attach": attach})
    };
    let detach = |guest: &str| json!({"detach": {"guest": guest}});
    vec![
        lasting(told(
            "ADD",
            "it was plugged, and nothing was done",
            attach(json!({"ignore": true})),
            11,
            "did not connect",
        )),
        told(
            "ADD",
            "it was plugged, and the XML does not show it",
            attach(json!({"shows": "nothing"})),
            102,
            "does not show it",
        ),
        told(
            "ADD",
            "it was plugged, with another socket",
            attach(json!({"shows": "other-path"})),
            102,
            "already that of another NIC",
        ),
        lasting(told("ADD", "it was plugged two times", attach(json!({"shows": "twice"})), 102, "shows 2 NICs")),
        lasting(told(
            "ADD",
            "it was plugged, the data plane sees nothing of it, and it cannot be unplugged",
            json!({"attach": {"socket": false}, "detach": {"guest": "never"}}),
            11,
            "could not be unplugged again",
        )),
        lasting(told("DEL", "it was removed, and is still there", detach("pretends"), 11, "has not released")),
        lasting(told("DEL", "the XML does not show it, and QEMU has it", detach("hides"), 11, "listens at its socket")),
        lasting(told("DEL", "the guest was asked, and nothing was done", detach("never"), 11, "has not released")),
    ]
}

fn qemu() -> Vec<Row> {
    let row = |lie, qemu: &str, says| {
        let script = json!({"attach": {"data_plane": "wait", "qemu": qemu}});
        Row { ends: Ends::Well, ..told("ADD", lie, script, 0, says) }
    };
    vec![
        row("QEMU: a message of 4 GiB", "huge", "data plane connected"),
        row("QEMU: a message of version 2", "version", "data plane connected"),
        row("QEMU: a request that nobody knows", "unknown", "data plane connected"),
        row("QEMU: an answer to nothing", "reply", "data plane connected"),
        row("QEMU: a payload of another size", "size", "data plane connected"),
        row("QEMU: half a message", "half", "data plane connected"),
        row("QEMU: a byte each second", "trickle", "data plane connected"),
        row("QEMU: requests for ever", "flood", "data plane connected"),
        row("QEMU: questions for ever, and no answer is read", "deaf", "data plane connected"),
        row("QEMU: 250 descriptors with each message", "gift", "data plane connected"),
        row("QEMU: silence", "silent", "data plane connected"),
    ]
}

fn data_plane() -> Vec<Row> {
    let row = |lie, words, says| Row {
        lie,
        liar: Liar::DataPlane(words),
        command: "ADD",
        ends: Ends::Code(11),
        lasts: true,
        says,
    };
    vec![
        row("data plane: an answer of 4 GiB", "huge", "a message of 4294967295 bytes"),
        row("data plane: an answer of 4097 bytes", "oversize", "a message of 4097 bytes"),
        row("data plane: an answer of version 2", "version", "a message of version 2"),
        row("data plane: a question for an answer", "question", "was answered by the request 1"),
        row("data plane: an answer to another question", "other", "was answered by a reply to 17"),
        row("data plane: half of a word", "short", "was answered by 4 bytes"),
        row("data plane: two words", "long", "was answered by 16 bytes"),
        row("data plane: half of an answer", "half", "it did not answer in time"),
        row("data plane: a byte each second", "trickle", "it did not answer in time"),
        row("data plane: the first answer for ever", "flood", "was answered by a reply to 1"),
        Row { ends: Ends::Well, ..row("data plane: 250 descriptors with each answer", "gift", "data plane connected") },
        row("data plane: it hangs while it starts a device", "doze", "it did not answer in time"),
        row("data plane: it is met, and then hangs", "sleep", "stopped answering"),
    ]
}
