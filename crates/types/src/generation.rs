//! Epochs and generations.
//!
//! An *epoch* counts leaderships: each leader takes a greater one than any it has seen. A *generation* marks
//! one offer of one port to one node. It is compared for equality only and never repeated, so a late writer
//! that speaks of an older offer is recognised.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The number of a leadership; greater is later.
pub type Epoch = u64;

/// One offer of a port: the epoch of the leader that made it and a counter within that epoch.
///
/// Written as `epoch.counter`, for example `3.17`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// Leadership in which the offer was made.
    pub epoch: Epoch,
    /// Number of the offer within that leadership.
    pub counter: u64,
}

/// Text that is not a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseGenerationError(String);

impl fmt::Display for ParseGenerationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a generation of the form 3.17", self.0)
    }
}

impl std::error::Error for ParseGenerationError {}

impl FromStr for Generation {
    type Err = ParseGenerationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| {
            let plain = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| part.parse().ok()).flatten()
        };
        text.split_once('.')
            .and_then(|(epoch, counter)| Some(Self { epoch: number(epoch)?, counter: number(counter)? }))
            .ok_or_else(|| ParseGenerationError(text.to_owned()))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.counter)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Generation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Generation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Generation {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Generation".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": "^[0-9]+\\.[0-9]+$"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_two_plain_numbers() {
        for (text, expect) in [
            ("3.17", Some(Generation { epoch: 3, counter: 17 })),
            ("0.0", Some(Generation { epoch: 0, counter: 0 })),
            ("3", None),
            ("3.", None),
            ("3.1.2", None),
            ("+3.1", None),
            ("-3.1", None),
        ] {
            assert_eq!(text.parse().ok(), expect, "{text}");
        }
    }
}
