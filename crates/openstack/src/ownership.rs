//! What is ours: a project and tags.
//!
//! A tag alone proves nothing, because any tenant can put our tag on a port of its own, and a caller with
//! role `service` sees the ports of all tenants (Neutron's default policies, `get_port`). A project alone
//! proves nothing either, because other programs may use it. So every list and every proof asks for both,
//! and each answer is compared here again: a Neutron that does not know a filter ignores it, and one that is
//! given an empty value ignores the filter as well.
//!
//! Sources: Networking API v2.0, "Filtering and Column Selection", "Tag extension".

use kuryr_types::ProjectId;

use crate::error::Error;

/// Neutron's own limits are 60 characters (older releases) and 255; the smaller one is safe everywhere.
const MAX_TAG_CHARACTERS: usize = 60;

/// What marks a resource as ours: its project and all of these tags.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ownership {
    project_id: ProjectId,
    tags: Vec<String>,
}

impl Ownership {
    /// Ours is what is in `project_id` and carries `cluster_tag`.
    ///
    /// # Errors
    /// [`Error::Mark`] if one of them is empty, or the tag has more than 60 characters, a comma (which
    /// separates tags in a filter), a slash (which ends a path segment) or a space at its ends.
    pub fn new(project_id: ProjectId, cluster_tag: impl Into<String>) -> Result<Self, Error> {
        if project_id.as_str().is_empty() {
            return Err(Error::Mark { value: String::new(), problem: "the project id is empty" });
        }
        Self { project_id, tags: Vec::new() }.with_tag(cluster_tag)
    }

    /// Asks for one tag more, such as those of upstream's `resource_tags`.
    ///
    /// # Errors
    /// [`Error::Mark`] as for [`Ownership::new`].
    pub fn with_tag(mut self, tag: impl Into<String>) -> Result<Self, Error> {
        let tag = tag.into();
        if let Some(problem) = tag_problem(&tag) {
            return Err(Error::Mark { value: tag, problem });
        }
        if !self.tags.contains(&tag) {
            self.tags.push(tag);
        }
        Ok(self)
    }

    /// The project.
    #[must_use]
    pub fn project_id(&self) -> &ProjectId {
        &self.project_id
    }

    /// The tags, at least one; the cluster's comes first.
    #[must_use]
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    /// What our resources that can be found by it have as their description from the moment they exist; tags may
    /// come later.
    #[must_use]
    pub fn mark(&self) -> &str {
        self.tags.first().map_or("", String::as_str)
    }

    /// Our tags and those that a resource has besides.
    pub(crate) fn and_tags_of<'a>(&'a self, found: &'a [String]) -> Vec<&'a str> {
        let others = found.iter().filter(|tag| !self.tags.contains(tag));
        self.tags.iter().chain(others).map(String::as_str).collect()
    }

    /// Says what keeps a resource from being of our project; `None` if it is.
    pub(crate) fn difference_of_project(&self, project_id: &ProjectId) -> Option<String> {
        (*project_id != self.project_id).then(|| format!("it belongs to project {project_id}"))
    }

    /// Says what keeps a resource from being ours; `None` if it is.
    pub(crate) fn difference(&self, project_id: &ProjectId, tags: &[String]) -> Option<String> {
        if let Some(difference) = self.difference_of_project(project_id) {
            return Some(difference);
        }
        let missing = self.tags.iter().find(|tag| !tags.contains(tag))?;
        Some(format!("it does not carry the tag {missing}"))
    }
}

fn tag_problem(tag: &str) -> Option<&'static str> {
    match tag {
        "" => Some("a tag must not be empty"),
        _ if tag.chars().count() > MAX_TAG_CHARACTERS => Some("a tag must not have more than 60 characters"),
        _ if tag.contains([',', '/']) => Some("a tag must not contain a comma or a slash"),
        _ if tag.trim() != tag || tag.chars().any(char::is_control) => {
            Some("a tag must not contain control characters, or spaces at its ends")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_a_filter_would_ignore_or_split_is_refused() {
        let longest = "x".repeat(60);
        for (project, tag, accepted) in [
            ("p", "cluster-a", true),
            ("p", "kuryr:cluster=a b", true),
            ("p", longest.as_str(), true),
            ("", "cluster-a", false),
            ("p", "", false),
            ("p", " ", false),
            ("p", "a,b", false),
            ("p", "a/b", false),
            ("p", "a\n", false),
            ("p", &format!("{longest}x"), false),
        ] {
            assert_eq!(Ownership::new(project.into(), tag).is_ok(), accepted, "{project:?} {tag:?}");
        }
    }

    #[test]
    fn ours_is_our_project_and_all_our_tags() {
        let owner = Ownership::new("ours".into(), "cluster-a").unwrap().with_tag("site-1").unwrap();
        let tags = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (project, found, ours) in [
            ("ours", "cluster-a site-1", true),
            ("ours", "site-1 other cluster-a", true),
            ("ours", "cluster-a", false),
            ("ours", "site-1", false),
            ("ours", "cluster-ab site-1", false),
            ("theirs", "cluster-a site-1", false),
            ("", "cluster-a site-1", false),
        ] {
            let difference = owner.difference(&project.into(), &tags(found));
            assert_eq!(difference.is_none(), ours, "{project} {found}: {difference:?}");
        }
    }
}
