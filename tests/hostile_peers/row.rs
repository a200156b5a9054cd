//! One lie, told to the real binary: how the call ended, when, and with how much memory.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::patience::{MARGIN, output};
use support::{Answer, Call, DataPlane, Double, Node, Pod, answer, new_uid, tool};

/// The deadline of a call, in seconds: more than the longest lie takes on a busy machine.
const TIMEOUT: u64 = 60;

/// The same where it is the deadline that ends the call.
const SHORT: u64 = 4;

/// Most memory that a call may have resident at any time, in KiB, whatever it is told; docs/lies.md says what that is made
/// of.
pub const PEAK_MAX: u64 = 16_384;

/// Who lies.
pub enum Liar {
    /// libvirtd, by a script of the double.
    Libvirt(Value),
    /// The data plane, by the double's own words for it.
    DataPlane(&'static str),
}

/// How a call has to end.
#[derive(Clone, Copy, PartialEq)]
pub enum Ends {
    /// With this code.
    Code(u64),
    /// With success: nothing that was said mattered. The log may tell of it.
    Well,
}

/// A lie, and what is to become of it.
pub struct Row {
    /// As docs/lies.md names it.
    pub lie: &'static str,
    pub liar: Liar,
    /// The call that is lied to: a DEL follows an ADD.
    pub command: &'static str,
    pub ends: Ends,
    /// Whether it is the deadline that ends the call, and not the lie.
    pub lasts: bool,
    /// What the operator reads: in the error, or in the log of a call that succeeds.
    pub says: &'static str,
}

/// What was measured.
pub struct Outcome {
    pub took: Duration,
    pub peak: u64,
}

/// A call under the wrapper that measures memory.
pub fn measured(call: Call, node: &Node) -> (Answer, Outcome) {
    let file = std::env::temp_dir().join(format!("vhu-lies-{}", new_uid()));
    let words: Vec<PathBuf> = vec![tool("measured"), file.clone()];
    let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap()).collect();
    let child = call.through(&words).start(node);
    let began = Instant::now();
    let answer = answer(output(child));
    let took = began.elapsed();
    let peak = std::fs::read_to_string(&file).expect("the wrapper writes").parse().unwrap();
    std::fs::remove_file(file).unwrap();
    (answer, Outcome { took, peak })
}

impl Row {
    /// As docs/lies.md shows it, but for what is measured.
    pub fn cells(&self) -> [String; 4] {
        let code = match self.ends {
            Ends::Code(code) => code.to_string(),
            Ends::Well => "–".to_owned(),
        };
        [self.lie.to_owned(), self.command.to_owned(), code, format!("`{}`", self.says)]
    }

    /// Tells the lie, and holds the call's end against what it has to be.
    pub fn tell(&self, node: &Node) -> Outcome {
        let pod = Pod::new(node);
        let (double, _plane) = match &self.liar {
            Liar::Libvirt(script) => (Double::start(&pod, script), DataPlane::start(node, &pod, "net1")),
            Liar::DataPlane(lie) => {
                (Double::start(&pod, &json!({})), DataPlane::with(node, &pod, "net1", &["--lie", lie]))
            }
        };
        let add = pod.add();
        if self.command == "DEL" {
            add.run(node).succeeded();
        }
        let timeout = if self.lasts { SHORT } else { TIMEOUT };
        let call =
            add.command(self.command).set("attach_timeout", json!(timeout)).set("detach_timeout", json!(timeout));
        let (answer, outcome) = measured(call, node);
        drop(double);
        let lie = self.lie;
        let told = match self.ends {
            Ends::Code(code) => {
                assert!(!answer.ok && answer.code() == code, "{lie}: {answer:#?}");
                answer.text()
            }
            Ends::Well => {
                assert!(answer.ok, "{lie}: {answer:#?}");
                answer.log.clone()
            }
        };
        assert!(told.contains(self.says), "{lie}: {:?} is not in {told}", self.says);
        assert!(outcome.took < Duration::from_secs(timeout) + MARGIN, "{lie} held the call for {:?}", outcome.took);
        assert!(outcome.peak < PEAK_MAX, "{lie} took {} KiB", outcome.peak);
        for text in [answer.text(), answer.log.replace('\n', "")] {
            assert!(!text.contains(char::is_control), "{lie}: {text:?}");
            assert!(text.len() < 100_000, "{lie}: {} bytes are told", text.len());
        }
        outcome
    }
}
