//! Security groups of ours that were made twice, by a call of a leader that came late when the next one had made one.

use std::collections::BTreeSet;

use kuryr_types::SecurityGroupId;

/// A security group with the name of ours, in our project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'a> {
    /// Its id.
    pub id: &'a SecurityGroupId,
    /// By which our group is told from those of other clusters: the name has room for a part of the cluster's id only.
    pub description: &'a str,
}

impl Named<'_> {
    /// Tells whether this is one of ours that nobody needs: another one than `ours`, with the same description, and none of those that
    /// pods get or got (`of_classes`). That no port has it only Neutron knows, which keeps one that a port has.
    #[must_use]
    pub fn is_double(&self, ours: &Named<'_>, of_classes: &BTreeSet<&SecurityGroupId>) -> bool {
        self.id != ours.id && self.description == ours.description && !of_classes.contains(self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_double_is_another_of_the_same_description_that_no_class_names() {
        let (first, second, of_class) =
            (SecurityGroupId::from("1"), SecurityGroupId::from("2"), SecurityGroupId::from("3"));
        let ours = Named { id: &first, description: "of cluster c" };
        let of_classes = [&first, &of_class].into();
        for (id, description, expect) in [
            (&first, "of cluster c", false),
            (&second, "of cluster c", true),
            (&second, "of cluster d", false),
            (&second, "", false),
            (&of_class, "of cluster c", false),
        ] {
            assert_eq!(Named { id, description }.is_double(&ours, &of_classes), expect, "{id} {description}");
        }
    }
}
