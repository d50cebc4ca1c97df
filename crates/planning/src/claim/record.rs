//! Whether the checkpoint on disk may be believed.
//!
//! A disk may have been re-imaged, restored from a snapshot or moved to another machine. What the agent last told
//! the API server gives it away: the same id with a greater sequence, another id that this record does not replace,
//! or another Node. Nothing of such a record counts: the pods it tells of may be long gone, and their ports
//! offered to others.

use std::fmt;

use kuryr_api::kuryrnode::KuryrNodeStatus;

/// What the checkpoint says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordFacts {
    /// Its id.
    pub id: String,
    /// Number of its last change.
    pub sequence: u64,
    /// UID of the Node it was made for; empty while that was not known.
    pub node_uid: String,
    /// Id that had been told when this record was made, which the API server may still show.
    pub replaces: String,
}

/// Whether to believe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// It is what the agent last knew.
    Keep,
    /// It is not; a new one is needed.
    Lost(Loss),
}

/// How a record was found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// There is none, although one was told.
    Missing,
    /// It belongs to another Node.
    OtherNode,
    /// More was told than it has.
    RolledBack {
        /// Sequence in the record.
        have: u64,
        /// Sequence that was told.
        told: u64,
    },
    /// Another one was told.
    Replaced,
}

/// Judges the record by what was told. `status` is the agent's own, as the API server has it; empty where none exists.
///
/// A record of the same id that is ahead of the status is normal: the status is written later.
#[must_use]
pub fn trust(record: Option<&RecordFacts>, status: &KuryrNodeStatus, node_uid: &str) -> Trust {
    let told = &status.checkpoint;
    let Some(record) = record else { return Trust::Lost(Loss::Missing) };
    if !record.node_uid.is_empty() && record.node_uid != node_uid {
        return Trust::Lost(Loss::OtherNode);
    }
    // A status of another Node says nothing about this one's record.
    if told.id.is_empty() || status.node_uid != node_uid || told.id == record.replaces {
        return Trust::Keep;
    }
    if told.id != record.id {
        return Trust::Lost(Loss::Replaced);
    }
    if told.sequence > record.sequence {
        return Trust::Lost(Loss::RolledBack { have: record.sequence, told: told.sequence });
    }
    Trust::Keep
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no checkpoint"),
            Self::OtherNode => f.write_str("the checkpoint belongs to another Node object"),
            Self::RolledBack { have, told } => {
                write!(f, "the checkpoint was rolled back: it ends at {have}, {told} had been reported")
            }
            Self::Replaced => f.write_str("another checkpoint had been reported for this node"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kuryr_api::kuryrnode::CheckpointRef;

    fn check(record: Option<(&str, u64, &str, &str)>, told: (&str, &str, u64), expect: Trust) {
        let facts = record.map(|(id, sequence, node_uid, replaces)| RecordFacts {
            id: id.into(),
            sequence,
            node_uid: node_uid.into(),
            replaces: replaces.into(),
        });
        let (node_uid, id, sequence) = told;
        let status = KuryrNodeStatus {
            node_uid: node_uid.into(),
            checkpoint: CheckpointRef { id: id.into(), sequence },
            ..KuryrNodeStatus::default()
        };
        assert_eq!(trust(facts.as_ref(), &status, "n1"), expect, "{record:?} {told:?}");
    }

    #[test]
    fn what_gives_a_record_away() {
        let nothing = ("", "", 0);
        check(None, nothing, Trust::Lost(Loss::Missing));
        check(Some(("a", 5, "n1", "")), nothing, Trust::Keep);
        check(Some(("a", 5, "", "")), nothing, Trust::Keep);
        check(Some(("a", 5, "n1", "")), ("n1", "a", 5), Trust::Keep);
        check(Some(("a", 6, "n1", "")), ("n1", "a", 5), Trust::Keep);
        check(Some(("a", 4, "n1", "")), ("n1", "a", 5), Trust::Lost(Loss::RolledBack { have: 4, told: 5 }));
        check(Some(("a", 5, "n0", "")), ("n0", "a", 5), Trust::Lost(Loss::OtherNode));
        check(Some(("a", 5, "n1", "")), ("n1", "b", 1), Trust::Lost(Loss::Replaced));
        check(Some(("a", 1, "n1", "b")), ("n1", "b", 9), Trust::Keep);
        check(Some(("a", 1, "n1", "")), ("n0", "b", 9), Trust::Keep);
    }
}
