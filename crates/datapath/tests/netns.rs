//! Threads in other network namespaces, on a real kernel.
//!
//! Needs root.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use kuryr_datapath::Netns;

#[test]
fn whoever_works_in_a_namespace_is_back_afterwards_also_by_a_panic() {
    let (one, other) = (Netns::anonymous().unwrap(), Netns::anonymous().unwrap());
    let now = || Netns::own().unwrap().id();
    let home = now();
    assert_eq!(one.run(now).unwrap(), one.id());
    assert_eq!(now(), home);

    let broken = || one.run(|| panic!("a bug"));
    assert!(catch_unwind(AssertUnwindSafe(broken)).is_err());
    assert_eq!(now(), home);

    let nested = one.run(|| (other.run(now).unwrap(), now())).unwrap();
    assert_eq!(nested, (other.id(), one.id()));
    assert_eq!(now(), home);
}
