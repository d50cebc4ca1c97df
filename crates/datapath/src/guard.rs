//! The guard: a table of netfilter rules that keeps pods and the node apart where eBPF programs do not.
//!
//! The programs mark what they admit to the local path. Should one be missing (detached by hand, lost with an
//! upgrade), its host end is an ordinary interface of the node, and the node might route. So, by interface group:
//!
//! - what comes from a pod's host end without the mark of the local path or of the straight way is dropped before anything
//!   else sees it;
//! - what comes from a prepared uplink's end at all is dropped likewise: with its program, nothing of it reaches
//!   the stack;
//! - nothing from or to a host end is forwarded, unless it was translated for a client outside and goes straight to the pod
//!   or back. That is told by marks which the tables for such clients set, and nobody else ([`crate::inbound`]).
//!
//! The table is `inet kuryr`, owned by us alone and replaced as a whole in one transaction. On a kernel without the family
//! `inet`, which is found out by trying, there are two of that name, in the families `ip` and `ip6`. A kernel may have none
//! of them; what can be done without the guard is [`Node`](crate::Node)'s to say.
//!
//! Sources: nft(8), "NETFILTER HOOKS", and "Interface groups" in ip-link(8).

use std::path::Path;

use kuryr_ebpf_maps::joint::STRAIGHT_MARK;

use crate::{
    error::{Error, Result},
    inbound::ANSWER_MARK,
    nft,
};

/// Mark of packets that are admitted to the local path.
pub const LOCAL_MARK: u32 = 0x6b75_0001;
/// Group of pods' host ends.
pub const POD_GROUP: u32 = 0x6b75;
/// Group of prepared uplinks' ends.
pub const UPLINK_GROUP: u32 = 0x6b76;

/// Group of bridges between taps and the integration bridge. The guard has no rule for it: what they pass on is bridged,
/// and with bridge netfilter their rules are of Neutron's agent.
pub const BRIDGE_GROUP: u32 = 0x6b77;
/// Group of the node's own port. The guard has no rule for it: rules of routing tell it by its group.
pub const OWN_PORT_GROUP: u32 = 0x6b78;

/// The table, as errors name it.
const WHAT: &str = "the guard";
/// Before connection tracking (-200) and everybody's own tables.
const PRIORITY: i32 = -350;

/// What the guard goes by.
#[derive(Debug, Clone, Copy)]
pub struct Marks {
    /// Mark of packets that are admitted to the local path.
    pub local: u32,
    /// Group of pods' host ends.
    pub pods: u32,
    /// Group of prepared uplinks' ends.
    pub uplinks: u32,
}

/// The one family that has packets of both.
const BOTH: &[&str] = &["inet"];
/// Each by itself.
const EACH: &[&str] = &["ip", "ip6"];

/// Installs the table in the namespace of the calling thread, or replaces it in one transaction.
///
/// # Errors
///
/// `NftTool`, `NftRefused`, `NftSilent`.
pub fn install(nft: &Path, marks: Marks) -> Result<()> {
    match nft::run(nft, WHAT, &rules(BOTH, marks)) {
        // If it was not for the family, this is refused for the same reason as before.
        Err(Error::NftRefused { what, status, message }) => {
            nft::run(nft, WHAT, &rules(EACH, marks)).map_err(|_| Error::NftRefused { what, status, message })
        }
        done => done,
    }
}

/// The table in each of these families, as one transaction: declared so that it exists, deleted, and made anew.
fn rules(families: &[&str], marks: Marks) -> String {
    let Marks { local, pods, uplinks } = marks;
    let table = |family: &&str| {
        format!(
            "table {family} kuryr
delete table {family} kuryr
table {family} kuryr {{
	chain arriving {{
		type filter hook prerouting priority {PRIORITY}; policy accept;
		iifgroup {pods} meta mark != {{ {local:#010x}, {STRAIGHT_MARK:#010x} }} counter drop
		iifgroup {uplinks} counter drop
	}}
	chain forwarded {{
		type filter hook forward priority {PRIORITY}; policy accept;
		iifgroup {pods} meta mark != {ANSWER_MARK:#010x} counter drop
		oifgroup {pods} meta mark != {STRAIGHT_MARK:#010x} counter drop
	}}
}}
"
        )
    };
    families.iter().map(table).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_one_transaction_with_every_group() {
        const PIPE: usize = 4096;
        for families in [BOTH, EACH] {
            let rules = rules(families, Marks { local: LOCAL_MARK, pods: POD_GROUP, uplinks: UPLINK_GROUP });
            for family in families {
                let begin =
                    format!("table {family} kuryr\ndelete table {family} kuryr\ntable {family} kuryr {{\n");
                assert!(rules.contains(&begin), "{rules}");
            }
            for rule in [
                "iifgroup 27509 meta mark != { 0x6b750001, 0x6b750004 } counter drop",
                "iifgroup 27510 counter drop",
                "iifgroup 27509 meta mark != 0x6b750003 counter drop",
                "oifgroup 27509 meta mark != 0x6b750004 counter drop",
            ] {
                assert_eq!(rules.matches(&format!("\t\t{rule}\n")).count(), families.len(), "{rule}");
            }
            assert!(rules.len() < PIPE);
        }
    }

    /// Stands in for a nft on a kernel without these families: it refuses rules that name one, and keeps others.
    fn nft_without(folder: &Path, families: &str) -> std::path::PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let (program, kept) = (folder.join("nft"), folder.join("kept"));
        let script = format!(
            "#!/bin/sh\ncat >{0}.new\nif grep -qE '^table ({families}) ' {0}.new; then echo no family >&2; exit 1; fi\n\
             mv {0}.new {0}\n",
            kept.display()
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[test]
    fn without_a_family_for_both_each_has_a_table() {
        let marks = Marks { local: LOCAL_MARK, pods: POD_GROUP, uplinks: UPLINK_GROUP };
        for (missing, expect) in [("none", Some(BOTH)), ("inet", Some(EACH)), ("inet|ip6", None)] {
            let folder = tempfile::tempdir().unwrap();
            let done = install(&nft_without(folder.path(), missing), marks);
            let kept = std::fs::read_to_string(folder.path().join("kept")).ok();
            assert_eq!(kept, expect.map(|families| rules(families, marks)), "{missing}");
            match (done, expect) {
                (Ok(()), Some(_)) => {}
                (Err(Error::NftRefused { message, .. }), None) => assert_eq!(message, "no family"),
                (other, _) => panic!("{missing}: {other:?}"),
            }
        }
    }
}
