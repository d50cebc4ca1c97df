//! Contracts that other programs see. Nouns and their spelling, nothing that decides or talks.
//!
//! - [`names`]: labels, annotations, finalizers, device owners, file and interface names;
//! - [`cni`]: the Container Network Interface, as the runtime speaks it;
//! - [`node`]: the messages between the CNI binary and the agent;
//! - [`vif`]: upstream's VIF objects, as `KuryrPort` carries them;
//! - `kuryrnode`, `kuryrport`, `kuryrloadbalancer`, `crd` (feature `crd`): custom resources and their definitions.
//!
//! Sources: CNI specification 1.1.0; the custom resources, annotations and VIF serialisation of
//! Kuryr-Kubernetes 10.0.

pub mod cni;
pub mod names;
pub mod node;
pub mod vif;

#[cfg(feature = "crd")]
pub mod crd;
#[cfg(feature = "crd")]
pub mod kuryrloadbalancer;
#[cfg(feature = "crd")]
pub mod kuryrnode;
#[cfg(feature = "crd")]
pub mod kuryrport;
#[cfg(feature = "crd")]
mod upstream_kind;
