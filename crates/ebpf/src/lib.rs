//! The eBPF programs of the node's datapath as ELF objects, compiled from `programs/` by clang when this
//! crate is built.
//!
//! [`OBJECT`], the joint between pods and uplinks:
//!
//! | program | hook | what it does |
//! |---|---|---|
//! | [`UPLINK_IN`] | ingress of an uplink | hands a frame to the pod whose port it is for |
//! | [`POD_OUT`] | ingress of a pod's host end | admits only what the pod may send, hands it to its uplink or, on the local path, to the node |
//! | [`POD_IN`] | egress of a pod's host end | lets only packets of the node itself through |
//!
//! [`SERVICE_OBJECT`], Services at the socket, on the cgroup of the node's processes, [`SERVICE_PROGRAMS`]:
//!
//! | program | what it does |
//! |---|---|
//! | `connect4`, `connect6` | connects a socket to an endpoint in the place of a Service |
//! | `sendmsg4`, `sendmsg6` | has a UDP socket that is not connected send to an endpoint |
//! | `recvmsg4`, `recvmsg6` | says that what such a socket received came from the Service |
//! | `getpeername4`, `getpeername6` | says that a socket is connected to the Service |
//!
//! [`SOCKETS_OBJECT`], [`SOCKETS_ITERATOR`]: an iterator over what sockets remember of Services.
//!
//! The programs are C, because the stable Rust toolchain has no eBPF target. The map layouts are in
//! `kuryr-ebpf-maps`. Loading, pinning and attaching is the datapath's business.

/// Name of the program for the ingress of an uplink.
pub const UPLINK_IN: &str = "uplink_in";
/// Name of the program for the ingress of a pod's host end.
pub const POD_OUT: &str = "pod_out";
/// Name of the program for the egress of a pod's host end.
pub const POD_IN: &str = "pod_in";
/// Name of the constant in the programs that holds the mark of the local path (`u32`); a loader may replace it.
pub const LOCAL_MARK: &str = "local_mark";

/// Names of the programs for Services. Each is also the name of its hook.
pub const SERVICE_PROGRAMS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];
/// Name of the constant in those programs that says whether the kernel lets them give a reason for refusing
/// (`u32`, 1 or 0); a loader may replace it.
pub const TELLS_REFUSAL: &str = "tells_refusal";
/// Name of the constant in those programs that holds the cookie of the node's network namespace (`u64`); a loader replaces it.
pub const NODE_NETNS: &str = "node_netns";

/// Name of the iterator over what sockets remember.
pub const SOCKETS_ITERATOR: &str = "remembered";

/// The object with all programs and maps of the joint, with BTF and without debug sections.
pub static OBJECT: &[u8] = &JOINT.0;
/// The same of Services.
pub static SERVICE_OBJECT: &[u8] = &SERVICE.0;
/// The same of the iterator over sockets; it has no maps.
pub static SOCKETS_OBJECT: &[u8] = &SOCKETS.0;

/// ELF readers expect tables at their natural alignment, which `include_bytes!` does not promise.
#[repr(align(8))]
struct Aligned<T: ?Sized>(T);

static JOINT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/joint.bpf.o")));
static SERVICE: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/service.bpf.o")));
static SOCKETS: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/sockets.bpf.o")));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_aligned_and_are_for_ebpf() {
        const EM_BPF: u16 = 247;
        for object in [OBJECT, SERVICE_OBJECT, SOCKETS_OBJECT] {
            assert_eq!(object.as_ptr().align_offset(8), 0);
            assert_eq!(&object[..4], b"\x7fELF");
            assert_eq!(u16::from_ne_bytes([object[18], object[19]]), EM_BPF);
        }
    }

    fn has(object: &[u8], name: &str) -> bool {
        object.windows(name.len()).any(|window| window == name.as_bytes())
    }

    #[test]
    fn objects_hold_every_name_the_loader_asks_for() {
        for name in [UPLINK_IN, POD_OUT, POD_IN, LOCAL_MARK, "classifier", ".maps", ".BTF"] {
            assert!(has(OBJECT, name), "{name}");
        }
        for name in SERVICE_PROGRAMS {
            assert!(has(SERVICE_OBJECT, &format!("cgroup/{name}")), "{name}");
        }
        assert!(has(SERVICE_OBJECT, TELLS_REFUSAL));
        assert!(has(SOCKETS_OBJECT, SOCKETS_ITERATOR) && has(SOCKETS_OBJECT, "iter/bpf_sk_storage_map"));
        assert!(has(SERVICE_OBJECT, NODE_NETNS));
    }

    #[test]
    fn debug_sections_are_gone() {
        assert!(!has(OBJECT, ".debug_info") && !has(SERVICE_OBJECT, ".debug_info"));
    }
}
