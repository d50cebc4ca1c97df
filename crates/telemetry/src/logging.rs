//! Log lines on standard error, as text for people or as JSON for collectors.
//!
//! Standard output stays free: the CNI contract and command-line tools need it. A panic becomes a log line too,
//! so that a collector that expects JSON finds it.

use std::{
    io::{self, IsTerminal},
    panic::PanicHookInfo,
};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{Error, Result};

/// The libraries that talk to the network describe each packet at `debug`, and the Kubernetes client reports
/// failures that we report ourselves with what was asked.
const QUIET: &str =
    "kube_client::client::builder=off,hyper=info,hyper_util=info,h2=info,rustls=info,tower=info";

/// How to log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// Text or JSON.
    pub format: LogFormat,
    /// Whether to log decisions with their inputs (`[DEFAULT] debug`).
    pub debug: bool,
    /// A filter such as `info,kuryr_agent=debug`, instead of what `debug` implies.
    pub filter: Option<String>,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors.
    Json,
}

/// Sends all log lines of this process, and its panics, to standard error.
///
/// # Errors
///
/// [`Error::BadFilter`], or [`Error::LoggingTwice`] when called again.
pub fn init(config: &LogConfig) -> Result<()> {
    subscriber(config, io::stderr, io::stderr().is_terminal())?
        .try_init()
        .map_err(|_| Error::LoggingTwice)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn subscriber<W>(config: &LogConfig, writer: W, colours: bool) -> Result<impl Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = fmt::layer().with_writer(writer).with_ansi(colours);
    let lines = match config.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
    };
    Ok(Registry::default().with(lines).with(filter(config)?))
}

fn filter(config: &LogConfig) -> Result<EnvFilter> {
    let text = config.filter.clone().unwrap_or_else(|| {
        let level = if config.debug { "debug" } else { "info" };
        format!("{level},{QUIET}")
    });
    EnvFilter::try_new(&text).map_err(|source| Error::BadFilter { filter: text, source })
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no message");
    tracing::error!(location, message, "panicked");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What a subscriber writes.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(config: &LogConfig, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(config, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    fn speak() {
        tracing::info_span!("reconcile", key = "d/a").in_scope(|| {
            tracing::info!(port = "p1", "attached");
            tracing::debug!("why");
        });
    }

    #[test]
    fn writes_text_or_json() {
        let text = written(&LogConfig::default(), speak);
        assert!(
            text.contains("INFO reconcile{key=\"d/a\"}:") && text.contains("attached port=\"p1\""),
            "{text}"
        );
        let json = written(&LogConfig { format: LogFormat::Json, ..LogConfig::default() }, speak);
        let line: serde_json::Value = serde_json::from_str(&json).unwrap();
        for (path, expect) in
            [("/level", "INFO"), ("/message", "attached"), ("/port", "p1"), ("/span/key", "d/a")]
        {
            assert_eq!(line.pointer(path).and_then(|value| value.as_str()), Some(expect), "{json}");
        }
    }

    #[test]
    fn says_as_much_as_it_is_told_to() {
        for (debug, filter, expect) in [
            (false, None, 1),
            (true, None, 2),
            (true, Some("warn"), 0),
            (false, Some("kuryr_telemetry=debug"), 2),
        ] {
            let config = LogConfig { debug, filter: filter.map(ToOwned::to_owned), ..LogConfig::default() };
            assert_eq!(written(&config, speak).lines().count(), expect, "{config:?}");
        }
    }

    #[test]
    fn refuses_a_filter_that_is_none() {
        let config = LogConfig { filter: Some("info,a=loud".into()), ..LogConfig::default() };
        assert!(matches!(init(&config), Err(Error::BadFilter { .. })));
    }
}
