//! What tests of several rooms share.
//!
//! - [`api_server`]: Kubernetes as the rooms `kubernetes` and `controller` need it, in memory.
//!
//! Only tests may need this crate. A fake that is misused panics: the test that did it should fail.
#![expect(clippy::unwrap_used, reason = "a fake that is misused should fail its test")]

pub mod api_server;
