//! The eBPF programs of the node's datapath as one ELF object, compiled from `programs/` by clang when this
//! crate is built.
//!
//! | program | hook | what it does |
//! |---|---|---|
//! | [`UPLINK_IN`] | ingress of an uplink | hands a frame to the pod whose port it is for |
//! | [`POD_OUT`] | ingress of a pod's host end | admits only what the pod may send, hands it to its uplink or, on the local path, to the node |
//! | [`POD_IN`] | egress of a pod's host end | lets only packets of the node itself through |
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

/// The object with all programs and maps, with BTF and without debug sections.
pub static OBJECT: &[u8] = &ALIGNED.0;

/// ELF readers expect tables at their natural alignment, which `include_bytes!` does not promise.
#[repr(align(8))]
struct Aligned<T: ?Sized>(T);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/joint.bpf.o")));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_aligned_and_is_for_ebpf() {
        const EM_BPF: u16 = 247;
        assert_eq!(OBJECT.as_ptr().align_offset(8), 0);
        assert_eq!(&OBJECT[..4], b"\x7fELF");
        assert_eq!(u16::from_ne_bytes([OBJECT[18], OBJECT[19]]), EM_BPF);
    }

    #[test]
    fn the_object_holds_every_name_the_loader_asks_for() {
        for name in [UPLINK_IN, POD_OUT, POD_IN, LOCAL_MARK, "classifier", ".maps", ".BTF"] {
            assert!(OBJECT.windows(name.len()).any(|window| window == name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn debug_sections_are_gone() {
        assert!(!OBJECT.windows(11).any(|window| window == b".debug_info"));
    }
}
