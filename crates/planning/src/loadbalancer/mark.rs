//! The mark of a floating IP: what its description says of who made it.
//!
//! Neutron makes a floating IP without tags, and a second call tags it. In between, and where the second call fails, only the
//! port of the VIP tells whose it is, and that goes with the load balancer. So the call that makes it writes its cluster and its
//! Service into its description, behind upstream's text:
//!
//! ```text
//! kuryr_lb kuryr-cluster:<cluster> kuryr-service:<UID>
//! ```
//!
//! 1. Tags go before. Where one names a cluster or a Service, or says that it is kept, the description says nothing.
//! 2. A description counts only if it is, to the last character, what this cluster writes for a Service.
//! 3. Upstream's text alone says that it was made for a Service, and not for which.
//!
//! Sources: Networking API v2.0, "Floating IPs" (`description`); Kuryr-Kubernetes 10.0 `lb_public_ip.py` (the text).

use kuryr_api::names::FLOATING_IP_DESCRIPTION;

use crate::ownership::{KEPT_TAG, Owner, TAG_MAX, service_of_tag, service_tag};

/// The description with which a floating IP is made for the Service of this UID.
#[must_use]
pub fn description(uid: &str, owner: &Owner) -> String {
    format!("{FLOATING_IP_DESCRIPTION} {} {}", owner.mark(), service_tag(uid))
}

/// Whether a description says that the floating IP was made for a Service: by this cluster, or by whoever writes upstream's text.
#[must_use]
pub fn is_made(description: &str, owner: &Owner) -> bool {
    description == FLOATING_IP_DESCRIPTION || service_of(description, owner).is_some()
}

/// The UID of the Service that a floating IP was made for, if its description says it and no tag tells whose it is.
#[must_use]
pub fn service_of_untagged<'a>(tags: &[String], description: &'a str, owner: &Owner) -> Option<&'a str> {
    let is_told = |tag: &String| tag == KEPT_TAG || service_of_tag(tag).is_some();
    let is_tagged = owner.has_marked(tags) || owner.is_another_clusters(tags) || tags.iter().any(is_told);
    service_of(description, owner).filter(|_| !is_tagged)
}

/// The description of a floating IP that is ours no longer: what we have written is taken out of it.
#[must_use]
pub fn without_mark<'a>(description: &'a str, owner: &Owner) -> &'a str {
    service_of(description, owner).map_or(description, |_| FLOATING_IP_DESCRIPTION)
}

fn service_of<'a>(description: &'a str, owner: &Owner) -> Option<&'a str> {
    let rest = description.strip_prefix(FLOATING_IP_DESCRIPTION)?.strip_prefix(' ')?;
    let tag = rest.strip_prefix(owner.mark())?.strip_prefix(' ')?;
    let is_of_uid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    service_of_tag(tag).filter(|uid| !uid.is_empty() && tag.len() <= TAG_MAX && uid.bytes().all(is_of_uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "7f0e1f4c-3f6c-4a53-9d2c-2f1f0b0f4c11";

    fn owner() -> Owner {
        Owner::new("k8s".into(), vec!["kuryr-cluster:a b".to_owned(), "site".to_owned()])
    }

    #[test]
    fn what_this_cluster_writes_is_read_again() {
        let written = description(UID, &owner());
        assert_eq!(written, format!("kuryr_lb kuryr-cluster:a b kuryr-service:{UID}"));
        assert_eq!(service_of_untagged(&[], &written, &owner()), Some(UID));
        assert!(is_made(&written, &owner()));
        assert_eq!(without_mark(&written, &owner()), "kuryr_lb");
    }

    #[test]
    fn what_it_does_not_write_says_nothing() {
        let long = format!("kuryr_lb kuryr-cluster:a b kuryr-service:{}", "u".repeat(50));
        for (description, expect) in [
            // Upstream's, and ours before there were marks.
            ("kuryr_lb", true),
            // Another cluster's, also of one whose id begins or ends like ours.
            ("kuryr_lb kuryr-cluster:c kuryr-service:u", false),
            ("kuryr_lb kuryr-cluster:a kuryr-service:u", false),
            ("kuryr_lb kuryr-cluster:a b c kuryr-service:u", false),
            ("kuryr_lb kuryr-cluster:a b kuryr-service:x kuryr-service:u", false),
            ("kuryr_lb kuryr-cluster:x kuryr-cluster:a b kuryr-service:u", false),
            // Malformed.
            ("kuryr_lb kuryr-cluster:a b", false),
            ("kuryr_lb kuryr-cluster:a b ", false),
            ("kuryr_lb kuryr-cluster:a b kuryr-service:", false),
            ("kuryr_lb kuryr-cluster:a b kuryr-service: u", false),
            ("kuryr_lb kuryr-cluster:a b kuryr-service:u ", false),
            ("kuryr_lb kuryr-cluster:a b kuryr-service:u\n", false),
            ("kuryr_lb kuryr-cluster:a b kuryr-service:u,v", false),
            ("kuryr_lb kuryr-cluster:a b kuryr-service:u/v", false),
            ("kuryr_lb kuryr-cluster:a b kuryr-service:ü", false),
            ("kuryr_lb  kuryr-cluster:a b kuryr-service:u", false),
            ("kuryr_lb kuryr-service:u", false),
            ("kuryr_lb kuryr-service:u kuryr-cluster:a b", false),
            ("kuryr_lbkuryr-cluster:a b kuryr-service:u", false),
            (" kuryr_lb kuryr-cluster:a b kuryr-service:u", false),
            ("KURYR_LB kuryr-cluster:a b kuryr-service:u", false),
            (&long, false),
            // A user's own text.
            ("", false),
            ("kuryr_lb of the shop", false),
            ("the shop's, was kuryr_lb kuryr-cluster:a b kuryr-service:u", false),
            ("kuryr_lb kuryr-cluster:a b kuryr-service:u, now the shop's", false),
            ("kuryr-cluster:a b kuryr-service:u", false),
        ] {
            assert_eq!(service_of_untagged(&[], description, &owner()), None, "{description:?}");
            assert_eq!(is_made(description, &owner()), expect, "{description:?}");
            assert_eq!(without_mark(description, &owner()), description);
        }
    }

    #[test]
    fn tags_go_before_the_mark() {
        let written = description(UID, &owner());
        for (tags, expect) in [
            (&[][..], Some(UID)),
            (&["the-shops"], Some(UID)),
            (&["kuryr-cluster:a b"], Some(UID)),
            (&["kuryr-cluster:a b", "site"], None),
            (&["kuryr-cluster:c"], None),
            (&["kuryr-service:v"], None),
            (&["kuryr-kept"], None),
        ] {
            let tags: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
            assert_eq!(service_of_untagged(&tags, &written, &owner()), expect, "{tags:?}");
        }
    }
}
