//! STATUS: whether an ADD could succeed now.
//!
//! No only where nothing can be wired at all. An empty pool is no reason: the runtime would declare the whole node not
//! ready, and pods that wait get their ports as soon as there are some.

use super::Sandboxes;
use crate::error::{Error, Result};

impl Sandboxes {
    /// Tells whether pods can be wired.
    ///
    /// # Errors
    ///
    /// `CannotWire` with the reason.
    pub(crate) fn status(&self) -> Result<()> {
        let state = self.state.get();
        if let Some(why) = self.kernel.trouble() {
            return Err(Error::CannotWire { why: format!("this node's kernel cannot be used: {why}") });
        }
        let way = state.way();
        if !way.good {
            return Err(Error::CannotWire { why: way.message });
        }
        if state.offer().is_none() {
            let why = "kuryr-controller has not offered ports to this node yet; is it running and leading?";
            return Err(Error::CannotWire { why: why.to_owned() });
        }
        Ok(())
    }
}
