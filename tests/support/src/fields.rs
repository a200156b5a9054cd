//! A record of the log, taken apart again: the head's keys and values, and the words after it.

/// The head of a record and the rest: the command, what is told of the call, and the words.
#[derive(Debug, PartialEq)]
pub struct Record {
    pub command: String,
    pub fields: Vec<(String, String)>,
    pub words: String,
}

/// Takes a record's message apart; `None` where it is not what it has to be.
pub fn parse(message: &str) -> Option<Record> {
    let (command, mut rest) = message.split_once(' ')?;
    let mut fields = Vec::new();
    loop {
        let (key, after) = rest.split_once('=')?;
        if key.is_empty() || !key.chars().all(|c| c.is_ascii_lowercase()) {
            return None;
        }
        let (value, after) = if after.starts_with('"') { quoted(after)? } else { bare(after)? };
        fields.push((key.to_owned(), value));
        if let Some(words) = after.strip_prefix(": ") {
            return Some(Record { command: command.to_owned(), fields, words: words.to_owned() });
        }
        rest = after.strip_prefix(' ')?;
    }
}

/// A value without quotes: up to the next space, or to the colon before it.
fn bare(text: &str) -> Option<(String, &str)> {
    let end = text.find(' ')?;
    let end = if text[..end].ends_with(':') { end - 1 } else { end };
    (end > 0 && !text[..end].contains('"')).then(|| (text[..end].to_owned(), &text[end..]))
}

/// A value in quotes, and what follows them.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let digits: String =
                        characters.by_ref().map(|(_, c)| c).skip(1).take_while(|c| *c != '}').collect();
                    u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)?
                }
                plain => plain,
            }),
            plain => value.push(plain),
        }
    }
    None
}

/// A text without what stands in quotes in it: the plugin's own words. `None` where a quote does not end.
pub fn own_words(text: &str) -> Option<String> {
    let (mut own, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('"') {
        own.push_str(&rest[..at]);
        rest = quoted(&rest[at..])?.1;
    }
    Some(own + rest)
}

#[test]
fn what_is_written_is_read_and_what_is_not_is_refused() {
    let record = parse(r#"ADD ifname=net1 pod="a=b \"c\"\n\u{202e}" uid=-: done in 1 ms; x=1: y"#).unwrap();
    let fields = [("ifname", "net1"), ("pod", "a=b \"c\"\n\u{202e}"), ("uid", "-")];
    let fields: Vec<_> = fields.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    assert_eq!(record, Record { command: "ADD".into(), fields, words: "done in 1 ms; x=1: y".into() });
    for bad in ["ADD pod=a b uid=-: x", "ADD pod=\"a\"b: x", "ADD pod=a", "ADD pod=a\"b: x", "ADD =a: x"] {
        assert_eq!(parse(bad), None, "{bad}");
    }
    assert_eq!(own_words(r#"it "says \" so" to "me"."#).unwrap(), "it  to .");
    assert_eq!(own_words("\"x"), None);
}
