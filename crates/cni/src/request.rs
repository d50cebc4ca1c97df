//! One request to the agent: HTTP/1.1 over its unix socket, by hand.
//!
//! Each call of the plugin is one process and one request, so nothing is pooled and the connection is closed
//! after the answer. Every wait has a bound: the agent answers ADD within the time that it wrote into the
//! configuration, this side gives it a little more, so that it is the agent who says why it took so long.
//!
//! When nobody listens the answer is code 11 for every verb but STATUS. For DEL the specification would rather
//! have success, but then the runtime would forget the sandbox while the pod's entry in the datapath is still
//! there. The kubelet repeats a failed teardown, the agent answers it when it is back, and nothing of the pod
//! is left open in between.
//!
//! Sources: RFC 9112 (message format), `kuryr_api::node` (paths and bodies).

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use kuryr_api::{
    cni::{CniError, NetworkConfig, Verb, code},
    names, node,
};

/// The agent's own deadline for ADD where the configuration does not tell, and the greatest that it can have, in seconds.
const AGENT_TIMEOUT: u64 = 60;
const AGENT_TIMEOUT_MAX: u64 = 600;
/// So much longer than that: the agent has the first word.
const LONGER: Duration = Duration::from_secs(15);
/// Nothing but ADD waits for something outside of the node.
const OTHERS_WITHIN: Duration = Duration::from_secs(20);
/// Status line and headers of an answer.
const HEAD_MAX: usize = 16 << 10;

/// The agent of this node.
#[derive(Debug)]
pub(crate) struct Agent<'a> {
    socket: &'a str,
    within: Duration,
    /// Code when nobody answers.
    unavailable: u32,
}

/// An answer as it came.
#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    body: Vec<u8>,
}

impl<'a> Agent<'a> {
    /// The agent that `config` names, for a call of `verb`.
    pub(crate) fn of(config: &'a NetworkConfig, verb: Verb) -> Self {
        let socket = config.agent_socket.as_deref().unwrap_or(names::AGENT_SOCKET);
        let add_within = config.agent_timeout.unwrap_or(AGENT_TIMEOUT).min(AGENT_TIMEOUT_MAX);
        let within = if verb == Verb::Add { Duration::from_secs(add_within) + LONGER } else { OTHERS_WITHIN };
        let unavailable = if verb == Verb::Status { code::NOT_AVAILABLE } else { code::TRY_AGAIN_LATER };
        Self { socket, within, unavailable }
    }

    /// Sends `body` and gives the body of a successful answer.
    ///
    /// # Errors
    ///
    /// The agent's own error; code 11 (STATUS: 50) when it is not reached or does not answer in time; 5 or 6
    /// when its answer makes no sense.
    pub(crate) fn post(
        &self,
        path: &str,
        body: &(impl serde::Serialize + ?Sized),
    ) -> Result<Vec<u8>, CniError> {
        let body = serde_json::to_vec(body).map_err(|error| {
            CniError::new(code::DECODING_FAILURE, "the request cannot be written")
                .with_details(error.to_string())
        })?;
        self.exchange("POST", path, &body)
    }

    /// Asks without a body.
    ///
    /// # Errors
    ///
    /// As [`Agent::post`].
    pub(crate) fn get(&self, path: &str) -> Result<Vec<u8>, CniError> {
        self.exchange("GET", path, &[])
    }

    fn exchange(&self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, CniError> {
        let deadline = Instant::now() + self.within;
        let mut stream = UnixStream::connect(self.socket).map_err(|error| self.unreachable(&error))?;
        let response = send(&mut stream, method, path, body, deadline)
            .and_then(|()| receive(&mut stream, deadline))
            .map_err(|error| self.interrupted(&error))?;
        answer(response)
    }

    fn unreachable(&self, error: &io::Error) -> CniError {
        let message = format!(
            "Looks like {} cannot be reached. Is kuryr-daemon running on this node? See its pod in kube-system or its log",
            self.socket
        );
        CniError::new(self.unavailable, message).with_details(error.to_string())
    }

    fn interrupted(&self, error: &io::Error) -> CniError {
        let timed_out = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
        let what = if timed_out {
            format!("kuryr-daemon did not answer within {} s", self.within.as_secs())
        } else {
            "the connection to kuryr-daemon broke; it may be restarting".to_owned()
        };
        CniError::new(self.unavailable, what).with_details(error.to_string())
    }
}

fn send(stream: &mut UnixStream, method: &str, path: &str, body: &[u8], deadline: Instant) -> io::Result<()> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: kuryr\r\nUser-Agent: kuryr-cni/{}\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION"),
        body.len()
    );
    stream.set_write_timeout(Some(left(deadline)?))?;
    // One write: the agent sees the whole request at once.
    stream.write_all(&[head.as_bytes(), body].concat())
}

/// Reads until the answer is complete; never more than the largest message.
fn receive(stream: &mut UnixStream, deadline: Instant) -> io::Result<Response> {
    let mut read = Vec::with_capacity(4 << 10);
    let mut chunk = [0; 4 << 10];
    loop {
        if let Some(response) = parse(&read, false)? {
            return Ok(response);
        }
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => {
                let cut_short = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut short");
                return parse(&read, true)?.ok_or_else(cut_short);
            }
            Ok(length) => read.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Time that remains; never zero, which would mean "for ever" to the socket.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The answer, once all of it has been read.
fn parse(read: &[u8], at_end: bool) -> io::Result<Option<Response>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let Some(head_length) = read.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if read.len() > HEAD_MAX { Err(invalid("headers without end")) } else { Ok(None) };
    };
    let head = std::str::from_utf8(&read[..head_length]).map_err(|_| invalid("headers are not UTF-8"))?;
    let (status_line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| invalid("not an HTTP/1 answer"))?;
    let header = |name: &str| {
        let pairs = headers.split("\r\n").filter_map(|line| line.split_once(':'));
        pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    if header("transfer-encoding").is_some() {
        return Err(invalid("the answer is sent in chunks, which the agent never does"));
    }
    let body = &read[head_length + 4..];
    let length = match header("content-length") {
        Some(text) => text.parse().map_err(|_| invalid("Content-Length is not a number"))?,
        // These have no body; anything else without a length ends with the connection.
        None if status == 204 || status == 304 => 0,
        None if at_end => body.len(),
        None if body.len() > node::MESSAGE_MAX => node::MESSAGE_MAX + 1,
        None => return Ok(None),
    };
    if length > node::MESSAGE_MAX {
        return Err(invalid("the answer is longer than any message of the agent"));
    }
    Ok(body.get(..length).map(|body| Response { status, body: body.to_vec() }))
}

fn answer(response: Response) -> Result<Vec<u8>, CniError> {
    if matches!(response.status, 200..300) {
        return Ok(response.body);
    }
    Err(serde_json::from_slice::<CniError>(&response.body).unwrap_or_else(|_| {
        let message = format!("kuryr-daemon answered {} without saying why", response.status);
        let text: String = String::from_utf8_lossy(&response.body).chars().take(200).collect();
        CniError::new(code::NODE_FAILURE, message).with_details(text)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(read: &str, at_end: bool, expect: Option<(u16, &str)>) {
        let got = parse(read.as_bytes(), at_end).ok().flatten();
        let got = got.map(|response| (response.status, String::from_utf8(response.body).unwrap()));
        assert_eq!(got.as_ref().map(|(status, body)| (*status, body.as_str())), expect, "{read:?}");
    }

    #[test]
    fn reads_answers_as_they_arrive() {
        let whole = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 4\r\n\r\nbody";
        check(whole, false, Some((200, "body")));
        for end in 0..whole.len() {
            check(&whole[..end], false, None);
        }
        check(&format!("{whole}more"), false, Some((200, "body")));
        check("HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n", false, Some((204, "")));
        check("HTTP/1.1 500 Internal\r\n\r\nwhy", false, None);
        check("HTTP/1.1 500 Internal\r\n\r\nwhy", true, Some((500, "why")));
        check("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody", true, None);
    }

    #[test]
    fn refuses_what_is_no_answer() {
        for read in [
            "SSH-2.0-OpenSSH\r\n\r\n",
            "HTTP/1.1 abc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(parse(read.as_bytes(), false).is_err(), "{read:?}");
        }
        let endless = vec![b'a'; HEAD_MAX + 1];
        assert!(parse(&endless, false).is_err());
    }

    #[test]
    fn passes_on_the_error_of_the_agent() {
        let refuse = |body: &str| answer(Response { status: 503, body: body.into() }).unwrap_err();
        let told = refuse(r#"{"code":11,"msg":"no ready port","details":"quota"}"#);
        assert_eq!((told.code, told.msg.as_str(), told.details.as_str()), (11, "no ready port", "quota"));
        assert_eq!(refuse("<html>").code, code::NODE_FAILURE);
        assert_eq!(refuse("").code, code::NODE_FAILURE);
    }
}
