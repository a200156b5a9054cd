//! A small, bounded tree of an XML document. The document comes from the tenant's daemon.

use std::fmt;

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use crate::quote;

/// Longest document, in bytes. A domain with 100 devices has some 60 KiB. libvirt can send 4 MiB; a tree of that would
/// take a dozen times as much memory.
const DOCUMENT_LIMIT: usize = 512 << 10;
/// Most references (`&lt;`, `&#10;`) and carriage returns: each takes far longer to read than a plain character.
const REFERENCE_LIMIT: usize = 20_000;
/// Deepest nesting; libvirt's own documents stay below 12.
const DEPTH_LIMIT: usize = 32;
/// Most elements; a domain with 100 devices has some 1500.
const ELEMENT_LIMIT: usize = 10_000;
/// Most attributes of one element.
const ATTRIBUTE_LIMIT: usize = 32;
/// Most attributes of all elements together; that domain has some 3000.
const ATTRIBUTES_LIMIT: usize = 20_000;

/// A document was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// An element with its contents, without comments and processing instructions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// The tag's name, prefix included.
    pub name: String,
    attributes: Vec<(String, String)>,
    children: Vec<Element>,
    text: String,
}

impl Element {
    /// Parses a document and returns its root element.
    ///
    /// # Errors
    /// If it is not well-formed, has a document type (libvirt sends none), or exceeds a limit.
    pub fn parse(document: &str) -> Result<Self, Error> {
        if document.len() > DOCUMENT_LIMIT {
            return Err(Error(format!("{} bytes of XML, of which {DOCUMENT_LIMIT} would be taken", document.len())));
        }
        if document.bytes().filter(|byte| matches!(byte, b'&' | b'\r')).count() > REFERENCE_LIMIT {
            return Err(Error(format!("more than {REFERENCE_LIMIT} references and carriage returns")));
        }
        let mut reader = Reader::from_str(document);
        // The open elements, outermost first. The first is a placeholder that collects the root.
        let mut open = vec![Self::default()];
        let (mut elements, mut attributes) = (0_usize, 0_usize);
        loop {
            let event = reader.read_event().map_err(|error| malformed(&error))?;
            let (element, empty) = match event {
                Event::Start(tag) => (Self::open(&tag)?, false),
                Event::Empty(tag) => (Self::open(&tag)?, true),
                Event::End(_) => {
                    close(&mut open)?;
                    continue;
                }
                Event::Text(text) => {
                    push_text(&mut open, &text.xml_content(XmlVersion::Implicit1_0));
                    continue;
                }
                Event::CData(text) => {
                    push_text(&mut open, &text.xml_content(XmlVersion::Implicit1_0));
                    continue;
                }
                Event::GeneralRef(reference) => {
                    push_text(&mut open, &resolve(&reference)?);
                    continue;
                }
                Event::DocType(_) => return Err(Error("a document type, which libvirt never sends".to_owned())),
                Event::Eof => break,
                _ => continue,
            };
            elements = elements.saturating_add(1);
            if elements > ELEMENT_LIMIT || open.len() > DEPTH_LIMIT {
                return Err(Error(format!("more than {ELEMENT_LIMIT} elements, or nested deeper than {DEPTH_LIMIT}")));
            }
            attributes = attributes.saturating_add(element.attributes.len());
            if attributes > ATTRIBUTES_LIMIT {
                return Err(Error(format!("more than {ATTRIBUTES_LIMIT} attributes")));
            }
            open.push(element);
            if empty {
                close(&mut open)?;
            }
        }
        let mut document = match (open.pop(), open.is_empty()) {
            (Some(document), true) => document,
            _ => return Err(Error("XML that ends inside an element".to_owned())),
        };
        match (document.children.pop(), document.children.is_empty()) {
            (Some(root), true) => Ok(root),
            _ => Err(Error("XML with no root element, or with several".to_owned())),
        }
    }

    fn open(tag: &BytesStart<'_>) -> Result<Self, Error> {
        let mut attributes = Vec::new();
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|error| malformed(&error))?;
            if attributes.len() >= ATTRIBUTE_LIMIT {
                return Err(Error(format!("an element with more than {ATTRIBUTE_LIMIT} attributes")));
            }
            let value = attribute.normalized_value(XmlVersion::Implicit1_0);
            let value = value.map_err(|error| malformed(&error))?;
            attributes.push((attribute.key.0.to_owned(), value.into_owned()));
        }
        Ok(Self { name: tag.name().0.to_owned(), attributes, ..Self::default() })
    }

    /// Returns the value of an attribute.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the first child of this name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children(name).next()
    }

    /// Returns all children of this name.
    pub fn children(&self, name: &str) -> impl Iterator<Item = &Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// Returns all children.
    #[must_use]
    pub fn all_children(&self) -> &[Self] {
        &self.children
    }

    /// Returns an attribute of the first child of this name.
    #[must_use]
    pub fn child_attribute(&self, child: &str, name: &str) -> Option<&str> {
        self.child(child)?.attribute(name)
    }

    /// Returns the text directly inside, trimmed.
    #[must_use]
    pub fn text(&self) -> &str {
        self.text.trim()
    }
}

/// Returns the parser's message quotes the document, so it is quoted.
fn malformed(error: &dyn fmt::Display) -> Error {
    Error(format!("not well-formed XML: {}", quote::text(&error.to_string())))
}

fn close(open: &mut Vec<Element>) -> Result<(), Error> {
    let (Some(element), Some(parent)) = (open.pop(), open.last_mut()) else {
        return Err(Error("XML with an end that was not begun".to_owned()));
    };
    parent.children.push(element);
    Ok(())
}

fn push_text(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

/// Resolves the five predefined entities and numeric characters. No document type can declare others.
fn resolve(reference: &quick_xml::events::BytesRef<'_>) -> Result<String, Error> {
    let bad = || Error("XML with an unknown entity".to_owned());
    if let Some(character) = reference.resolve_char_ref().map_err(|_| bad())? {
        return Ok(character.to_string());
    }
    let name = reference.xml_content(XmlVersion::Implicit1_0);
    quick_xml::escape::resolve_predefined_entity(&name).map(str::to_owned).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_becomes_a_tree() {
        let root = Element::parse(
            "<?xml version='1.0'?><!-- c --><d type='q'><n>a&lt;b&#65;<![CDATA[<c>]]></n><e x='1&quot;&apos;'/><e x='2'/></d>",
        )
        .unwrap();
        assert_eq!((root.name.as_str(), root.attribute("type")), ("d", Some("q")));
        assert_eq!(root.child("n").unwrap().text(), "a<bA<c>");
        assert_eq!(root.children("e").map(|e| e.attribute("x").unwrap()).collect::<Vec<_>>(), ["1\"'", "2"]);
        assert_eq!(root.child_attribute("e", "x"), Some("1\"'"));
        assert_eq!(root.child_attribute("none", "x"), None);
    }

    #[test]
    fn broken_documents_are_refused() {
        for document in [
            "",
            " ",
            "text",
            "<a>",
            "</a>",
            "<a></b>",
            "<a/><b/>",
            "<a x='1' x='2'/>",
            "<a x=1/>",
            "<a>&undefined;</a>",
            "<a>&#x110000;</a>",
            "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>",
            "<a b='&c;'/>",
            "<a",
            "<a><![CDATA[",
        ] {
            assert!(Element::parse(document).is_err(), "{document}");
        }
    }

    #[test]
    fn an_error_quotes_no_more_than_a_line() {
        let name = "\u{1b}[2J".repeat(10_000);
        for document in [format!("<a></{name}>"), format!("<a b='&{name};'/>"), format!("<a {name}/>")] {
            let text = Element::parse(&document).unwrap_err().to_string();
            assert!(text.len() < 8192 && !text.contains(char::is_control), "{} bytes", text.len());
        }
    }

    #[test]
    fn depth_width_and_attributes_are_bounded() {
        let deep = |n: usize| format!("{}{}", "<a>".repeat(n), "</a>".repeat(n));
        assert!(Element::parse(&deep(DEPTH_LIMIT)).is_ok());
        assert!(Element::parse(&deep(DEPTH_LIMIT + 1)).is_err());
        assert!(Element::parse(&deep(1_000_000)).is_err());
        assert!(Element::parse(&format!("<a>{}</a>", "<b/>".repeat(ELEMENT_LIMIT))).is_err());
        let attributes: String = (0..=ATTRIBUTE_LIMIT).map(|n| format!(" a{n}='x'")).collect();
        assert!(Element::parse(&format!("<a{attributes}/>")).is_err());
        let many = format!("<b{}/>", (0..ATTRIBUTE_LIMIT).map(|n| format!(" a{n}=''")).collect::<String>());
        let many = |count: usize| Element::parse(&format!("<a>{}</a>", many.repeat(count / ATTRIBUTE_LIMIT)));
        assert!(many(ATTRIBUTES_LIMIT - 100).is_ok() && many(ATTRIBUTES_LIMIT + 100).is_err());
        let text = |text: &str, count: usize| Element::parse(&format!("<a>{}</a>", text.repeat(count)));
        for slow in ["&lt;", "\r"] {
            assert!(text(slow, REFERENCE_LIMIT).is_ok() && text(slow, REFERENCE_LIMIT + 1).is_err());
        }
        assert!(text("x", DOCUMENT_LIMIT - 7).is_ok() && text("x", DOCUMENT_LIMIT - 6).is_err());
    }
}
