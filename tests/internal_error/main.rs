//! A panic is a defect, but no user is to meet one: what reaches the runtime is an error object and exit status 1.
//!
//! There is no way to make the real binary panic, so this test is a plugin of its own, with the real front and a verb
//! that does nothing but panic; it starts itself as a runtime would. It has no harness, which would catch the panic.

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use vhostuser_hotplug::cni::{self, Error};

const CONFIG: &str = r#"{"cniVersion":"0.3.1","name":"n","type":"t"}"#;

fn main() -> ExitCode {
    match std::env::var("CNI_ARGS").as_deref() {
        Ok("PANIC=here") => cni::serve(|_| panic!("a \"defect\"\nof two lines")),
        Ok("PANIC=elsewhere") => cni::serve(|_| {
            thread::scope(|scope| drop(scope.spawn(|| panic!("a defect of a thread")).join()));
            Err(Error::internal("the process should have ended"))
        }),
        _ => {
            for (place, words) in [("here", r#"a "defect"\nof two lines"#), ("elsewhere", "a defect of a thread")] {
                shows_an_error_object(place, words);
                println!("a panic {place} ... ok");
            }
            ExitCode::SUCCESS
        }
    }
}

fn shows_an_error_object(place: &str, words: &str) {
    let mut plugin = Command::new(std::env::current_exe().unwrap())
        .env_clear()
        .envs([("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0")])
        .env("CNI_ARGS", format!("PANIC={place}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    plugin.stdin.take().unwrap().write_all(CONFIG.as_bytes()).unwrap();
    let output = plugin.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!((&object["code"], &object["cniVersion"]), (&199.into(), &"0.3.1".into()), "{object}");
    let details = object["details"].as_str().unwrap();
    assert!(details.contains(words) && details.contains("main.rs"), "{details}");
}
