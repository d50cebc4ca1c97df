//! Percent-encoding of paths and queries (RFC 3986, sections 2.1, 3.3 and 3.4).

use std::fmt::Write;

/// A query string in the making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query(String);

impl Query {
    /// Adds `name=value`, but nothing for an empty value: Neutron ignores such a filter anyway, so whoever lists
    /// compares the answer again.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        if value.is_empty() {
            return self;
        }
        if !self.0.is_empty() {
            self.0.push('&');
        }
        encode(name, &mut self.0);
        self.0.push('=');
        encode(value, &mut self.0);
        self
    }

    /// Adds `name=value` if there is a value.
    pub(crate) fn with_some(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// One segment of a path: a slash in it does not begin another.
pub(crate) fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    encode(text, &mut encoded);
    encoded
}

/// Keeps what is unreserved and encodes all other bytes.
fn encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => into.push(byte.into()),
            // Writing to a String cannot fail.
            _ => drop(write!(into, "%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_become_another_parameter() {
        let query = Query::default()
            .with("name", "a b&project_id=x=y#é")
            .with("binding:host_id", "node-1.example_org~")
            .with_some("tags", None)
            .with("device_id", "")
            .with_some("tags", Some("a,b"));
        assert_eq!(
            query.as_str(),
            "name=a%20b%26project_id%3Dx%3Dy%23%C3%A9&binding%3Ahost_id=node-1.example_org~&tags=a%2Cb"
        );
    }

    #[test]
    fn a_segment_stays_one() {
        assert_eq!(segment("../ports?x"), "..%2Fports%3Fx");
    }
}
