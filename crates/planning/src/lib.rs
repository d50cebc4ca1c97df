//! Everything Kuryr decides. Objects and found state go in, desired state and ordered steps come out.
//!
//! Nothing here does I/O, waits, knows the time (it is given) or can fail because of the outside. The same
//! inputs give the same steps, in the same order.
//!
//! Rooms, in the order in which a pod meets them:

// Controller: names and tags, what is ours.
pub mod ownership;
// Controller: which ports a node should be offered.
pub mod pool;
// Controller: how many ports a node is going to need, and whose turn it is to make some.
pub mod demand;
// Controller: a Service of type LoadBalancer -> a load balancer of Octavia with pods as members.
pub mod loadbalancer;
// Agent: offered ports and switch state -> what to plug, what is ready.
pub mod uplink;
// Agent: which port a pod takes, when it gives it back.
pub mod claim;
// Agent: claim and subnets -> links, addresses, routes.
pub mod attachment;
// Agent: Services and their endpoints -> the tables by which clients on this node reach them.
pub mod service;
