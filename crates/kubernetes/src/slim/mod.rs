//! Kubernetes objects reduced to the fields we read.
//!
//! A watch of complete pods costs about ten times the memory of these. They can only be read, not written: a
//! complete write of a reduced object would delete what it leaves out, so the types have no `Serialize`;
//! changes go through patches.
//!
//! Every field beyond the metadata has a default, so that an object without it (a pod that is not scheduled
//! yet, a bookmark) still reads. Unknown fields are skipped while reading.
//!
//! Sources: Kubernetes API reference, Pod v1, Node v1, Namespace v1, Service v1,
//! `EndpointSlice` v1, and those of the workloads.

mod metadata;
mod packed;

mod endpoint_slice;
mod namespace;
mod node;
mod pod;
mod service;
mod workload;

pub use metadata::controller_of;
pub use packed::Pack;

pub use endpoint_slice::{Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, Named};
pub use namespace::{Namespace, NamespacePhase, NamespaceStatus};
pub use node::{Node, NodeAddress, NodeSpec, NodeStatus, Taint};
pub use pod::{Pod, PodPhase, PodSpec, PodStatus};
pub use service::{
    ClientIpConfig, LoadBalancerIngress, LoadBalancerStatus, Service, ServicePort, ServiceSpec,
    ServiceStatus, SessionAffinityConfig,
};
pub use workload::{
    Deployment, DeploymentSpec, DeploymentStatus, Job, JobSpec, JobStatus, ReplicaSet, ReplicaSetSpec,
    ReplicaSetStatus, RollingUpdate, StatefulSet, StatefulSetSpec, Strategy, Template, TemplateSpec,
    Toleration, count,
};
