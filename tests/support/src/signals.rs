//! Signals to programs that were started through nsenter(1), which stays as their parent.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The pid of the program itself. Each nsenter that enters a pid namespace has one child, once it has entered.
pub fn program(of: u32) -> u32 {
    let patience = Instant::now() + Duration::from_secs(60);
    let own = std::env::current_exe().unwrap();
    let mut pid = of;
    loop {
        // The parent of a process that becomes another program goes on before the kernel has given it that program's name.
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        if program != own && !program.ends_with("nsenter") {
            break;
        }
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        match children.split_whitespace().next() {
            Some(child) => pid = child.parse().unwrap(),
            None if Instant::now() < patience => std::thread::sleep(Duration::from_millis(1)),
            None => panic!("{pid} has no child"),
        }
    }
    pid
}

/// The plugin's pid, of a call that was started.
pub fn plugin(call: &Child) -> u32 {
    program(call.id())
}

/// Lets a program go on that was stopped. nsenter stops along with its child.
pub fn go_on(of: u32) {
    send("CONT", program(of));
    send("CONT", of);
}

pub fn send(signal: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -{signal} {pid}");
}
