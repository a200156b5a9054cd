//! R29-R32: VERSION, and that the versions it lists are honoured.

use std::ffi::OsStr;

use crate::plugin::{ALL, BINARY, Call, quoted};
use crate::scene::Scene;

#[test]
fn r29_r30_the_answer_lists_every_version_and_echoes_the_one_asked_with() {
    for version in ALL {
        let stdin = format!("{{\"cniVersion\":{}}}", quoted(version));
        let answer = Call::bare("VERSION").stdin(stdin).run().document();
        assert_eq!(answer["cniVersion"], version);
        assert_eq!(answer["supportedVersions"], serde_json::json!(ALL));
        assert_eq!(answer.as_object().unwrap().len(), 2, "{answer}");
    }
}

#[test]
fn r31_version_needs_nothing_but_its_command() {
    for stdin in
        ["", "{}", "null", "garbage", "{\"cniVersion\":\"99.0.0\"}", "{\"cniVersion\":[]}", "{\"cniVersion\":\"1"]
    {
        let answer = Call::bare("VERSION").stdin(stdin).run().document();
        assert!(answer["supportedVersions"].as_array().unwrap().contains(&answer["cniVersion"]), "{stdin}: {answer}");
        assert_eq!(answer["supportedVersions"], serde_json::json!(ALL));
    }
    // As libcni asks.
    let dummies = Call::bare("VERSION").env("CNI_NETNS", "dummy").env("CNI_IFNAME", "dummy").env("CNI_PATH", "dummy");
    dummies.stdin("{\"cniVersion\":\"1.0.0\"}").run().document();
    // Variables that other commands would refuse.
    Call::bare("VERSION").env("CNI_CONTAINERID", "/").env("CNI_IFNAME", "a/b").run().document();
}

#[test]
fn r31_version_answers_with_no_stdin_at_all() {
    let call = Call::bare("VERSION");
    let closed = call.command_of("/bin/sh", &["-c", "exec \"$0\" <&-", BINARY].map(OsStr::new));
    call.run_as(closed).document();
    let mut directory = call.command();
    directory.stdin(std::fs::File::open("/").unwrap());
    call.run_as(directory).document();
}

#[test]
fn r31_version_does_not_wait_for_the_end_of_stdin() {
    let (reader, writer) = std::io::pipe().unwrap();
    let call = Call::bare("VERSION");
    let mut process = call.command();
    process.stdin(reader);
    call.run_as(process).document();
    drop(writer);
}

#[test]
fn r32_every_listed_version_is_honoured() {
    let scene = Scene::new();
    let answer = Call::bare("VERSION").run().document();
    for version in answer["supportedVersions"].as_array().unwrap() {
        let version = version.as_str().unwrap();
        assert_eq!(Call::new("ADD", version, &scene).run().document()["cniVersion"], version);
        Call::new("DEL", version, &scene).run().silent();
    }
}
