//! R1-R7: exit status, stdout, stderr.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use crate::plugin::{ALL, BINARY, Call, WITH_GC, versions_with};
use crate::scene::Scene;

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn r1_success_is_0_and_failure_is_not() {
    let scene = Scene::new();
    for version in ALL {
        let add = Call::new("ADD", version, &scene);
        assert_eq!(add.run().status.code(), Some(0), "{version}");
        assert_eq!(add.member("cniVersion", "\"99.0.0\"").run().status.code(), Some(1), "{version}");
    }
}

#[test]
fn r1_a_result_that_could_not_be_written_is_no_success() {
    let scene = Scene::new();
    let version = Call::bare("VERSION");
    for call in ALL.map(|version| Call::new("ADD", version, &scene)).into_iter().chain([version]) {
        let mut command = call.command();
        command.stdout(full());
        assert_eq!(call.run_as(command).status.code(), Some(1));

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = call.command();
        command.stdout(writer);
        // EPIPE, and not the signal that comes before it.
        let status = call.run_as(command).status;
        assert_eq!((status.code(), status.signal()), (Some(1), None));
    }
}

#[test]
fn r1_what_prints_nothing_does_not_need_stdout() {
    let scene = Scene::new();
    for (command, version) in [("DEL", "0.3.1"), ("CHECK", "1.0.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")] {
        let call = Call::new(command, version, &scene);
        let mut process = call.command();
        process.stdout(full());
        call.run_as(process).silent();
    }
}

#[test]
fn r1_closed_descriptors_end_no_call_by_a_signal() {
    let scene = Scene::new();
    for redirection in [">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-"] {
        for command in ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"] {
            let call = Call::new(command, "1.1.0", &scene);
            let script = format!("exec \"$0\" {redirection}");
            let process = call.command_of("/bin/sh", &["-c", &script, BINARY].map(OsStr::new));
            // That it ended by itself, and not with a code that a panic or a shell makes, is held against every call.
            call.run_as(process);
        }
    }
}

#[test]
fn r2_the_result_is_one_document_and_no_log_level_changes_that() {
    let scene = Scene::new();
    for version in ALL {
        for level in ["error", "warn", "info", "debug"] {
            let call = Call::new("ADD", version, &scene).env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
            let result = call.member("log_level", &format!("\"{level}\"")).run().document();
            assert_eq!(result["cniVersion"], version, "{level}");
        }
    }
}

#[test]
fn r2_stdout_is_at_its_end_when_the_plugin_is() {
    let scene = Scene::new();
    for command in ["ADD", "DEL", "STATUS"] {
        // The wait for the end of stdout is part of every call; it would not end with a child that keeps it open.
        assert!(Call::new(command, "1.1.0", &scene).run().status.success());
    }
}

#[test]
fn r3_r4_an_error_is_an_object_on_stdout_in_the_configurations_version() {
    let scene = Scene::new();
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        for version in versions_with(command) {
            let call = Call::new(command, version, &scene);
            let bad_name = call.clone().member("name", "\"-\"").run().refused(&[7]);
            assert_eq!(bad_name.version, *version, "{command}");
            let bad_type = call.clone().member("name", "7").run().refused(&[6]);
            assert_eq!(bad_type.version, *version, "{command}");
            if !WITH_GC.contains(version) || matches!(command, "ADD" | "DEL" | "CHECK") {
                let bad_id = call.env("CNI_CONTAINERID", "/").run().refused(&[4]);
                assert_eq!(bad_id.version, *version, "{command}");
            }
        }
    }
    for version in ALL {
        let unknown = Call::new("FINALIZE", version, &scene).run().refused(&[4]);
        assert_eq!(unknown.version, version);
    }
}

#[test]
fn r4_an_error_without_a_readable_configuration_is_in_a_released_version() {
    let scene = Scene::new();
    for stdin in ["", "{", "[]", "{\"cniVersion\":\"99.0.0\"}", "{\"cniVersion\":7}"] {
        // That the version is one of the list is held against every error.
        Call::new("ADD", "1.0.0", &scene).stdin(stdin).run().refusal();
    }
}

#[test]
fn r5_codes_below_100_mean_what_the_specification_says() {
    let scene = Scene::new();
    let add = Call::new("ADD", "1.0.0", &scene);
    let long = "x".repeat(1 << 20);
    for (call, code) in [
        (add.clone().member("cniVersion", "\"1.2.0\""), 1),
        (add.clone().env("CNI_IFNAME", ""), 4),
        (add.clone().stdin("{"), 6),
        (add.clone().member("name", "\"\""), 7),
        (add.clone().member("queues", "\"many\""), 7),
        (add.clone().member("name", &format!("\"-{long}\"")), 7),
        (add.clone().member("queues", &format!("\"{long}\"")), 7),
        (add.clone().member("type", &format!("[\"{long}\"]")), 6),
        (add.clone().member("cniVersion", &format!("\"{long}\"")), 1),
    ] {
        let refusal = call.run().refused(&[code]);
        assert!(refusal.text.len() < 32 << 10, "an error need not repeat all of its cause: {}", refusal.text.len());
    }
}

#[test]
fn r6_what_has_no_result_prints_nothing() {
    let scene = Scene::new();
    for command in ["DEL", "CHECK", "GC", "STATUS"] {
        for version in versions_with(command) {
            Call::new(command, version, &scene).run().silent();
        }
    }
}

#[test]
fn r7_nothing_depends_on_stderr() {
    let scene = Scene::new();
    for version in ALL {
        for broken in [false, true] {
            let stderr = || if broken { full() } else { Stdio::null() };
            let call = Call::new("ADD", version, &scene).member("log_level", "\"debug\"");
            let mut process = call.command();
            process.stderr(stderr());
            call.run_as(process).document();
            let call = call.member("name", "\"\"");
            let mut process = call.command();
            process.stderr(stderr());
            call.run_as(process).refused(&[7]);
        }
    }
}
