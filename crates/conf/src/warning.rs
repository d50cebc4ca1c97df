//! What was written and does nothing: misspelled options, options that were replaced, options of libraries
//! that Kuryr no longer uses. Such a line never fails a start; old files are full of them.

use std::fmt;

use crate::{
    elsewhere::{self, Elsewhere},
    options,
    sources::Conf,
};

/// A line without effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// File and line.
    pub origin: String,
    /// Section.
    pub section: String,
    /// Option.
    pub option: String,
    /// Why it has no effect.
    pub cause: Cause,
}

/// Why a line has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Upstream's, and what there is instead.
    Elsewhere(&'static Elsewhere),
    /// Nothing has this name; perhaps this was meant.
    Unknown {
        /// The nearest option of the section.
        nearest: Option<&'static str>,
    },
}

impl Conf {
    /// Lines of the files that have no effect, in order of section and option.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        let from_files = self.written().filter(|(_, _, written)| written.from_file);
        let is_read = |section, option| options::section(section).is_some_and(|section| section.has(option));
        let without_effect = from_files.filter(|(section, option, _)| !is_read(section, option));
        without_effect
            .map(|(section, option, written)| Warning {
                origin: written.origin.clone(),
                section: section.to_owned(),
                option: option.to_owned(),
                cause: cause(section, option),
            })
            .collect()
    }
}

fn cause(section: &str, option: &str) -> Cause {
    match elsewhere::find(section, option) {
        Some(known) => Cause::Elsewhere(known),
        None => Cause::Unknown { nearest: nearest(section, option) },
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: [{}] {} has no effect: ", self.origin, self.section, self.option)?;
        match &self.cause {
            Cause::Elsewhere(known) => f.write_str(known.instead),
            Cause::Unknown { nearest: Some(name) } => {
                write!(f, "there is no such option; was `{name}` meant?")
            }
            Cause::Unknown { nearest: None } => {
                f.write_str("there is no such option; see docs/configuration.md")
            }
        }
    }
}

/// The option of `section` that `written` is a misspelling of, if it is near enough.
fn nearest(section: &str, written: &str) -> Option<&'static str> {
    let distances = options::section(section)?.names().map(|name| (distance(name, written), name));
    distances.min().filter(|(distance, name)| *distance <= name.len() / 4 + 1).map(|(_, name)| name)
}

/// Levenshtein's distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody has to find out what became of an option of upstream's.
    #[test]
    fn every_option_of_upstream_is_declared_or_told_with_what_replaces_it() {
        let conf = Conf::from_texts(&[("upstream.conf", include_str!("../golden/upstream.conf"))]).unwrap();
        let warnings = conf.warnings();
        let told = |section: &str, option: &str| {
            warnings.iter().find(|warning| warning.section == section && warning.option == option)
        };
        for (section, option, _) in conf.written() {
            let is_read = options::section(section).is_some_and(|section| section.has(option));
            match told(section, option) {
                Some(warning) => {
                    let text = warning.to_string();
                    let known =
                        matches!(&warning.cause, Cause::Elsewhere(known) if !known.instead.is_empty());
                    assert!(known && !is_read, "{text}");
                    assert!(text.contains(&format!("[{section}] {option} has no effect: ")), "{text}");
                }
                None => assert!(is_read, "nothing is said about [{section}] {option}"),
            }
        }
        assert!(told("neutron", "vif_plugging_timeout").is_some() && told("neutron", "auth_url").is_none());
        assert!(told("vif_pool", "ports_pool_update_frequency").is_some());
    }

    #[test]
    fn tells_what_has_no_effect() {
        let text = "[vif_pool]\nports_pool_mn = 3\nports_pool_min = 3\nwheels = 4\n\
                    [kubernetes]\nenable_manager = true\n[neutron]\npassword = x\n[nonsense]\na = 1\n";
        let conf = Conf::from_texts(&[("k", text)]).unwrap();
        let got: Vec<String> = conf.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(got.len(), 4, "{got:#?}");
        assert!(got[0].starts_with("k:6: [kubernetes] enable_manager has no effect: "), "{}", got[0]);
        assert!(got[1].contains("k:10: [nonsense] a has no effect: there is no such option"), "{}", got[1]);
        assert!(got[2].contains("was `ports_pool_min` meant?"), "{}", got[2]);
        assert!(got[3].contains("wheels has no effect: there is no such option; see"), "{}", got[3]);
    }

    #[test]
    fn credentials_are_looked_at_by_name_and_never_shown() {
        for (line, expect) in [
            (
                "usrname = kuryr",
                Some("[neutron] usrname has no effect: there is no such option; was `username` meant?"),
            ),
            ("pasword = s3cret", Some("was `password` meant?")),
            ("poject_id = 7f", Some("was `project_id` meant?")),
            ("usr-name = kuryr", Some("was `user_name` meant?")),
            ("connect_retries = 3", Some("has no effect: ")),
            ("wheels = 4", Some("there is no such option; see")),
            ("auth-url = https://cloud", None),
            ("tenant_name = k8s", None),
            ("load_balancer_endpoint_override = https://lb", None),
            ("system_scope = all", None),
        ] {
            let conf = Conf::from_texts(&[("k", &format!("[neutron]\n{line}\n"))]).unwrap();
            let got = conf.warnings().first().map(ToString::to_string);
            match (&got, expect) {
                (Some(got), Some(expect)) => {
                    assert!(got.contains(expect) && !got.contains("s3cret"), "{got}");
                }
                (None, None) => {}
                (got, expect) => panic!("{line}: {got:?} instead of {expect:?}"),
            }
        }
        let elsewhere = Conf::from_texts(&[("k", "[vif_pool]\nports-pool-min = 3\n")]).unwrap();
        assert!(elsewhere.warnings()[0].to_string().contains("was `ports_pool_min` meant?"));
    }
}
