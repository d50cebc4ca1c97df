//! JSON as OVSDB uses it: messages without separators, and values that are tagged arrays.
//!
//! Source: RFC 7047, sections 4 and 5.1.

use serde_json::{Value, json};

use super::StringMap;
use crate::error::{Error, Result};

/// A message longer than this is no answer to anything we ask: an interface row of ours is under a kilobyte.
const LONGEST: usize = 64 * 1024 * 1024;

/// Cuts a stream of bytes into JSON objects by counting braces outside strings. Each byte is looked at once, however
/// the stream is cut into reads.
#[derive(Debug, Default)]
pub(super) struct Framer {
    buffer: Vec<u8>,
    looked_at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Framer {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Value>> {
        while let Some(byte) = self.buffer.get(self.looked_at).copied() {
            self.looked_at += 1;
            if self.ends_message(byte)? {
                let message: Vec<u8> = self.buffer.drain(..self.looked_at).collect();
                self.looked_at = 0;
                return serde_json::from_slice(&message).map(Some).map_err(garbled);
            }
        }
        if self.buffer.len() > LONGEST { Err(garbled("a message has no end")) } else { Ok(None) }
    }

    fn ends_message(&mut self, byte: u8) -> Result<bool> {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Ok(false);
        }
        match byte {
            b'"' if self.depth > 0 => self.in_string = true,
            b'{' => self.depth += 1,
            b'}' if self.depth > 0 => {
                self.depth -= 1;
                return Ok(self.depth == 0);
            }
            _ if self.depth > 0 || byte.is_ascii_whitespace() => {}
            _ => return Err(garbled("a message does not begin with a brace")),
        }
        Ok(false)
    }
}

pub(super) fn garbled(why: impl std::fmt::Display) -> Error {
    Error::OvsdbGarbled { why: why.to_string() }
}

/// The pairs of a map of strings.
pub(super) fn parse_map(value: &Value) -> Option<StringMap> {
    let pairs = tagged(value, "map")?.as_array()?;
    pairs
        .iter()
        .map(|pair| {
            let [key, value] = pair.as_array()?.as_slice() else {
                return None;
            };
            Some((key.as_str()?.to_owned(), value.as_str()?.to_owned()))
        })
        .collect()
}

/// The value of an optional column: a set of none or one. A set of one may be written without its tag.
pub(super) fn parse_optional(value: &Value) -> Option<&Value> {
    match tagged(value, "set") {
        Some(set) => set.as_array()?.first(),
        None => Some(value),
    }
}

fn tagged<'a>(value: &'a Value, tag: &str) -> Option<&'a Value> {
    match value.as_array()?.as_slice() {
        [found, value] if found == tag => Some(value),
        _ => None,
    }
}

pub(super) fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> Value {
    let pairs: Vec<Value> = pairs.into_iter().map(|(key, value)| json!([key, value])).collect();
    json!(["map", pairs])
}

pub(super) fn set(values: impl IntoIterator<Item = Value>) -> Value {
    let values: Vec<Value> = values.into_iter().collect();
    json!(["set", values])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_the_stream_is_cut() {
        let stream = r#"{"a":"}{"}{"b":"\"}\\","c":{"d":[]}} {"e":1}"#;
        let expect = [json!({"a": "}{"}), json!({"b": "\"}\\", "c": {"d": []}}), json!({"e": 1})];
        for length in 1..=stream.len() {
            let mut framer = Framer::default();
            let mut got = Vec::new();
            for chunk in stream.as_bytes().chunks(length) {
                framer.push(chunk);
                while let Some(message) = framer.next().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, expect, "in pieces of {length}");
        }
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for stream in ["HTTP/1.1 400", "}", "\"text\"", "[1]", "{nothing}"] {
            let mut framer = Framer::default();
            framer.push(stream.as_bytes());
            assert!(framer.next().is_err(), "{stream}");
        }
    }

    #[test]
    fn values_lose_their_tags() {
        for (value, expect) in [
            (json!(["set", []]), None),
            (json!(["set", [7]]), Some(json!(7))),
            (json!(7), Some(json!(7))),
            (json!("text"), Some(json!("text"))),
        ] {
            assert_eq!(parse_optional(&value), expect.as_ref(), "{value}");
        }
        let expect = StringMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]);
        for (value, expect) in [
            (json!(["map", [["a", "1"], ["b", "2"]]]), Some(expect)),
            (json!(["map", []]), Some(StringMap::new())),
            (json!(["map", [["a"]]]), None),
            (json!(["set", []]), None),
            (json!(7), None),
        ] {
            assert_eq!(parse_map(&value), expect, "{value}");
        }
    }
}
