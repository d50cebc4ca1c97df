//! The steps.

use kuryr_types::{FloatingIpId, LbPoolId, ListenerId, LoadBalancerId, MemberId, MonitorId, PortId};

use super::{
    desired::{BalancerSpec, ListenerSpec, MonitorSpec, PoolSpec, Protocol},
    inputs::External,
};

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Puts our finalizer on the Service.
    AddFinalizer,
    /// Takes it off.
    RemoveFinalizer,
    /// Makes a load balancer with all below it.
    CreateBalancer(Box<BalancerSpec>),
    /// Makes a load balancer ours that upstream made for the same ClusterIP.
    AdoptBalancer {
        /// Which.
        stranger: LoadBalancerId,
    },
    /// Deletes a load balancer with all below it.
    DeleteBalancer {
        /// Which.
        balancer: LoadBalancerId,
    },
    /// Makes a pool, without members and of no listener yet.
    CreatePool {
        /// Of which load balancer.
        balancer: LoadBalancerId,
        /// Its name.
        name: String,
        /// The rest.
        pool: PoolSpec,
    },
    /// Changes how a pool chooses members.
    UpdatePool {
        /// Of which load balancer.
        balancer: LoadBalancerId,
        /// Which.
        pool: LbPoolId,
        /// How it should be.
        to: PoolSpec,
    },
    /// Deletes a pool.
    DeletePool {
        /// Of which load balancer.
        balancer: LoadBalancerId,
        /// Which.
        pool: LbPoolId,
    },
    /// Replaces the members of a pool.
    SetMembers {
        /// Of which load balancer.
        balancer: LoadBalancerId,
        /// Of which pool.
        pool: LbPoolId,
        /// How it should be.
        to: PoolSpec,
    },
    /// Deletes a member that Octavia has been about to delete for long.
    DeleteMember {
        /// Of which load balancer.
        balancer: LoadBalancerId,
        /// Of which pool.
        pool: LbPoolId,
        /// Which.
        member: MemberId,
    },
    /// Makes a listener for a pool that is there.
    CreateListener {
        /// Of which load balancer.
        balancer: LoadBalancerId,
        /// Protocol and port.
        at: (Protocol, u16),
        /// For which pool.
        pool: LbPoolId,
        /// The rest.
        listener: ListenerSpec,
    },
    /// Changes a listener.
    UpdateListener {
        /// Of which load balancer.
        balancer: LoadBalancerId,
        /// Which.
        listener: ListenerId,
        /// Its pool.
        pool: LbPoolId,
        /// How it should be.
        to: ListenerSpec,
    },
    /// Deletes a listener.
    DeleteListener {
        /// Of which load balancer.
        balancer: LoadBalancerId,
        /// Which.
        listener: ListenerId,
    },
    /// Makes the monitor of a pool.
    CreateMonitor {
        /// Of which load balancer.
        balancer: LoadBalancerId,
        /// Of which pool.
        pool: LbPoolId,
        /// Its name.
        name: String,
        /// The rest.
        monitor: MonitorSpec,
    },
    /// Changes a monitor.
    UpdateMonitor {
        /// Of which load balancer.
        balancer: LoadBalancerId,
        /// Which.
        monitor: MonitorId,
        /// How it should be, of the same kind.
        to: MonitorSpec,
    },
    /// Deletes a monitor.
    DeleteMonitor {
        /// Of which load balancer.
        balancer: LoadBalancerId,
        /// Which.
        monitor: MonitorId,
    },
    /// Makes a floating IP that leads to a port.
    CreateFloating {
        /// The port.
        port: PortId,
        /// From where.
        external: External,
        /// Tags besides the cluster's.
        tags: Vec<String>,
    },
    /// Tags a floating IP that was made and could not be tagged, or marks it as one to be kept, or no more.
    AdoptFloating {
        /// Which.
        floating: FloatingIpId,
        /// Tags besides the cluster's.
        tags: Vec<String>,
    },
    /// Has a floating IP lead to a port, or to none.
    Associate {
        /// Which.
        floating: FloatingIpId,
        /// Where to.
        port: Option<PortId>,
    },
    /// Takes our tags off a floating IP, which the user keeps.
    KeepFloating {
        /// Which.
        floating: FloatingIpId,
    },
    /// Deletes a floating IP of ours.
    DeleteFloating {
        /// Which.
        floating: FloatingIpId,
    },
}

impl Step {
    /// What it is called in metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AddFinalizer => "add_finalizer",
            Self::RemoveFinalizer => "remove_finalizer",
            Self::CreateBalancer(_) => "create_load_balancer",
            Self::AdoptBalancer { .. } => "adopt_load_balancer",
            Self::DeleteBalancer { .. } => "delete_load_balancer",
            Self::CreatePool { .. } => "create_pool",
            Self::UpdatePool { .. } => "update_pool",
            Self::DeletePool { .. } => "delete_pool",
            Self::SetMembers { .. } => "replace_members",
            Self::DeleteMember { .. } => "delete_member",
            Self::CreateListener { .. } => "create_listener",
            Self::UpdateListener { .. } => "update_listener",
            Self::DeleteListener { .. } => "delete_listener",
            Self::CreateMonitor { .. } => "create_monitor",
            Self::UpdateMonitor { .. } => "update_monitor",
            Self::DeleteMonitor { .. } => "delete_monitor",
            Self::CreateFloating { .. } => "create_floating_ip",
            Self::AdoptFloating { .. } => "adopt_floating_ip",
            Self::Associate { .. } => "associate_floating_ip",
            Self::KeepFloating { .. } => "keep_floating_ip",
            Self::DeleteFloating { .. } => "delete_floating_ip",
        }
    }

    /// The load balancer that it changes.
    #[must_use]
    pub const fn balancer(&self) -> Option<&LoadBalancerId> {
        match self {
            Self::DeleteBalancer { balancer }
            | Self::CreatePool { balancer, .. }
            | Self::UpdatePool { balancer, .. }
            | Self::DeletePool { balancer, .. }
            | Self::SetMembers { balancer, .. }
            | Self::DeleteMember { balancer, .. }
            | Self::CreateListener { balancer, .. }
            | Self::UpdateListener { balancer, .. }
            | Self::DeleteListener { balancer, .. }
            | Self::CreateMonitor { balancer, .. }
            | Self::UpdateMonitor { balancer, .. }
            | Self::DeleteMonitor { balancer, .. } => Some(balancer),
            Self::AddFinalizer
            | Self::RemoveFinalizer
            | Self::CreateBalancer(_)
            | Self::AdoptBalancer { .. }
            | Self::CreateFloating { .. }
            | Self::AdoptFloating { .. }
            | Self::Associate { .. }
            | Self::KeepFloating { .. }
            | Self::DeleteFloating { .. } => None,
        }
    }

    /// Whether it is about a floating IP. Nothing that follows it in a plan needs it.
    #[must_use]
    pub const fn is_about_floating(&self) -> bool {
        matches!(
            self,
            Self::CreateFloating { .. }
                | Self::AdoptFloating { .. }
                | Self::Associate { .. }
                | Self::KeepFloating { .. }
                | Self::DeleteFloating { .. }
        )
    }

    /// Whether it is about something in the cloud that was there at the look: if that is not found, somebody took it away
    /// since, and the next look tells what to do instead.
    #[must_use]
    pub const fn is_about_what_was_seen(&self) -> bool {
        let is_made = matches!(self, Self::CreateFloating { .. });
        self.balancer().is_some() || self.is_about_floating() && !is_made
    }
}
