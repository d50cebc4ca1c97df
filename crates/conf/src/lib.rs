//! `kuryr.conf`: reading it, the options that exist, and the reference that is made from them.
//!
//! - [`dialect`]: one file in oslo.config's dialect, read into assignments;
//! - [`sources`]: several files, folders and the environment, later ones winning;
//! - `search`: where files are if none are named;
//! - [`substitution`]: `$name` and `${section.name}` within values;
//! - [`value`]: the types that options have;
//! - [`options`]: every option of Kuryr, declared once;
//! - [`elsewhere`]: options of upstream and its libraries that have no effect here, and what replaces them;
//! - [`warning`]: what was written and does nothing;
//! - [`reference()`]: the documentation of all options.
//!
//! Programs resolve what they need into a form of their own, once, at start. Nothing here knows which cloud
//! or node it is about, and nothing but [`sources`] reads files.
//!
//! Sources: oslo.config 10, `iniparser.py` and `cfg.py` (behaviour compared with the library itself over generated
//! files, in `library.rs`); Kuryr-Kubernetes 10.0, `config.py`.

pub mod dialect;
mod search;
pub mod sources;
pub mod substitution;
pub mod value;

pub mod elsewhere;
pub mod options;

pub mod warning;

mod error;
mod reference;

#[cfg(test)]
mod library;

pub use error::{Error, Place};
pub use options::Opt;
pub use reference::reference;
pub use sources::{Conf, Sources};
pub use warning::Warning;
