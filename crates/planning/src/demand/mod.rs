//! How many ports a node is going to need, and when they may be made.
//!
//! Four sources, the nearest first:
//!
//! 1. Pods that are scheduled to the node and have no port yet: facts of the look at the node (room `pool`).
//! 2. Pods that are known to come and have no node yet: not scheduled, or still to be made by the controller of
//!    their Deployment, `ReplicaSet`, `StatefulSet` or Job ([`forecast`]).
//! 3. What the node has lived through: how many pods came at once, by day ([`arrivals`]).
//! 4. What could come at any moment: the first wave of a rollout ([`forecast`]).
//!
//! How many ports that makes is decided in `pool::targets`. Which of the creations that all nodes want is made
//! now, and what a cloud that fails is spared, is decided by the [`governor`].
//!
//! Nothing here has to survive a restart: what was learned is learned again, and until then the pool that is
//! found stands for it.

// What a node has lived through.
pub mod arrivals;
// What is about to come.
pub mod forecast;
// Whose turn it is to make ports.
pub mod governor;

pub use arrivals::Arrivals;
pub use forecast::{Coming, Needs, Place, Workload, forecast};
pub use governor::{Governor, Rate, Urgency};
