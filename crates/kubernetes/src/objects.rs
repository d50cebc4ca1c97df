//! Typed calls on one kind of object, each answered or given up within a bound.
//!
//! Nothing is tried twice. Whether a failed write took effect is unknown when
//! [`Error::outcome_unknown`](crate::Error::outcome_unknown) says so; the next look at the object tells.
//!
//! Which write to choose: [`replace`](Objects::replace) for objects that only we write; a merge patch to set
//! fields whatever the rest is (with `metadata.resourceVersion` in it, it is conditional as well); a
//! [`JsonPatch`] to set fields if others have a certain value.

use std::{fmt, fmt::Debug, time::Duration};

use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::timeout;

use crate::{Call, Error, Result, patch::JsonPatch};

/// Longest time for one call. The API server itself gives up after 60 s; a queue that tries again is served
/// better by an early failure.
const WITHIN: Duration = Duration::from_secs(30);

/// Most pages of one list: at 500 objects each, far more than a cluster holds of one kind.
const PAGES_MAX: usize = 10_000;

/// One kind of object, in one namespace, in all, or cluster-wide; as the given [`Api`] is.
pub struct Objects<K> {
    api: Api<K>,
    manager: &'static str,
}

impl<K> Objects<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    /// Calls through `api`, signing changes as `manager` in the objects' managed fields.
    pub fn new(api: Api<K>, manager: &'static str) -> Self {
        Self { api, manager }
    }

    /// The same objects without bounds and typed errors.
    pub fn api(&self) -> &Api<K> {
        &self.api
    }

    /// Fetches an object; none if it does not exist.
    ///
    /// # Errors
    ///
    /// Everything but [`Error::NotFound`].
    pub async fn get(&self, name: &str) -> Result<Option<K>> {
        self.bounded("get", name, self.api.get_opt(name)).await
    }

    /// Lists the most recent state, page by page, with the version of the list.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] when the pages took so long that the list is no longer kept.
    pub async fn list(&self, params: &ListParams) -> Result<(Vec<K>, String)> {
        let mut params = ListParams { limit: params.limit.or(Some(500)), ..params.clone() };
        let mut objects = Vec::new();
        for _ in 0..PAGES_MAX {
            let page = self.bounded("list", "", self.api.list(&params)).await?;
            objects.extend(page.items);
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok((objects, page.metadata.resource_version.unwrap_or_default()));
            }
        }
        Err(Error::Gone { call: Box::new(self.call("list", "")) })
    }

    /// Creates an object.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyExists`], [`Error::NamespaceTerminating`], [`Error::AdmissionDenied`], ...
    pub async fn create(&self, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        self.bounded("create", &name_of(object), self.api.create(&self.post(), object)).await
    }

    /// Replaces an object that still has the version in its metadata.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if it has another.
    pub async fn replace(&self, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        let name = name_of(object);
        self.bounded("replace", &name, self.api.replace(&name, &self.post(), object)).await
    }

    /// Replaces the status of an object that still has the version in its metadata.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if it has another.
    pub async fn replace_status(&self, object: &K) -> Result<K>
    where
        K: Serialize,
    {
        let name = name_of(object);
        self.bounded("replace status", &name, self.api.replace_status(&name, &self.post(), object)).await
    }

    /// Merges fields into an object.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if `fields` name a version that the object no longer has.
    pub async fn merge(&self, name: &str, fields: &Value) -> Result<K> {
        let patch = Patch::Merge(fields);
        self.bounded("patch", name, self.api.patch(name, &self.patch_params(), &patch)).await
    }

    /// Merges fields into the status of an object; `fields` begin at the object: `{"status": {..}}`.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if `fields` name a version that the object no longer has.
    pub async fn merge_status(&self, name: &str, fields: &Value) -> Result<K> {
        let patch = Patch::Merge(fields);
        self.bounded("patch status", name, self.api.patch_status(name, &self.patch_params(), &patch)).await
    }

    /// Changes an object.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if a test of the patch does not hold or one of its paths is missing.
    pub async fn patch(&self, name: &str, patch: &JsonPatch) -> Result<K> {
        let patch = self.as_json_patch("patch", name, patch)?;
        self.bounded("patch", name, self.api.patch(name, &self.patch_params(), &patch)).await
    }

    /// Changes the status of an object.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if a test of the patch does not hold or one of its paths is missing.
    pub async fn patch_status(&self, name: &str, patch: &JsonPatch) -> Result<K> {
        let patch = self.as_json_patch("patch status", name, patch)?;
        self.bounded("patch status", name, self.api.patch_status(name, &self.patch_params(), &patch)).await
    }

    /// Deletes an object, if given only the life of it with this UID; tells whether it existed.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the name has begun another life.
    pub async fn delete(&self, name: &str, uid: Option<&str>) -> Result<bool> {
        let preconditions =
            uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), ..Preconditions::default() });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        match self.bounded("delete", name, self.api.delete(name, &params)).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn bounded<T>(
        &self,
        verb: &'static str,
        name: &str,
        asking: impl Future<Output = kube::Result<T>>,
    ) -> Result<T> {
        match timeout(WITHIN, asking).await {
            Ok(answer) => answer.map_err(|error| Error::of(self.call(verb, name), error)),
            Err(_) => Err(Error::TimedOut { call: Box::new(self.call(verb, name)), after: WITHIN }),
        }
    }

    fn call(&self, verb: &'static str, name: &str) -> Call {
        Call {
            verb,
            kind: K::kind(&()).into_owned(),
            namespace: self.api.namespace().map(ToOwned::to_owned),
            name: name.to_owned(),
        }
    }

    fn as_json_patch(&self, verb: &'static str, name: &str, patch: &JsonPatch) -> Result<Patch<()>> {
        let operations = serde_json::from_value(patch.to_value())
            .map_err(|source| Error::Encode { call: Box::new(self.call(verb, name)), source })?;
        Ok(Patch::Json(operations))
    }

    fn post(&self) -> PostParams {
        PostParams { field_manager: Some(self.manager.to_owned()), ..PostParams::default() }
    }

    fn patch_params(&self) -> PatchParams {
        PatchParams { field_manager: Some(self.manager.to_owned()), ..PatchParams::default() }
    }
}

fn name_of<K: Resource>(object: &K) -> String {
    object.meta().name.clone().unwrap_or_default()
}

impl<K: Clone> Clone for Objects<K> {
    fn clone(&self) -> Self {
        Self { api: self.api.clone(), manager: self.manager }
    }
}

impl<K> Debug for Objects<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").field("manager", &self.manager).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kuryr_testkit::api_server::{ApiServer, Fault, Streaming};
    use serde_json::json;

    const MAPS: &str = "/api/v1/namespaces/d/configmaps";

    fn objects(fake: &ApiServer) -> Objects<ConfigMap> {
        Objects::new(Api::namespaced(fake.client(), "d"), "kuryr-test")
    }

    fn map(value: Value) -> ConfigMap {
        serde_json::from_value(value).unwrap()
    }

    fn variant<T: Debug>(result: Result<T>) -> String {
        let text = format!("{:?}", result.unwrap_err());
        text.split([' ', '{']).next().unwrap_or_default().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn writes_under_a_version() {
        let fake = ApiServer::new(Streaming::Allowed);
        let objects = objects(&fake);
        let first =
            objects.create(&map(json!({"metadata": {"name": "a"}, "data": {"x": "1"}}))).await.unwrap();
        assert_eq!(variant(objects.create(&first).await), "AlreadyExists");
        let mut changed = first.clone();
        changed.data.get_or_insert_default().insert("x".to_owned(), "3".to_owned());
        let second = objects.replace(&changed).await.unwrap();
        assert_eq!(variant(objects.replace(&first).await), "Conflict");
        objects.replace_status(&second).await.unwrap();
        assert_eq!(variant(objects.replace_status(&first).await), "Conflict");
        let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"x": "2"}});
        assert_eq!(variant(objects.merge("a", &stale).await), "Conflict");
        let merged = objects.merge("a", &json!({"data": {"y": "2"}})).await.unwrap();
        assert_eq!(merged.data.unwrap().len(), 2);
        assert_eq!(variant(objects.merge_status("b", &json!({"status": {}})).await), "NotFound");
    }

    #[tokio::test(start_paused = true)]
    async fn json_patches_apply_completely_or_not_at_all() {
        let fake = ApiServer::new(Streaming::Allowed);
        fake.put(&format!("{MAPS}/a"), json!({"data": {"x": "1"}}));
        let objects = objects(&fake);
        let set = |patch: JsonPatch| patch.replace("/data/x", &"2");
        for (patch, expect) in [
            (set(JsonPatch::new().test("/data/x", &"0")), "Conflict"),
            (set(JsonPatch::new().test("/data/missing", &"0")), "Conflict"),
            (set(JsonPatch::new().expect_version("1")), "Conflict"),
            (set(JsonPatch::new()).remove("/data/missing"), "Conflict"),
        ] {
            assert_eq!(variant(objects.patch("a", &patch).await), expect, "{patch:?}");
        }
        assert_eq!(fake.get(&format!("{MAPS}/a")).unwrap()["data"]["x"], "1");
        let patch = set(JsonPatch::new().test("/data/x", &"1"))
            .add(super::super::patch::pointer(&["data", "a/b"]), &"");
        let patched = objects.patch("a", &patch).await.unwrap();
        assert_eq!(patched.data.unwrap()["a/b"], "");
        objects.patch_status("a", &JsonPatch::new().add("/status", &json!({"ok": true}))).await.unwrap();
        assert!(fake.requests().iter().any(|request| request.contains("/a/status?&fieldManager=kuryr-test")));
    }

    #[tokio::test(start_paused = true)]
    async fn deletes_only_the_meant_life() {
        let fake = ApiServer::new(Streaming::Allowed);
        fake.put(&format!("{MAPS}/a"), json!({"metadata": {"uid": "u"}}));
        let objects = objects(&fake);
        assert_eq!(variant(objects.delete("a", Some("other")).await), "Conflict");
        assert!(objects.delete("a", Some("u")).await.unwrap());
        assert!(!objects.delete("a", Some("u")).await.unwrap(), "deleting twice is success");
    }

    #[tokio::test(start_paused = true)]
    async fn lists_by_pages_and_tells_absence_from_failure() {
        let fake = ApiServer::new(Streaming::Allowed);
        (0..7).for_each(|n| fake.put(&format!("{MAPS}/m{n}"), json!({})));
        let objects = objects(&fake);
        let (all, version) =
            objects.list(&ListParams { limit: Some(3), ..ListParams::default() }).await.unwrap();
        assert_eq!((all.len(), version.as_str(), fake.requests().len()), (7, "107", 3));
        assert!(objects.get("m1").await.unwrap().is_some());
        assert!(objects.get("m9").await.unwrap().is_none());
        fake.fail("GET", Fault::Status(500));
        assert_eq!(variant(objects.get("m1").await), "Unavailable");
    }

    #[tokio::test(start_paused = true)]
    async fn no_call_waits_for_ever() {
        let fake = ApiServer::new(Streaming::Allowed);
        fake.fail("POST", Fault::Lost);
        let error = objects(&fake).create(&map(json!({"metadata": {"name": "a"}}))).await.unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
        assert_eq!(error.to_string(), "create ConfigMap d/a: no answer within 30 s");
        assert!(fake.get(&format!("{MAPS}/a")).is_some(), "it did take effect");
    }
}
