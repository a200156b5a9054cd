//! The part of XDR (RFC 4506) that libvirt uses: big-endian words, and strings and fixed opaque data padded to whole
//! words.
//!
//! The reader compares each length with the remaining bytes before it takes anything, and reserves no memory ahead.

/// The longest string libvirt itself allows on the wire, in bytes (`REMOTE_STRING_MAX` in `remote_protocol.x`).
pub const STRING_MAX: usize = 4_194_304;

/// The size of an XDR word in bytes; everything is padded to it.
const WORD: usize = 4;

/// Bytes that are not valid XDR, or a value that can't be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a value needs {needed} bytes where {left} are left")]
    Short { needed: usize, left: usize },
    #[error("a string of {0} bytes is over the limit of {STRING_MAX}")]
    LongString(usize),
    #[error("an array of {count} elements is over the limit of {most}")]
    LongArray { count: usize, most: usize },
    #[error("padding is not zero")]
    Padding,
    #[error("a string is not UTF-8")]
    NotUtf8,
    #[error("a string holds a NUL byte")]
    Nul,
    #[error("a flag is {0}, neither 0 nor 1")]
    NotBool(u32),
    #[error("{value} is not a possible {what}")]
    Impossible { what: &'static str, value: i64 },
    #[error("{0} bytes follow the last value")]
    Trailing(usize),
}

/// Takes values off the front of a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Creates a reader at the start of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns the number of unread bytes.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) =
            self.rest.split_at_checked(count).ok_or(Error::Short { needed: count, left: self.rest.len() })?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads `N` bytes of fixed opaque data.
    ///
    /// # Errors
    /// [`Error::Short`]; [`Error::Padding`] when the padding to a whole word is not zero.
    pub fn opaque<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let bytes = self.padded(N)?;
        bytes.try_into().map_err(|_| Error::Short { needed: N, left: bytes.len() })
    }

    /// Takes `count` bytes and the zeros that pad them to a whole word.
    fn padded(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let bytes = self.take(count)?;
        let padding = self.take(padding(count))?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(Error::Padding);
        }
        Ok(bytes)
    }

    /// Reads an unsigned word.
    ///
    /// # Errors
    /// [`Error::Short`].
    pub fn u32(&mut self) -> Result<u32, Error> {
        self.opaque().map(u32::from_be_bytes)
    }

    /// Reads a signed word; also an enumeration.
    ///
    /// # Errors
    /// [`Error::Short`].
    pub fn i32(&mut self) -> Result<i32, Error> {
        self.opaque().map(i32::from_be_bytes)
    }

    /// Reads an unsigned double word ("unsigned hyper").
    ///
    /// # Errors
    /// [`Error::Short`].
    pub fn u64(&mut self) -> Result<u64, Error> {
        self.opaque().map(u64::from_be_bytes)
    }

    /// Reads a flag: a word that is 0 or 1.
    ///
    /// # Errors
    /// [`Error::Short`], [`Error::NotBool`].
    pub fn bool(&mut self) -> Result<bool, Error> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Error::NotBool(other)),
        }
    }

    /// Reads a string, borrowed from the input.
    ///
    /// # Errors
    /// [`Error::Short`], [`Error::LongString`], [`Error::Padding`], [`Error::NotUtf8`], [`Error::Nul`].
    pub fn string(&mut self) -> Result<&'a str, Error> {
        let length = index(self.u32()?);
        if length > STRING_MAX {
            return Err(Error::LongString(length));
        }
        let text = std::str::from_utf8(self.padded(length)?).map_err(|_| Error::NotUtf8)?;
        if text.contains('\0') {
            return Err(Error::Nul);
        }
        Ok(text)
    }

    /// Reads a value that may be absent.
    ///
    /// # Errors
    /// Those of [`Reader::bool`] and of `value`.
    pub fn option<T>(&mut self, value: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<Option<T>, Error> {
        if self.bool()? { value(self).map(Some) } else { Ok(None) }
    }

    /// Reads an array of at most `most` elements, each of at least `smallest` bytes on the wire.
    ///
    /// # Errors
    /// [`Error::LongArray`]; [`Error::Short`] at once if the count can't fit into the remaining bytes; those of
    /// `element`.
    pub fn array<T>(
        &mut self,
        most: usize,
        smallest: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        let count = index(self.u32()?);
        if count > most {
            return Err(Error::LongArray { count, most });
        }
        let needed = count.saturating_mul(smallest);
        if needed > self.left() {
            return Err(Error::Short { needed, left: self.left() });
        }
        (0..count).map(|_| element(self)).collect()
    }

    /// Checks that everything has been read.
    ///
    /// # Errors
    /// [`Error::Trailing`].
    pub fn finish(self) -> Result<(), Error> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(Error::Trailing(count)),
        }
    }
}

/// Appends values to a byte buffer.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Creates an empty writer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Writes fixed opaque data, padded.
    pub fn opaque(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().saturating_add(padding(bytes.len())), 0);
    }

    /// Writes an unsigned word.
    pub fn u32(&mut self, value: u32) {
        self.opaque(&value.to_be_bytes());
    }

    /// Writes a signed word.
    pub fn i32(&mut self, value: i32) {
        self.opaque(&value.to_be_bytes());
    }

    /// Writes a string.
    ///
    /// # Errors
    /// [`Error::LongString`], [`Error::Nul`]: the daemon would close the connection, or read half of it.
    pub fn string(&mut self, value: &str) -> Result<(), Error> {
        if value.contains('\0') {
            return Err(Error::Nul);
        }
        let length = u32::try_from(value.len())
            .ok()
            .filter(|_| value.len() <= STRING_MAX)
            .ok_or(Error::LongString(value.len()))?;
        self.u32(length);
        self.opaque(value.as_bytes());
        Ok(())
    }

    /// Writes an optional string that is present.
    ///
    /// # Errors
    /// Those of [`Writer::string`].
    pub fn some_string(&mut self, value: &str) -> Result<(), Error> {
        self.u32(1);
        self.string(value)
    }
}

/// Returns the bytes that pad `count` to a whole word.
fn padding(count: usize) -> usize {
    (WORD - count % WORD) % WORD
}

/// Converts a length from the wire to an index. One that does not fit becomes the largest index, which fails every
/// later check.
fn index(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_big_endian() {
        let mut reader = Reader::new(&[0, 0, 1, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(reader.u32(), Ok(258));
        assert_eq!(reader.i32(), Ok(-1));
        assert_eq!(reader.u64(), Ok(0x1_0000_0000));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn a_string_is_its_length_its_bytes_and_zeroes() {
        let mut writer = Writer::new();
        writer.string("qemu:").unwrap();
        let bytes = writer.into_bytes();
        assert_eq!(bytes, [0, 0, 0, 5, b'q', b'e', b'm', b'u', b':', 0, 0, 0]);
        assert_eq!(Reader::new(&bytes).string(), Ok("qemu:"));
        for cut in 0..bytes.len() {
            assert!(matches!(Reader::new(&bytes[..cut]).string(), Err(Error::Short { .. })), "cut at {cut}");
        }
    }

    #[test]
    fn padding_other_than_zero_is_a_fault() {
        for last in 9..12 {
            let mut bytes = [0, 0, 0, 5, b'q', b'e', b'm', b'u', b':', 0, 0, 0];
            bytes[last] = 1;
            assert_eq!(Reader::new(&bytes).string(), Err(Error::Padding));
        }
    }

    #[test]
    fn a_string_of_whole_words_has_no_padding() {
        let mut writer = Writer::new();
        writer.string("qemu").unwrap();
        writer.string("").unwrap();
        let bytes = writer.into_bytes();
        assert_eq!(bytes.len(), 12);
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.string(), reader.string()), (Ok("qemu"), Ok("")));
    }

    #[test]
    fn a_length_beyond_the_input_reserves_nothing() {
        assert_eq!(Reader::new(&[0x7f, 0xff, 0xff, 0xff]).string(), Err(Error::LongString(0x7fff_ffff)));
        assert_eq!(Reader::new(&[0, 0x40, 0, 0]).string(), Err(Error::Short { needed: STRING_MAX, left: 0 }));
        assert_eq!(Reader::new(&[0, 0x40, 0, 1]).string(), Err(Error::LongString(STRING_MAX + 1)));
        let array = Reader::new(&[0, 0, 0x40, 0, 0, 0, 0, 0]).array(16384, 24, Reader::u32);
        assert_eq!(array, Err(Error::Short { needed: 16384 * 24, left: 4 }));
        let array = Reader::new(&[0xff, 0xff, 0xff, 0xff]).array(16384, 24, Reader::u32);
        assert_eq!(array, Err(Error::LongArray { count: 0xffff_ffff, most: 16384 }));
    }

    #[test]
    fn text_that_is_no_c_string_is_a_fault() {
        assert_eq!(Reader::new(&[0, 0, 0, 2, 0xc3, 0x28, 0, 0]).string(), Err(Error::NotUtf8));
        assert_eq!(Reader::new(&[0, 0, 0, 2, b'a', 0, 0, 0]).string(), Err(Error::Nul));
        assert_eq!(Writer::new().string("a\0b"), Err(Error::Nul));
        let long = "x".repeat(STRING_MAX + 1);
        assert_eq!(Writer::new().string(&long), Err(Error::LongString(STRING_MAX + 1)));
    }

    #[test]
    fn an_option_is_a_flag_and_a_value() {
        assert_eq!(Reader::new(&[0, 0, 0, 0]).option(Reader::u32), Ok(None));
        assert_eq!(Reader::new(&[0, 0, 0, 1, 0, 0, 0, 9]).option(Reader::u32), Ok(Some(9)));
        assert_eq!(Reader::new(&[0, 0, 0, 2, 0, 0, 0, 9]).option(Reader::u32), Err(Error::NotBool(2)));
    }

    #[test]
    fn what_is_left_over_is_counted() {
        let mut reader = Reader::new(&[0; 7]);
        reader.u32().unwrap();
        assert_eq!(reader.finish(), Err(Error::Trailing(3)));
    }
}
