//! A blocking netlink socket, bound to the network namespace in which it was opened.
//!
//! Requests go out in batches of one datagram each and are acknowledged one by one: a pod's addresses, routes
//! and neighbours cost one system call to send. The kernel carries on after a refused request of a batch, so all
//! answers are read before the first refusal is reported.
//!
//! Waiting is bounded by [`ANSWER_TIMEOUT`]. Answers that arrive later carry an old sequence number and are passed
//! over.
//!
//! Sources: netlink(7), rtnetlink(7); kernel documentation, "Introduction to Netlink".

use std::{io, os::fd::AsFd, time::Duration};

use netlink_packet_core::{
    NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL,
    NLM_F_REPLACE, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkDeserializable, NetlinkHeader,
    NetlinkSerializable, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use rustix::{
    io::Errno,
    net::{
        netdevice::name_to_index,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::error::{Error, Result, SocketKind, SocketStep, Step, Subject};

/// Longest wait for an answer. The kernel answers at once, unless its one lock for network configuration is held: the
/// teardown of many namespaces takes seconds.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Requests in one datagram. Their acknowledgements must fit into the socket's receive buffer, because all are
/// queued before the first is read.
const BATCH: usize = 64;
/// The kernel fills listing datagrams up to 32 KiB.
const DATAGRAM: usize = 64 * 1024;
/// How often a listing is repeated that the kernel says was inconsistent.
const LIST_ATTEMPTS: u32 = 8;
/// Families and the protocol, as messages about connections and sockets name them.
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;
pub(crate) const UDP: u8 = 17;
const HEADER: usize = 16;

/// A netlink socket.
#[derive(Debug)]
pub struct Socket {
    inner: netlink_sys::Socket,
    kind: SocketKind,
    sequence: u32,
    /// The last datagram from the kernel.
    received: Vec<u8>,
}

impl Socket {
    /// Opens a socket for links, addresses, routes and neighbours of the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// `Socket`.
    pub fn route() -> Result<Self> {
        Self::open(SocketKind::Route, NETLINK_ROUTE)
    }

    /// Opens a socket for generic netlink families of the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// `Socket`.
    pub fn generic() -> Result<Self> {
        Self::open(SocketKind::Generic, NETLINK_GENERIC)
    }

    /// Opens a socket for questions about sockets of the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// `Socket`.
    pub fn diagnosis() -> Result<Self> {
        Self::open(SocketKind::Diagnosis, NETLINK_SOCK_DIAG)
    }

    /// Opens a socket for what netfilter keeps track of in the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// `Socket`.
    pub fn netfilter() -> Result<Self> {
        Self::open(SocketKind::Netfilter, NETLINK_NETFILTER)
    }

    fn open(kind: SocketKind, protocol: isize) -> Result<Self> {
        let fail = |step| move |source| Error::Socket { step, kind, source };
        let mut inner = netlink_sys::Socket::new(protocol).map_err(fail(SocketStep::Open))?;
        inner.bind_auto().map_err(fail(SocketStep::Open))?;
        inner.set_ext_ack(true).map_err(fail(SocketStep::Configure))?;
        inner.set_cap_ack(true).map_err(fail(SocketStep::Configure))?;
        // Strict: the kernel heeds the filters of listings and refuses what it does not understand.
        inner.set_netlink_get_strict_chk(true).map_err(fail(SocketStep::Configure))?;
        set_socket_timeout(inner.as_fd(), Timeout::Recv, Some(ANSWER_TIMEOUT))
            .map_err(|errno| fail(SocketStep::Configure)(errno.into()))?;
        Ok(Self { inner, kind, sequence: 0, received: Vec::with_capacity(DATAGRAM) })
    }

    /// Carries out all `requests` in order.
    ///
    /// # Errors
    ///
    /// The first refusal that the request does not tolerate; later requests have been carried out
    /// nevertheless.
    pub fn apply(&mut self, requests: &[Request]) -> Result<()> {
        let mut refusal = None;
        for batch in requests.chunks(BATCH) {
            let first = self.send(batch, NLM_F_ACK)?;
            for (request, sequence) in batch.iter().zip(first..) {
                if let Err(error) = self.acknowledgement(request, sequence) {
                    if matches!(error, Error::KernelSilent { .. } | Error::Socket { .. }) {
                        return Err(error);
                    }
                    refusal.get_or_insert(error);
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Asks for one thing; `None` if the kernel refused with an error that the request tolerates.
    ///
    /// # Errors
    ///
    /// A refusal that the request does not tolerate.
    pub fn ask(&mut self, request: &Request) -> Result<Option<Answer>> {
        let sequence = self.send(std::slice::from_ref(request), NLM_F_ACK)?;
        self.acknowledgement(request, sequence)
    }

    /// Tells the index of the link of that name in the socket's namespace; `None`: there is none.
    ///
    /// # Errors
    ///
    /// `Socket`.
    pub(crate) fn index_of(&self, name: &str) -> Result<Option<u32>> {
        match name_to_index(self.inner.as_fd(), name) {
            Ok(index) => Ok(Some(index)),
            Err(Errno::NODEV) => Ok(None),
            Err(errno) => Err(self.failed(SocketStep::Send, errno.into())),
        }
    }

    /// Lists all of a kind; with an error that the request tolerates, what there was before it.
    ///
    /// # Errors
    ///
    /// `Restless` if the listing was inconsistent each time, or a refusal.
    pub fn list(&mut self, request: &Request) -> Result<Vec<Answer>> {
        for _ in 0..LIST_ATTEMPTS {
            let sequence = self.send(std::slice::from_ref(request), NLM_F_DUMP)?;
            if let Some(answers) = self.listing(request, sequence)? {
                return Ok(answers);
            }
        }
        Err(Error::Restless { subject: request.subject.clone(), attempts: LIST_ATTEMPTS })
    }

    /// Sends a batch and tells the sequence number of its first request.
    fn send(&mut self, batch: &[Request], flags: u16) -> Result<u32> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(batch.iter().map(|request| request.payload.len() + 32).sum());
        for request in batch {
            self.sequence = self.sequence.wrapping_add(1);
            request.write(&mut datagram, flags, self.sequence);
        }
        self.inner.send(&datagram, 0).map_err(|source| self.failed(SocketStep::Send, source))?;
        Ok(first)
    }

    /// Reads up to the acknowledgement of one request, and what came before it.
    fn acknowledgement(&mut self, request: &Request, sequence: u32) -> Result<Option<Answer>> {
        let mut answer = None;
        loop {
            // Acknowledgements come in datagrams of their own, an answer before its acknowledgement.
            for message in self.receive(request)? {
                let message = message.map_err(|why| request.garbled(why))?;
                if message.sequence != sequence {
                    continue;
                }
                if message.kind != NLMSG_ERROR {
                    answer = Some(message.into_answer());
                    continue;
                }
                return match message.refusal().map_err(|why| request.garbled(why))? {
                    None => Ok(answer),
                    Some((errno, _)) if request.tolerates(errno) => Ok(None),
                    Some((errno, detail)) => Err(request.refused(errno, detail)),
                };
            }
        }
    }

    /// Reads a whole listing; `None` if the kernel says that it changed meanwhile.
    fn listing(&mut self, request: &Request, sequence: u32) -> Result<Option<Vec<Answer>>> {
        let mut answers = Vec::new();
        let mut consistent = true;
        loop {
            for message in self.receive(request)? {
                let message = message.map_err(|why| request.garbled(why))?;
                if message.sequence != sequence {
                    continue;
                }
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => {
                        let refusal = message.refusal().map_err(|why| request.garbled(why))?;
                        return match refusal {
                            None => Ok(consistent.then_some(answers)),
                            Some((errno, _)) if request.tolerates(errno) => Ok(Some(answers)),
                            Some((errno, detail)) => Err(request.refused(errno, detail)),
                        };
                    }
                    _ => answers.push(message.into_answer()),
                }
            }
        }
    }

    /// Receives a datagram and tells the messages in it.
    fn receive(
        &mut self,
        request: &Request,
    ) -> Result<impl Iterator<Item = Result<Message<'_>, &'static str>> + use<'_>> {
        loop {
            self.received.clear();
            match self.inner.recv(&mut self.received, 0) {
                Ok(_) => return Ok(messages(&self.received)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Error::KernelSilent {
                        step: request.step,
                        subject: request.subject.clone(),
                        waited: ANSWER_TIMEOUT,
                    });
                }
                Err(source) => return Err(self.failed(SocketStep::Receive, source)),
            }
        }
    }

    fn failed(&self, step: SocketStep, source: io::Error) -> Error {
        Error::Socket { step, kind: self.kind, source }
    }
}

/// One request and what its failure means.
#[derive(Debug, Clone)]
pub struct Request {
    step: Step,
    subject: Box<Subject>,
    kind: u16,
    flags: u16,
    payload: Vec<u8>,
    tolerated: &'static [Errno],
    absence_tolerated: bool,
}

impl Request {
    /// A request of route netlink.
    #[must_use]
    pub fn new(step: Step, subject: Subject, message: &RouteNetlinkMessage) -> Self {
        let mut payload = vec![0; message.buffer_len()];
        message.serialize(&mut payload);
        Self::raw(step, subject, message.message_type(), payload)
    }

    /// A request of any family, its payload without the netlink header.
    #[must_use]
    pub fn raw(step: Step, subject: Subject, kind: u16, payload: Vec<u8>) -> Self {
        Self {
            step,
            subject: Box::new(subject),
            kind,
            flags: NLM_F_REQUEST,
            payload,
            tolerated: &[],
            absence_tolerated: false,
        }
    }

    /// Makes what must not exist yet.
    #[must_use]
    pub fn creating(mut self) -> Self {
        self.flags |= NLM_F_CREATE | NLM_F_EXCL;
        self
    }

    /// Makes it, or makes it so.
    #[must_use]
    pub fn replacing(mut self) -> Self {
        self.flags |= NLM_F_CREATE | NLM_F_REPLACE;
        self
    }

    /// Takes these errors of the kernel for success.
    #[must_use]
    pub fn tolerating(mut self, tolerated: &'static [Errno]) -> Self {
        self.tolerated = tolerated;
        self
    }

    /// Takes it for success that the link is no more.
    #[must_use]
    pub fn tolerating_absence(mut self) -> Self {
        self.absence_tolerated = true;
        self
    }

    fn tolerates(&self, errno: Errno) -> bool {
        self.tolerated.contains(&errno) || (self.absence_tolerated && errno == Errno::NODEV)
    }

    fn write(&self, datagram: &mut Vec<u8>, flags: u16, sequence: u32) {
        let length = u32::try_from(HEADER + self.payload.len()).unwrap_or(u32::MAX);
        datagram.extend_from_slice(&length.to_ne_bytes());
        datagram.extend_from_slice(&self.kind.to_ne_bytes());
        datagram.extend_from_slice(&(self.flags | flags).to_ne_bytes());
        datagram.extend_from_slice(&sequence.to_ne_bytes());
        datagram.extend_from_slice(&0u32.to_ne_bytes());
        datagram.extend_from_slice(&self.payload);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
    }

    fn refused(&self, errno: Errno, detail: Option<String>) -> Error {
        Error::Kernel { step: self.step, subject: self.subject.clone(), detail, source: errno.into() }
    }

    /// The answer to this request could not be read.
    pub(crate) fn garbled(&self, why: impl std::fmt::Display) -> Error {
        Error::Garbled { step: self.step, subject: self.subject.clone(), why: why.to_string() }
    }
}

/// A message from the kernel that is no acknowledgement.
#[derive(Debug, Clone)]
pub struct Answer {
    kind: u16,
    /// What follows the netlink header.
    pub payload: Vec<u8>,
}

impl Answer {
    /// What follows a header of `N` bytes of a message of this kind, as attributes, and that header; none of another kind.
    pub(crate) fn parts<const N: usize>(&self, kind: u16) -> Option<(&[u8; N], &[u8])> {
        self.payload.split_first_chunk().filter(|_| self.kind == kind)
    }

    /// Reads a message of route netlink that answers `request`.
    ///
    /// # Errors
    ///
    /// `Garbled`.
    pub fn route(&self, request: &Request) -> Result<RouteNetlinkMessage> {
        let mut header = NetlinkHeader::default();
        header.message_type = self.kind;
        RouteNetlinkMessage::deserialize(&header, &self.payload).map_err(|error| request.garbled(error))
    }
}

/// Appends an attribute. Those we write by hand are far shorter than the 16 bits of their length.
pub(crate) fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    to.extend_from_slice(&length.to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// A text as attributes carry it.
pub(crate) fn text(value: &str) -> Vec<u8> {
    [value.as_bytes(), &[0]].concat()
}

/// Kinds and values of attributes, up to one that is garbled.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|found| {
        let found = found.ok()?;
        let (kind, end) = (found.kind(), usize::from(found.length()));
        Some((kind, found.into_inner().get(NLA_HEADER_SIZE..end)?))
    })
}

/// The value of the first attribute of a kind.
pub(crate) fn find_attribute(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    self::attributes(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value.to_vec())
}

/// The messages of a datagram.
fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, &'static str>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = Message::parse(rest);
        rest = message.as_ref().map_or(&[], |message| {
            rest.get((HEADER + message.payload.len()).next_multiple_of(4)..).unwrap_or(&[])
        });
        Some(message.ok_or("a message is shorter than it says"))
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<2>()?;
        let (flags, rest) = rest.split_first_chunk::<2>()?;
        let (sequence, _) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
        Some(Self {
            kind: u16::from_ne_bytes(*kind),
            flags: u16::from_ne_bytes(*flags),
            sequence: u32::from_ne_bytes(*sequence),
            payload: bytes.get(HEADER..length)?,
        })
    }

    fn into_answer(self) -> Answer {
        Answer { kind: self.kind, payload: self.payload.to_vec() }
    }

    /// The error number and text of an `NLMSG_ERROR` or `NLMSG_DONE`; `None` means success.
    fn refusal(&self) -> Result<Option<(Errno, Option<String>)>, &'static str> {
        // An end of a listing without a code is a plain end.
        let Some((code, rest)) = self.payload.split_first_chunk::<4>() else {
            return if self.kind == NLMSG_DONE { Ok(None) } else { Err("an error has no code") };
        };
        let code = i32::from_ne_bytes(*code);
        if code >= 0 {
            return Ok(None);
        }
        // The refused request's header, to which `NETLINK_CAP_ACK` limits its repetition, is before the text.
        let skipped = if self.kind == NLMSG_ERROR { HEADER } else { 0 };
        let attributes =
            if self.flags & NLM_F_ACK_TLVS == 0 { &[] } else { rest.get(skipped..).unwrap_or(&[]) };
        Ok(Some((Errno::from_raw_os_error(-code), explanation(attributes))))
    }
}

/// The text among the attributes of an extended acknowledgement.
fn explanation(attributes: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let text = find_attribute(attributes, NLMSGERR_ATTR_MSG)?;
    let text = String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(messages: &[(u16, u16, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, flags, sequence, payload) in messages {
            let mut request = Request::raw(Step::Read, Subject::Links, *kind, payload.to_vec());
            request.flags = *flags;
            request.write(&mut bytes, 0, *sequence);
        }
        bytes
    }

    #[test]
    fn messages_of_a_datagram_are_found_behind_their_padding() {
        let datagram = datagram(&[(16, 2, 7, &[1, 2, 3]), (3, 0, 8, &[])]);
        let got: Vec<_> = messages(&datagram).map(Result::unwrap).collect();
        assert_eq!(
            got,
            [
                Message { kind: 16, flags: 2, sequence: 7, payload: &[1, 2, 3] },
                Message { kind: 3, flags: 0, sequence: 8, payload: &[] },
            ]
        );
    }

    #[test]
    fn a_cut_off_message_is_an_error_and_the_last() {
        let mut datagram = datagram(&[(16, 2, 7, &[1, 2, 3, 4])]);
        datagram.truncate(18);
        let got: Vec<_> = messages(&datagram).collect();
        assert_eq!(got, [Err("a message is shorter than it says")]);
    }

    #[test]
    fn a_refusal_carries_the_kernels_words() {
        let mut payload = (-22i32).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; HEADER]);
        payload.extend_from_slice(&[7, 0, 1, 0, b'n', b'o', 0, 0]);
        let text = Some("no".to_owned());
        for (kind, flags, payload, expect) in [
            (NLMSG_ERROR, NLM_F_ACK_TLVS, payload.as_slice(), Ok(Some((Errno::INVAL, text)))),
            (NLMSG_ERROR, 0, payload.as_slice(), Ok(Some((Errno::INVAL, None)))),
            (NLMSG_ERROR, 0, &[0, 0, 0, 0], Ok(None)),
            (NLMSG_DONE, 0, &[], Ok(None)),
            (NLMSG_ERROR, 0, &[], Err("an error has no code")),
        ] {
            let message = Message { kind, flags, sequence: 1, payload };
            assert_eq!(message.refusal(), expect, "{message:?}");
        }
    }
}
