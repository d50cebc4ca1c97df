//! Lists that come in pages.
//!
//! Neutron and Octavia order pages by id, and a page begins after the element whose id is the *marker*; a `next` link says
//! that there may be one more, and its marker. Nothing else of the link is used: behind a proxy it often names
//! a host or scheme that leads nowhere, and our token would follow it. A page may be empty though others follow,
//! because policy hides elements after the page was cut. If the marker's element was deleted meanwhile, Neutron
//! answers 404 for ports and networks and begins at the first page again for others; so elements are counted
//! once by id, and the number of pages is bounded.
//!
//! Source: Networking API v2.0, "Pagination"; neutron `api_common.get_pagination_links`, neutron-lib
//! `db.utils.get_marker_obj`.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    client::{Client, Request},
    error::Error,
    exchange::Answer,
    query::Query,
};

/// More pages than any list that makes sense has.
const MAX_PAGES: usize = 1000;
/// How many ids go into one query: 40 bytes each, while servers accept lines of 8 KiB.
const IDS_PER_QUERY: usize = 100;

impl Client {
    /// Reads all pages of `collection`, such as `ports`.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        collection: &'static str,
        query: Query,
    ) -> Result<Vec<T>, Error> {
        let path = collection.replace('_', "-");
        self.pages(Request::new(operation, Method::GET, path), collection, query).await
    }

    /// Reads all pages of a list.
    pub(crate) async fn pages<T: DeserializeOwned>(
        &self,
        request: Request,
        collection: &'static str,
        query: Query,
    ) -> Result<Vec<T>, Error> {
        let query = query.with("limit", &self.page_size().to_string());
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let mut marker: Option<String> = None;
        for number in 1.. {
            let query = query.clone().with_some("marker", marker.as_deref());
            let answer =
                self.call(request.clone().query(query)).await.map_err(|error| page_error(error, number))?;
            let page = Page::read(&answer, collection)?;
            for (id, element) in page.elements {
                if seen.insert(id) {
                    found.push(answer.read(element)?);
                }
            }
            if page.next.is_none() {
                break;
            }
            if page.next == marker || number == MAX_PAGES {
                return Err(answer.unexpected(format!("the list does not end with page {number}")));
            }
            marker = page.next;
        }
        Ok(found)
    }

    /// Reads what has one of `ids`, in as many queries as their number needs; without ids, everything.
    pub(crate) async fn list_by_ids<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        collection: &'static str,
        ids: &[&str],
        query: Query,
    ) -> Result<Vec<T>, Error> {
        if ids.is_empty() {
            return self.list(operation, collection, query).await;
        }
        let mut found = Vec::new();
        for some in ids.chunks(IDS_PER_QUERY) {
            let query = some.iter().fold(query.clone(), |query, id| query.with("id", id));
            found.extend(self.list(operation, collection, query).await?);
        }
        Ok(found)
    }
}

/// A page after the first that is not found means that the marker's element is gone, not the list.
fn page_error(error: Error, number: usize) -> Error {
    match error {
        Error::NotFound { call, .. } if number > 1 => Error::ListChanged { call },
        // Octavia's word for it.
        Error::BadRequest { call, message, .. } if number > 1 && message.contains("pagination marker") => {
            Error::ListChanged { call }
        }
        other => other,
    }
}

struct Page {
    /// By id.
    elements: Vec<(String, Value)>,
    /// Marker of the page that may follow.
    next: Option<String>,
}

#[derive(Deserialize)]
struct Link {
    rel: String,
    href: String,
}

impl Link {
    fn marker(&self) -> Option<String> {
        let (_, query) = self.href.split_once('?')?;
        let marker = query.split('&').find_map(|part| part.strip_prefix("marker="))?;
        Some(marker.to_owned())
    }
}

impl Page {
    fn read(answer: &Answer, collection: &'static str) -> Result<Self, Error> {
        let mut body: BTreeMap<String, Value> = answer.json()?;
        let links = body.remove(&format!("{collection}_links"));
        let links: Vec<Link> = links.map_or(Ok(Vec::new()), |links| answer.read(links))?;
        let next = links.iter().find(|link| link.rel == "next");
        let next = next.map(|link| link.marker().ok_or_else(|| answer.unexpected("a page without marker")));
        let elements = body.remove(collection);
        let elements = elements.ok_or_else(|| answer.unexpected(format!("there are no `{collection}`")))?;
        let with_id = |element: Value| match element.get("id").and_then(Value::as_str) {
            Some(id) => Ok((id.to_owned(), element)),
            None => Err(answer.unexpected(format!("one of the `{collection}` has no id"))),
        };
        let elements = answer.read::<Vec<Value>>(elements)?.into_iter().map(with_id);
        Ok(Self { elements: elements.collect::<Result<_, _>>()?, next: next.transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        Options,
        neutron::NetworkFilter,
        recorded::{Asked, Reply, cloud_with},
    };

    fn parameter<'a>(asked: &'a Asked, name: &str) -> Option<&'a str> {
        let (_, query) = asked.path.split_once('?')?;
        query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
    }

    /// A page as Neutron makes it, with the link's host as a proxy would have it wrong.
    fn page(asked: &Asked, all: &[&str]) -> Reply {
        let limit: usize = parameter(asked, "limit").unwrap().parse().unwrap();
        let after = parameter(asked, "marker").unwrap_or_default();
        let ids: Vec<_> = all.iter().filter(|id| **id > after).take(limit).collect();
        let networks: Vec<_> = ids.iter().map(|id| json!({"id": id, "project_id": "p"})).collect();
        let href =
            format!("http://elsewhere:80/v2.0/networks?limit={limit}&marker={}", ids.last().unwrap_or(&&""));
        let links = match ids.len() {
            full if full == limit => {
                json!([{"rel": "next", "href": href}, {"rel": "previous", "href": href}])
            }
            _ => json!([{"rel": "previous", "href": href}]),
        };
        Reply::Json(200, json!({"networks": networks, "networks_links": links}))
    }

    async fn listed(
        filter: NetworkFilter,
        answering: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> (Result<Vec<String>, Error>, Vec<Asked>) {
        let options = Options { page_size: 2, ..Options::default() };
        let (client, recorded) =
            cloud_with(options, move |asked| (!asked.is_token()).then(|| answering(asked)));
        let found = client.networks(&filter).await;
        let ids = found.map(|found| found.iter().map(|network| network.id.to_string()).collect());
        (ids, recorded.asked())
    }

    #[tokio::test(start_paused = true)]
    async fn pages_are_followed_on_our_own_endpoint() {
        let filter = NetworkFilter { name: None, ..NetworkFilter::default() };
        for (all, expect) in [
            (vec!["a", "b", "c", "d", "e"], vec!["", "b", "d"]),
            (vec!["a", "b", "c", "d"], vec!["", "b", "d"]),
            (vec!["a"], vec![""]),
            (vec![], vec![""]),
        ] {
            let known = all.clone();
            let (found, asked) = listed(filter.clone(), move |asked| page(asked, &known)).await;
            assert_eq!(found.unwrap(), all);
            let markers: Vec<_> =
                asked.iter().map(|asked| parameter(asked, "marker").unwrap_or_default()).collect();
            assert_eq!(markers, expect);
            assert!(asked.iter().all(|asked| asked.host == "neutron:9696"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_page_is_read_in_one() {
        let all = json!({"networks": [{"id": "a", "project_id": "p"}, {"id": "b", "project_id": "p"}]});
        let (found, asked) = listed(NetworkFilter::default(), move |_| Reply::Json(200, all.clone())).await;
        assert_eq!(found.unwrap(), ["a", "b"]);
        assert_eq!(asked.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_marker_that_is_gone_is_not_taken_for_the_end() {
        let (found, _) = listed(NetworkFilter::default(), |asked| match parameter(asked, "marker") {
            None => page(asked, &["a", "b", "c"]),
            Some(_) => Reply::Json(404, json!({"NeutronError": {"type": "NetworkNotFound", "message": "b"}})),
        })
        .await;
        assert!(matches!(found, Err(Error::ListChanged { .. })), "{found:?}");
        let (found, _) = listed(NetworkFilter::default(), |_| Reply::Json(404, json!({}))).await;
        assert!(matches!(found, Err(Error::NotFound { .. })), "{found:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn elements_that_come_again_count_once() {
        // Neutron begins anew when the marker `b` is gone, as its security groups do.
        let (found, asked) = listed(NetworkFilter::default(), |asked| match parameter(asked, "marker") {
            Some("b") => {
                let again = [json!({"id": "a", "project_id": "p"}), json!({"id": "c", "project_id": "p"})];
                let next = json!([{"rel": "next", "href": "http://x/?limit=2&marker=c"}]);
                Reply::Json(200, json!({"networks": again, "networks_links": next}))
            }
            _ => page(asked, &["a", "b", "c", "d"]),
        })
        .await;
        assert_eq!(found.unwrap(), ["a", "b", "c", "d"]);
        assert_eq!(asked.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_ignores_the_marker_does_not_keep_us_forever() {
        let (found, asked) = listed(NetworkFilter::default(), |_| {
            let elements = [json!({"id": "a", "project_id": "p"}), json!({"id": "b", "project_id": "p"})];
            let next = json!([{"rel": "next", "href": "http://x/?limit=2&marker=b"}]);
            Reply::Json(200, json!({"networks": elements, "networks_links": next}))
        })
        .await;
        assert!(matches!(found, Err(Error::Protocol { .. })), "{found:?}");
        assert_eq!(asked.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_policy_has_emptied_is_not_the_last() {
        let (found, asked) = listed(NetworkFilter::default(), |asked| match parameter(asked, "marker") {
            None => {
                let next = json!([{"rel": "next", "href": "http://x/?marker=b&limit=2"}]);
                Reply::Json(200, json!({"networks": [], "networks_links": next}))
            }
            Some(_) => page(asked, &["a", "b", "c"]),
        })
        .await;
        assert_eq!(found.unwrap(), ["c"]);
        assert_eq!(asked.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn many_ids_are_asked_for_in_several_queries() {
        let ids: Vec<String> = (0..250).map(|number| format!("{number:03}")).collect();
        let filter = NetworkFilter {
            ids: ids.iter().map(|id| id.as_str().into()).collect(),
            ..NetworkFilter::default()
        };
        let (found, asked) = listed(filter, |asked| {
            let named = asked.path.split(['?', '&']).filter_map(|part| part.strip_prefix("id="));
            let networks: Vec<_> = named.map(|id| json!({"id": id, "project_id": "p"})).collect();
            Reply::Json(200, json!({"networks": networks}))
        })
        .await;
        assert_eq!(found.unwrap(), ids);
        assert_eq!(asked.len(), 3);
        assert!(asked.iter().all(|asked| asked.path.len() < 8000));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_filter_let_through_is_left_out() {
        let everything = json!({"networks": [
            {"id": "a", "name": "pods", "project_id": "p", "tags": ["x", "y"], "mtu": 1442, "shared": false,
             "router:external": true, "subnets": ["s"], "unknown": 1},
            {"id": "b", "name": "pods", "project_id": "q", "tags": ["x", "y"]},
            {"id": "c", "name": "other", "project_id": "p", "tags": ["x", "y"]},
            {"id": "d", "name": "pods", "project_id": "p", "tags": null}]});
        for (name, tags, expect) in [
            ("pods", vec!["x"], vec!["a"]),
            ("pods", vec![], vec!["a", "d"]),
            // Neutron ignores a filter with an empty value.
            ("", vec![], vec![]),
        ] {
            let filter = NetworkFilter {
                name: Some(name.to_owned()),
                project_id: Some("p".into()),
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
                ..NetworkFilter::default()
            };
            let body = everything.clone();
            let (found, _) = listed(filter, move |_| Reply::Json(200, body.clone())).await;
            assert_eq!(found.unwrap(), expect, "{name} {tags:?}");
        }
    }
}
