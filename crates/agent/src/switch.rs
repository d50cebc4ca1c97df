//! The node's switch, as the agent uses it: what is in its database, and ports that are plugged and unplugged there.

use std::{future::Future, pin::Pin, sync::Arc};

use kuryr_datapath::{Ovsdb, PortSpec, Result, SwitchState};
use tokio::sync::watch;

/// An answer of the database that is under way.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// What the agent asks of the switch's database.
pub trait SwitchDatabase: Send + Sync + 'static {
    /// Watches what is there.
    fn watch(&self) -> watch::Receiver<Arc<SwitchState>>;

    /// Plugs ports, all or none; one that is plugged gets its identifiers set anew.
    fn add_ports<'a>(&'a self, ports: &'a [PortSpec]) -> Answering<'a>;

    /// Unplugs ports by name, all or none; one that is not there is success.
    fn del_ports<'a>(&'a self, names: &'a [String]) -> Answering<'a>;

    /// Looks at what is there.
    fn state(&self) -> Arc<SwitchState> {
        Arc::clone(&self.watch().borrow())
    }
}

impl SwitchDatabase for Ovsdb {
    fn watch(&self) -> watch::Receiver<Arc<SwitchState>> {
        Self::watch(self)
    }

    fn add_ports<'a>(&'a self, ports: &'a [PortSpec]) -> Answering<'a> {
        Box::pin(Self::add_ports(self, ports))
    }

    fn del_ports<'a>(&'a self, names: &'a [String]) -> Answering<'a> {
        Box::pin(Self::del_ports(self, names))
    }

    fn state(&self) -> Arc<SwitchState> {
        Self::state(self)
    }
}
