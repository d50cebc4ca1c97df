//! The subnet that a floating IP is from, where a Service describes it by words.
//!
//! 1. `floating-subnet` is a name or a glob (`*` any text, `?` one character); with `!` before it the others are meant.
//! 2. `floating-subnet-tags`, and the older `floating-subnet-tag`, is a list with commas: a subnet has one of these tags;
//!    with `&` before it, all of them; with `!` before it, the others are meant.
//! 3. Both must hold. Of several subnets the first one by name is taken, so that it is always the same.
//!
//! Worked example: `floating-subnet: dmz-*` and `floating-subnet-tags: &public,west` take `dmz-2` with tags `public` and
//! `west`, but neither `dmz-1` with tag `public` alone nor `office` with both.
//!
//! Source: cloud-provider-openstack, "Exposing applications using services of LoadBalancer type". What this does not do:
//! regular expressions (`~` before the name), which fit nothing here.

use ipnet::IpNet;
use kuryr_types::SubnetId;

/// A subnet of an external network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalSubnet {
    /// Its id.
    pub id: SubnetId,
    /// Its name.
    pub name: String,
    /// Its prefix.
    pub prefix: IpNet,
    /// Its tags.
    pub tags: Vec<String>,
}

/// What is said of the subnet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// Of its name.
    pub name: Option<String>,
    /// Of its tags.
    pub tags: Option<String>,
}

impl Words {
    /// The subnet that is meant, of those of the network.
    #[must_use]
    pub fn choose<'a>(&self, subnets: &'a [ExternalSubnet]) -> Option<&'a ExternalSubnet> {
        let fits = |subnet: &&ExternalSubnet| {
            // There are no floating IPs of IPv6.
            matches!(subnet.prefix, IpNet::V4(_))
                && self.name.as_deref().is_none_or(|words| fits_name(words, &subnet.name))
                && self.tags.as_deref().is_none_or(|words| fits_tags(words, &subnet.tags))
        };
        subnets.iter().filter(fits).min_by_key(|subnet| (&subnet.name, &subnet.id))
    }
}

fn negation(words: &str) -> (bool, &str) {
    words.strip_prefix('!').map_or((false, words), |rest| (true, rest))
}

fn fits_name(words: &str, name: &str) -> bool {
    let (is_negated, pattern) = negation(words);
    !pattern.starts_with('~') && fits_glob(pattern, name) != is_negated
}

fn fits_tags(words: &str, tags: &[String]) -> bool {
    let (is_negated, words) = negation(words);
    let (needs_all, words) = words.strip_prefix('&').map_or((false, words), |rest| (true, rest));
    let mut wanted = words.split(',').map(str::trim).filter(|tag| !tag.is_empty());
    let has = |tag: &str| tags.iter().any(|found| found == tag);
    let fits = if needs_all { wanted.all(has) } else { wanted.any(has) };
    fits != is_negated
}

/// By the places of the pattern at which a text may be: each character moves them on.
fn fits_glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let mut at = vec![false; pattern.len() + 1];
    at[0] = true;
    pass_stars(&pattern, &mut at);
    for character in text.chars() {
        let mut next = vec![false; pattern.len() + 1];
        for (place, wanted) in pattern.iter().enumerate().filter(|(place, _)| at[*place]) {
            match wanted {
                '*' => next[place] = true,
                wanted if *wanted == '?' || *wanted == character => next[place + 1] = true,
                _ => {}
            }
        }
        pass_stars(&pattern, &mut next);
        at = next;
    }
    at[pattern.len()]
}

/// A star may stand for nothing.
fn pass_stars(pattern: &[char], at: &mut [bool]) {
    for (place, wanted) in pattern.iter().enumerate() {
        if at[place] && *wanted == '*' {
            at[place + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_globs() {
        for (words, name, expect) in [
            ("dmz", "dmz", true),
            ("dmz", "dmz-1", false),
            ("dmz-*", "dmz-1", true),
            ("*-1", "dmz-1", true),
            ("*m*1*", "dmz-1", true),
            ("dmz-?", "dmz-12", false),
            ("*", "", true),
            ("?", "", false),
            ("!dmz-*", "dmz-1", false),
            ("!dmz-*", "office", true),
            ("~dmz.*", "dmz-1", false),
            ("!~dmz.*", "office", false),
        ] {
            assert_eq!(fits_name(words, name), expect, "{words} {name}");
        }
    }

    #[test]
    fn tags() {
        let tags = ["public".to_owned(), "west".to_owned()];
        for (words, expect) in [
            ("public", true),
            ("east, public", true),
            ("east", false),
            ("&public,west", true),
            ("&public,east", false),
            ("!public", false),
            ("!east", true),
            ("!&public,east", true),
            ("!&public,west", false),
        ] {
            assert_eq!(fits_tags(words, &tags), expect, "{words}");
        }
    }

    #[test]
    fn the_first_by_name_of_those_for_which_both_hold() {
        let subnet = |id: &str, name: &str, prefix: &str, tags: &[&str]| ExternalSubnet {
            id: id.into(),
            name: name.to_owned(),
            prefix: prefix.parse().unwrap(),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        };
        let subnets = [
            subnet("a", "dmz-3", "203.0.113.0/26", &["public"]),
            subnet("b", "dmz-2", "203.0.113.64/26", &["public"]),
            subnet("c", "dmz-1", "203.0.113.128/26", &[]),
            subnet("d", "dmz-0", "2001:db8::/64", &["public"]),
        ];
        let choose = |name: Option<&str>, tags: Option<&str>| {
            let words = Words { name: name.map(str::to_owned), tags: tags.map(str::to_owned) };
            words.choose(&subnets).map(|subnet| subnet.id.to_string())
        };
        assert_eq!(choose(Some("dmz-*"), Some("public")).as_deref(), Some("b"));
        assert_eq!(choose(Some("dmz-*"), None).as_deref(), Some("c"));
        assert_eq!(choose(Some("office"), Some("public")), None);
    }
}
