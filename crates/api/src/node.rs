//! Messages between the CNI binary and the agent: HTTP/1.1 with JSON bodies over the agent's unix socket.
//!
//! | request | success | failure |
//! |---|---|---|
//! | `POST /v1/add`, [`CniRequest`] | 200, [`Attachment`](crate::cni::Attachment) | 4xx or 5xx, [`CniError`](crate::cni::CniError) |
//! | `POST /v1/del`, [`CniRequest`] | 204 | the same |
//! | `POST /v1/check`, [`CniRequest`] | 204 | the same |
//! | `POST /v1/gc`, [`GcRequest`] | 204 | the same |
//! | `GET /v1/status` | 204 | the same |
//!
//! The status code tells a person with `curl` what happened; the binary reads the body.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cni::config::ValidAttachment;

/// Path of ADD.
pub const ADD_PATH: &str = "/v1/add";
/// Path of DEL.
pub const DEL_PATH: &str = "/v1/del";
/// Path of CHECK.
pub const CHECK_PATH: &str = "/v1/check";
/// Path of GC.
pub const GC_PATH: &str = "/v1/gc";
/// Path of STATUS.
pub const STATUS_PATH: &str = "/v1/status";

/// Largest message in bytes that either side reads.
pub const MESSAGE_MAX: usize = 1 << 20;

/// ADD, DEL or CHECK as the runtime asked for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniRequest {
    /// `CNI_CONTAINERID`: the sandbox.
    pub container_id: String,
    /// `CNI_NETNS`: path of the network namespace; empty when the runtime has none left (DEL).
    #[serde(default)]
    pub netns: String,
    /// `CNI_IFNAME`: name of the interface inside.
    pub ifname: String,
    /// `CNI_ARGS`, split at `;` and `=`.
    #[serde(default)]
    pub args: BTreeMap<String, String>,
    /// Result of ADD, if the runtime gave it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_result: Option<Value>,
}

impl CniRequest {
    /// Namespace of the pod, `K8S_POD_NAMESPACE`.
    #[must_use]
    pub fn pod_namespace(&self) -> Option<&str> {
        self.args.get("K8S_POD_NAMESPACE").map(String::as_str)
    }

    /// Name of the pod, `K8S_POD_NAME`.
    #[must_use]
    pub fn pod_name(&self) -> Option<&str> {
        self.args.get("K8S_POD_NAME").map(String::as_str)
    }

    /// Identity of the pod, `K8S_POD_UID`; older runtimes do not send it.
    #[must_use]
    pub fn pod_uid(&self) -> Option<&str> {
        self.args.get("K8S_POD_UID").map(String::as_str).filter(|uid| !uid.is_empty())
    }
}

/// GC: what still exists according to the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GcRequest {
    /// Attachments to keep; everything else of ours is freed.
    pub valid_attachments: Vec<ValidAttachment>,
}

/// Splits `CNI_ARGS` (`K=V;K=V`). Parts without `=` are ignored, as libcni does not define them.
#[must_use]
pub fn split_args(text: &str) -> BTreeMap<String, String> {
    let pair = |part: &str| part.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    text.split(';').filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_arguments_that_kubelet_sends() {
        let args =
            split_args("IgnoreUnknown=1;K8S_POD_NAMESPACE=team-a;K8S_POD_NAME=web-0;K8S_POD_UID=;odd;X=a=b");
        let request = CniRequest {
            container_id: "c".into(),
            netns: String::new(),
            ifname: "eth0".into(),
            args,
            prev_result: None,
        };
        assert_eq!(request.pod_namespace(), Some("team-a"));
        assert_eq!(request.pod_name(), Some("web-0"));
        assert_eq!(request.pod_uid(), None);
        assert_eq!(request.args["X"], "a=b");
    }

    /// The runtime tells both plugins the same.
    #[test]
    fn reads_what_upstreams_plugin_was_told() {
        let told: Value = serde_json::from_str(include_str!("../golden/upstream-cni-request.json")).unwrap();
        let text = |name: &str| told[name].as_str().unwrap().to_owned();
        let request = CniRequest {
            container_id: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS"),
            ifname: text("CNI_IFNAME"),
            args: split_args(&text("CNI_ARGS")),
            prev_result: None,
        };
        assert_eq!((request.pod_namespace(), request.pod_name()), (Some("team-a"), Some("web-0")));
        assert_eq!(request.pod_uid(), Some("7d9b1c52-64a0-4c1e-9a55-6c0b4a2f7710"));
        assert_eq!(request.args.len(), 5);
    }
}
