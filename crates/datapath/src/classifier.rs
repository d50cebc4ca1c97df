//! Attaching eBPF programs to links by the classic classifier: a `clsact` queueing discipline with one filter for each
//! direction.
//!
//! Why not tcx links, which are newer and can be pinned: attaching one waits for all processors to have left the
//! old set of programs, with the kernel's network configuration locked meanwhile, 8 to 12 ms for each program of
//! each pod (measured on Linux 6.18). A filter takes a tenth of a millisecond. It belongs to its link, so it
//! outlives the process that attached it and needs no pin, and it is replaced in place.
//!
//! Sources: kernel `net/sched/cls_api.c`, `cls_bpf.c`, `include/uapi/linux/pkt_sched.h`; tc-bpf(8).

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::NLA_F_NESTED;
use rustix::io::Errno;

use crate::{
    error::{Result, Step, Subject},
    netlink::{Request, Socket, attribute, find_attribute, text},
};

/// Where on a link a program sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// As they arrive.
    Ingress,
    /// As they leave.
    Egress,
}

impl Direction {
    fn parent(self) -> u32 {
        const TC_H_CLSACT: u32 = 0xffff_0000;
        const TC_H_MIN_INGRESS: u32 = 0xfff2;
        const TC_H_MIN_EGRESS: u32 = 0xfff3;
        TC_H_CLSACT
            | match self {
                Self::Ingress => TC_H_MIN_INGRESS,
                Self::Egress => TC_H_MIN_EGRESS,
            }
    }
}

/// Before the filters of others on a link that is not ours alone.
const PRIORITY: u32 = 1;
/// Tells our filter from others of the same priority.
const HANDLE: u32 = 0x6b75;
const KIND: &str = "bpf";

const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;

/// Gives link `index` the place for filters. One that is there is success.
#[must_use]
pub fn prepare(index: u32) -> Request {
    const TC_H_CLSACT_PARENT: u32 = 0xffff_fff1;
    const HANDLE_OF_CLSACT: u32 = 0xffff_0000;
    let mut payload = header(index, HANDLE_OF_CLSACT, TC_H_CLSACT_PARENT, 0);
    attribute(&mut payload, TCA_KIND, &text("clsact"));
    Request::raw(Step::Create, Subject::Classifier(index), RTM_NEWQDISC, payload)
        .creating()
        .tolerating(&[Errno::EXIST])
}

/// Attaches `program` to link `index`, or puts it in the place of the one that is attached.
#[must_use]
pub fn attach(index: u32, direction: Direction, program: BorrowedFd<'_>, name: &str) -> Request {
    const TCA_BPF_FD: u16 = 6;
    const TCA_BPF_NAME: u16 = 7;
    const TCA_BPF_FLAGS: u16 = 8;
    /// What the program returns is what happens.
    const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
    let mut options = Vec::new();
    attribute(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
    attribute(&mut options, TCA_BPF_NAME, &text(name));
    attribute(&mut options, TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes());
    let mut payload = filter(index, direction);
    attribute(&mut payload, TCA_OPTIONS | NLA_F_NESTED, &options);
    Request::raw(Step::Set, Subject::Classifier(index), RTM_NEWTFILTER, payload).replacing()
}

/// Takes our program from link `index`; one that is not there is success. The place for filters stays: others may use
/// it.
#[must_use]
pub fn detach(index: u32, direction: Direction) -> Request {
    Request::raw(Step::Remove, Subject::Classifier(index), RTM_DELTFILTER, filter(index, direction))
        .tolerating(&[Errno::NOENT, Errno::INVAL, Errno::NODEV])
}

/// Tells the id of the program that is attached to link `index`; `None`: there is none of ours, or no such link.
///
/// # Errors
///
/// `Kernel`, `Garbled`.
pub fn attached(socket: &mut Socket, index: u32, direction: Direction) -> Result<Option<u32>> {
    const TCA_BPF_ID: u16 = 11;
    const TC_HEADER: usize = 20;
    let payload = filter(index, direction);
    // Which of these it is depends on what is missing: the filter, its priority, the place for filters, the link.
    let request = Request::raw(Step::Read, Subject::Classifier(index), RTM_GETTFILTER, payload)
        .tolerating(&[Errno::NOENT, Errno::INVAL, Errno::NODEV]);
    let Some(answer) = socket.ask(&request)? else {
        return Ok(None);
    };
    let attributes = answer.payload.get(TC_HEADER..).unwrap_or_default();
    let id = find_attribute(attributes, TCA_OPTIONS)
        .and_then(|options| find_attribute(&options, TCA_BPF_ID))
        .and_then(|id| id.try_into().ok())
        .map(u32::from_ne_bytes)
        .ok_or_else(|| request.garbled("there is no program in the answer"))?;
    Ok(Some(id))
}

/// A message about our filter on a link.
fn filter(index: u32, direction: Direction) -> Vec<u8> {
    const ETH_P_ALL: u16 = 0x0003;
    let info = PRIORITY << 16 | u32::from(ETH_P_ALL.to_be());
    let mut payload = header(index, HANDLE, direction.parent(), info);
    attribute(&mut payload, TCA_KIND, &text(KIND));
    payload
}

/// `struct tcmsg`.
fn header(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut header = vec![0; 4];
    for field in [index, handle, parent, info] {
        header.extend_from_slice(&field.to_ne_bytes());
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_filter_is_named_by_link_direction_priority_and_handle() {
        let expect = |parent| {
            #[rustfmt::skip]
            let bytes = [
                0, 0, 0, 0, 7, 0, 0, 0, 0x75, 0x6b, 0, 0, parent, 0xff, 0xff, 0xff,
                0, 3, 1, 0, // all protocols, priority 1
                8, 0, 1, 0, b'b', b'p', b'f', 0,
            ];
            bytes
        };
        for (direction, parent) in [(Direction::Ingress, 0xf2), (Direction::Egress, 0xf3)] {
            assert_eq!(filter(7, direction), expect(parent), "{direction:?}");
        }
    }
}
