//! Events and pages, read so that one odd object does not hide the others.
//!
//! The fast path reads straight into the wanted type. Only when that fails is the text read once more, to learn
//! which object it speaks of.

use std::collections::BTreeMap;

use kube::{
    Resource,
    core::{PartialObjectMeta, Status, WatchEvent},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::INITIAL_EVENTS_END;
use crate::store::ObjectKey;

/// One event.
#[derive(Debug)]
pub(super) enum Line<K> {
    /// Added or modified.
    Upsert(K),
    /// Deleted, or no longer selected.
    Gone { key: ObjectKey, version: Option<String> },
    /// Added or modified, in a form that cannot be read.
    Unreadable { key: ObjectKey, version: Option<String>, why: String },
    /// A sign of life.
    Bookmark { version: String, ends_list: bool },
}

/// Reads an event; the inner error is one that the API server reports.
pub(super) fn line<K>(text: &str) -> Result<Result<Line<K>, Box<Status>>, serde_json::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let event = match serde_json::from_str::<WatchEvent<K>>(text) {
        Ok(event) => event,
        Err(error) => return unreadable(text, error).map(Ok),
    };
    Ok(Ok(match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => Line::Upsert(object),
        WatchEvent::Deleted(object) => gone(&object),
        WatchEvent::Bookmark(bookmark) => Line::Bookmark {
            ends_list: bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END),
            version: bookmark.metadata.resource_version,
        },
        WatchEvent::Error(status) => return Ok(Err(status)),
    }))
}

fn unreadable<K>(text: &str, error: serde_json::Error) -> Result<Line<K>, serde_json::Error>
where
    K: Resource<DynamicType = ()>,
{
    match serde_json::from_str::<WatchEvent<PartialObjectMeta<K>>>(text) {
        Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => Ok(Line::Unreadable {
            key: ObjectKey::of(&object),
            version: object.metadata.resource_version,
            why: error.to_string(),
        }),
        // Which object it was is all that a deletion has to tell.
        Ok(WatchEvent::Deleted(object)) => Ok(gone(&object)),
        _ => Err(error),
    }
}

fn gone<K>(object: &impl Resource) -> Line<K> {
    Line::Gone { key: ObjectKey::of(object), version: object.meta().resource_version.clone() }
}

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page<K> {
    pub(super) objects: Vec<K>,
    pub(super) undecodable: BTreeMap<ObjectKey, String>,
    pub(super) version: String,
    pub(super) continues: Option<String>,
}

/// Reads a page.
pub(super) fn page<K>(text: &str) -> Result<Page<K>, serde_json::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    if let Ok(wire) = serde_json::from_str::<WirePage<K>>(text) {
        let (version, continues) = wire.metadata.ends();
        return Ok(Page { objects: wire.items, undecodable: BTreeMap::new(), version, continues });
    }
    let wire: WirePage<Value> = serde_json::from_str(text)?;
    let (version, continues) = wire.metadata.ends();
    let mut page = Page { objects: Vec::new(), undecodable: BTreeMap::new(), version, continues };
    for item in wire.items {
        let named = serde_json::from_value::<PartialObjectMeta<K>>(item.clone());
        match serde_json::from_value::<K>(item) {
            Ok(object) => page.objects.push(object),
            Err(error) => {
                page.undecodable.insert(ObjectKey::of(&named?), error.to_string());
            }
        }
    }
    Ok(page)
}

#[derive(Deserialize)]
struct WirePage<K> {
    metadata: WirePageMetadata,
    items: Vec<K>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePageMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    continues: Option<String>,
}

impl WirePageMetadata {
    fn ends(self) -> (String, Option<String>) {
        (self.resource_version, self.continues.filter(|token| !token.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slim::Pod;

    fn told(text: &str) -> String {
        match line::<Pod>(text) {
            Ok(Ok(Line::Upsert(pod))) => format!("upsert {}", pod.pod_ref()),
            Ok(Ok(Line::Gone { key, version })) => format!("gone {key} {version:?}"),
            Ok(Ok(Line::Unreadable { key, version, .. })) => format!("unreadable {key} {version:?}"),
            Ok(Ok(Line::Bookmark { version, ends_list })) => format!("bookmark {version} {ends_list}"),
            Ok(Err(status)) => format!("status {}", status.code),
            Err(_) => "garbage".to_owned(),
        }
    }

    #[test]
    fn reads_events() {
        let meta = r#""metadata":{"namespace":"d","name":"a","resourceVersion":"7"}"#;
        let odd = r#""spec":{"hostNetwork":"perhaps"}"#;
        for (text, expect) in [
            (format!(r#"{{"type":"ADDED","object":{{{meta}}}}}"#), "upsert d/a"),
            (format!(r#"{{"object":{{{meta}}},"type":"MODIFIED"}}"#), "upsert d/a"),
            (format!(r#"{{"type":"DELETED","object":{{{meta}}}}}"#), r#"gone d/a Some("7")"#),
            (format!(r#"{{"type":"MODIFIED","object":{{{meta},{odd}}}}}"#), r#"unreadable d/a Some("7")"#),
            (format!(r#"{{"type":"DELETED","object":{{{meta},{odd}}}}}"#), r#"gone d/a Some("7")"#),
            (
                r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"9"}}}"#.into(),
                "bookmark 9 false",
            ),
            (
                r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#.into(),
                "bookmark 9 true",
            ),
            (r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}"#.into(), "status 410"),
            ("<html>".into(), "garbage"),
            (r#"{"type":"ADDED","object":{"spec":"#.into(), "garbage"),
        ] {
            assert_eq!(told(&text), expect, "{text}");
        }
    }

    #[test]
    fn reads_a_page_with_an_odd_object() {
        let text = r#"{"kind":"PodList","metadata":{"resourceVersion":"9","continue":"x"},"items":[
            {"metadata":{"namespace":"d","name":"a"}},
            {"metadata":{"namespace":"d","name":"b"},"spec":{"hostNetwork":1}}]}"#;
        let page = page::<Pod>(text).unwrap();
        assert_eq!((page.version.as_str(), page.continues.as_deref()), ("9", Some("x")));
        assert_eq!(page.objects.len(), 1);
        assert_eq!(page.undecodable.into_keys().collect::<Vec<_>>(), [ObjectKey::namespaced("d", "b")]);
    }
}
