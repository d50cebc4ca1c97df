//! The Container Network Interface as the runtime speaks it: configuration in, result or error out.
//!
//! Source: CNI specification 1.1.0 (<https://www.cni.dev/docs/spec/>) and its predecessors 0.3.1 to 1.0.0,
//! which differ in the shape of the result and in the verbs.

pub mod config;
pub mod error;
pub mod result;

pub use config::{NetworkConfig, SUPPORTED_VERSIONS, Version};
pub use error::{CniError, code};
pub use result::Attachment;

/// What the runtime asks for in `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// Give the container an interface.
    Add,
    /// Take it away; success when there is nothing left to take.
    Del,
    /// Tell whether the interface is as ADD left it. Since 0.4.0.
    Check,
    /// Free what belongs to no listed attachment. Since 1.1.0.
    Gc,
    /// Tell whether ADD could succeed now. Since 1.1.0.
    Status,
    /// List the specification versions this plugin speaks.
    Version,
}

impl Verb {
    /// Reads `CNI_COMMAND`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// The first version of the specification that knows the verb.
    #[must_use]
    pub const fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_1,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }
}
