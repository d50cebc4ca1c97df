//! JSON patches that apply completely or not at all.
//!
//! A `test` operation makes a patch conditional: on the object's version ([`JsonPatch::expect_version`]), or
//! on one field, which lets others change the rest of the object meanwhile. A test that does not hold, and
//! equally a path that is missing, is answered as [`Error::Conflict`](crate::Error::Conflict) by
//! [`Objects::patch`](crate::objects::Objects::patch).
//!
//! Sources: RFC 6902 (JSON Patch), RFC 6901 (JSON Pointer).

use serde::Serialize;
use serde_json::{Value, json};

/// Operations in the order in which they are applied.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JsonPatch {
    operations: Vec<Value>,
}

impl JsonPatch {
    /// A patch that changes nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires that the field at `path` exists and equals `value`.
    #[must_use]
    pub fn test(self, path: impl AsRef<str>, value: &impl Serialize) -> Self {
        self.with_value("test", path.as_ref(), value)
    }

    /// Requires that nobody has changed the object since it had this version.
    #[must_use]
    pub fn expect_version(self, resource_version: &str) -> Self {
        self.test("/metadata/resourceVersion", &resource_version)
    }

    /// Sets a member whose parent exists, or inserts into a list.
    #[must_use]
    pub fn add(self, path: impl AsRef<str>, value: &impl Serialize) -> Self {
        self.with_value("add", path.as_ref(), value)
    }

    /// Sets a field that exists.
    #[must_use]
    pub fn replace(self, path: impl AsRef<str>, value: &impl Serialize) -> Self {
        self.with_value("replace", path.as_ref(), value)
    }

    /// Removes a field that exists.
    #[must_use]
    pub fn remove(mut self, path: impl AsRef<str>) -> Self {
        self.operations.push(json!({"op": "remove", "path": path.as_ref()}));
        self
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// The operations as JSON.
    #[must_use]
    pub fn to_value(&self) -> Value {
        Value::Array(self.operations.clone())
    }

    fn with_value(mut self, op: &str, path: &str, value: &impl Serialize) -> Self {
        // Only a map whose keys are no text cannot become JSON; `null` lets the API server name the field.
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.operations.push(json!({"op": op, "path": path, "value": value}));
        self
    }
}

/// Joins the names of nested members to a path, whatever characters they contain.
#[must_use]
pub fn pointer(parts: &[&str]) -> String {
    parts.iter().map(|part| format!("/{}", part.replace('~', "~0").replace('/', "~1"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_paths() {
        for (parts, expect) in [
            (&["metadata", "labels", "a.b/c"][..], "/metadata/labels/a.b~1c"),
            (&["~", "~1"][..], "/~0/~01"),
            (&[][..], ""),
        ] {
            assert_eq!(pointer(parts), expect);
        }
    }

    #[test]
    fn keeps_the_order() {
        let patch =
            JsonPatch::new().expect_version("7").add("/spec/x", &[1]).replace("/a", &true).remove("/b");
        assert_eq!(
            patch.to_value(),
            json!([
                {"op": "test", "path": "/metadata/resourceVersion", "value": "7"},
                {"op": "add", "path": "/spec/x", "value": [1]},
                {"op": "replace", "path": "/a", "value": true},
                {"op": "remove", "path": "/b"},
            ])
        );
    }
}
