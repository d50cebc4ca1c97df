//! What can go wrong while setting up what a process shows of itself.

use std::{io, net::SocketAddr};

use kuryr_types::{Blame, Retry};

/// The result of setting something up.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log filter is not one.
    #[error("`{filter}` is not a log filter such as `info,kuryr_agent=debug`")]
    BadFilter {
        /// The text.
        filter: String,
        /// The cause.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("logging is set up already")]
    LoggingTwice,
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A metric cannot be written as text.
    #[error("cannot write the metrics")]
    Metrics(#[source] std::fmt::Error),
}

impl Error {
    /// Tells when the same may succeed.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Listen { .. } => Retry::Backoff,
            _ => Retry::Never,
        }
    }

    /// Tells who has to act for it to succeed.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Listen { .. } | Self::BadFilter { .. } => Blame::Node,
            _ => Blame::Us,
        }
    }
}
