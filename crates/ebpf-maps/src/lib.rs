//! Layouts of the eBPF maps that the kernel programs (`crates/ebpf/programs/*.h`) and the node daemon share.
//!
//! [`joint`] joins pods to their ports, [`service`] brings clients of Services to endpoints, and [`socket`] is what is
//! remembered of that.
//!
//! Terms: an *uplink* is the interface through which a pod's frames reach its Neutron port, a *host end* the
//! node's side of the veth pair whose other side is in the pod.
//!
//! Every type here has a twin of the same name in C; sizes and offsets are asserted on both sides. All
//! padding is spelled out, because a hash map compares keys by their bytes. Whoever changes a layout
//! or the meaning of a field raises the version of that file's layouts ([`LAYOUT_VERSION`], [`SERVICE_LAYOUT_VERSION`]):
//! it is part of the path under which maps are pinned, so that programs of one layout never see maps of another.
//!
//! Nothing here loads, pins or decides.

#![cfg_attr(not(test), no_std)]

pub mod joint;
pub mod service;
pub mod socket;

pub use joint::{Pod, PodAddress, PodCounters, UplinkFlags, UplinkKey, UplinkTarget, address_bytes};

/// Version of the layouts in [`joint`] and in `joint.h`, part of the pin path.
pub const LAYOUT_VERSION: u32 = 1;
/// Version of the layouts in [`service`] and in `service.h`, part of the pin path.
pub const SERVICE_LAYOUT_VERSION: u32 = 5;
