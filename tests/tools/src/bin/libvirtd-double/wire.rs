//! The wire, written from the protocol's description and apart from the client's code.

/// Which program a frame belongs to.
pub const REMOTE: u32 = 0x2000_8086;
/// The keepalive program.
pub const KEEPALIVE: u32 = u32::from_be_bytes(*b"keep");

/// Builds a payload.
#[derive(Clone, Default)]
pub struct Out(pub Vec<u8>);

impl Out {
    /// A word, signed or not.
    pub fn word(mut self, value: impl Into<i64>) -> Self {
        let bytes = value.into().to_be_bytes();
        self.0.extend_from_slice(&bytes[4..]);
        self
    }

    /// A double word.
    pub fn double(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A string.
    pub fn text(self, value: &str) -> Self {
        let mut out = self.word(i64::try_from(value.len()).unwrap());
        out.0.extend_from_slice(value.as_bytes());
        while !out.0.len().is_multiple_of(4) {
            out.0.push(0);
        }
        out
    }

    /// A string, or none.
    pub fn maybe(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.word(1).text(value),
            None => self.word(0),
        }
    }

    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Takes a call's arguments apart; None where they end too soon.
pub struct In<'a>(pub &'a [u8]);

impl In<'_> {
    /// A signed word.
    pub fn word(&mut self) -> Option<i32> {
        let (word, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(i32::from_be_bytes(*word))
    }

    /// A string.
    pub fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.word()?).ok()?;
        let text = String::from_utf8(self.0.get(..length)?.to_vec()).ok()?;
        self.0 = self.0.get(length.next_multiple_of(4)..)?;
        Some(text)
    }

    /// A UUID.
    pub fn uuid(&mut self) -> Option<[u8; 16]> {
        let (uuid, rest) = self.0.split_first_chunk::<16>()?;
        self.0 = rest;
        Some(*uuid)
    }

    /// A domain's name and UUID; its id plays no part.
    pub fn domain(&mut self) -> Option<(String, [u8; 16])> {
        let named = (self.text()?, self.uuid()?);
        self.word()?;
        Some(named)
    }
}

/// The six words of a header.
#[derive(Clone, Copy)]
pub struct Head {
    pub program: u32,
    pub version: u32,
    pub procedure: i32,
    pub kind: i32,
    pub serial: u32,
    pub status: i32,
}

impl Head {
    /// Reads one from the 24 bytes after the length.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let mut words = In(bytes);
        let mut next = || words.word();
        Some(Self {
            program: next()?.cast_unsigned(),
            version: next()?.cast_unsigned(),
            procedure: next()?,
            kind: next()?,
            serial: next()?.cast_unsigned(),
            status: next()?,
        })
    }

    /// A whole frame.
    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        Out::default()
            .word(i64::try_from(payload.len() + 28).unwrap())
            .word(self.program)
            .word(self.version)
            .word(self.procedure)
            .word(self.kind)
            .word(self.serial)
            .word(self.status)
            .raw(payload)
            .0
    }

    /// The header of an event: libvirt gives it serial 1, whatever its own comment says.
    pub fn event(procedure: i32) -> Self {
        Self { program: REMOTE, version: 1, procedure, kind: 2, serial: 1, status: 0 }
    }
}

/// What a refusal says.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: i32,
    pub domain: i32,
    pub message: Option<String>,
    pub errno: Option<i32>,
}

impl Refusal {
    /// A refusal with words.
    pub fn new(code: i32, domain: i32, message: impl Into<String>) -> Self {
        Self { code, domain, message: Some(message.into()), errno: None }
    }

    /// The same, as a daemon with another locale says it.
    pub fn in_another_language(self) -> Self {
        Self {
            message: self.message.map(|_| "Vorgang nicht möglich: その操作は実行できません".to_owned()), ..self
        }
    }

    /// As libvirt 11.3 sends it: the format in the first string, the part after the first colon in the second.
    pub fn payload(&self) -> Vec<u8> {
        let message = self.message.as_deref();
        let inner = message.map(|message| message.split_once(": ").map_or(message, |(_, inner)| inner));
        Out::default()
            .word(self.code)
            .word(self.domain)
            .maybe(message)
            .word(2)
            .word(0)
            .maybe(message.map(|_| "%1$s"))
            .maybe(inner)
            .maybe(None)
            .word(self.errno.unwrap_or(-1))
            .word(-1)
            .word(0)
            .0
    }
}
