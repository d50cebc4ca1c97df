//! Running `nft`, the program by which tables of netfilter are changed: one run is one transaction.
//!
//! Source: nft(8).

use std::{
    io::{self, Read, Write},
    path::Path,
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// Bound for one run, which takes milliseconds; half a second for ten thousand Services at once, on a machine that has time.
const TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);

/// Has `commands` carried out in the namespace of the calling thread, all or none. `what` names them in errors.
///
/// # Errors
///
/// `NftTool`, `NftRefused`, `NftSilent`.
pub fn run(nft: &Path, what: &'static str, commands: &str) -> Result<()> {
    let unusable = |source| Error::NftTool { program: nft.to_owned(), source };
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(unusable)?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let (written, message, status) = thread::scope(|scope| {
        // More than a pipe holds waits for nft to read, or for us. When nft is stopped, both end.
        let writing = scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(commands.as_bytes())));
        let reading = scope.spawn(|| stderr.map(complaint).unwrap_or_default());
        let status = wait(&mut child);
        let written = writing.join().unwrap_or_else(|_| Some(Err(io::ErrorKind::Other.into())));
        (written, reading.join().unwrap_or_default(), status)
    });
    match status.map_err(unusable)? {
        None => Err(Error::NftSilent { waited: TIMEOUT }),
        Some(status) if !status.success() => Err(Error::NftRefused { what, status, message }),
        // A nft that ended well without reading did not get the commands.
        Some(_) => written.transpose().map(|_| ()).map_err(unusable),
    }
}

/// Waits for the child; `None` if it had to be stopped.
fn wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let until = Instant::now() + TIMEOUT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// The beginning of what it says, for a person. What cannot be read is left out.
fn complaint(mut stderr: ChildStderr) -> String {
    const LONGEST: u64 = 2048;
    let mut message = Vec::new();
    let _ = stderr.by_ref().take(LONGEST).read_to_end(&mut message);
    let _ = io::copy(&mut stderr, &mut io::sink());
    String::from_utf8_lossy(&message).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_failing_tool_is_told_apart() {
        // More than a pipe holds.
        let commands = "#\n".repeat(100_000);
        for (tool, expect) in [("/nonexistent/nft", "tool"), ("/bin/false", "refused"), ("/bin/true", "tool")]
        {
            let got = match run(Path::new(tool), "nothing", &commands) {
                Err(Error::NftTool { .. }) => "tool",
                Err(Error::NftRefused { .. }) => "refused",
                _ => "other",
            };
            assert_eq!(got, expect, "{tool}");
        }
    }
}
