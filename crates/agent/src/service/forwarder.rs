//! What this room asks of the kernel. All of it blocks and is asked on a lane of its own.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kuryr_datapath::{Outcomes, Services};
use kuryr_planning::service::{Contents, Step};

use super::apply;

type Answer<T> = kuryr_datapath::Result<T>;

/// The tables and programs of a node.
pub trait Forwarder: Send + Sync + 'static {
    /// Reads the tables.
    fn read(&self) -> Answer<Contents>;
    /// Writes, in order; what fails ends it.
    fn write(&self, steps: &[Step]) -> Answer<()>;
    /// Has the programs run for the node's processes; again is success.
    fn attach(&self) -> Answer<()>;
    /// Whether they run for this process.
    fn answer(&self) -> bool;
    /// Whether they can say why they refuse.
    fn tells_refusal(&self) -> bool;
    /// What became of clients' attempts.
    fn outcomes(&self) -> Answer<Outcomes>;
}

impl Forwarder for Mutex<Services> {
    fn read(&self) -> Answer<Contents> {
        Ok(apply::contents(lock(self).read()?))
    }

    fn write(&self, steps: &[Step]) -> Answer<()> {
        let mut services = lock(self);
        steps.iter().try_for_each(|step| apply::step(&mut services, step))
    }

    fn attach(&self) -> Answer<()> {
        lock(self).attach()
    }

    fn answer(&self) -> bool {
        lock(self).answer()
    }

    fn tells_refusal(&self) -> bool {
        lock(self).tells_refusal()
    }

    fn outcomes(&self) -> Answer<Outcomes> {
        lock(self).outcomes()
    }
}

fn lock(services: &Mutex<Services>) -> MutexGuard<'_, Services> {
    // Each write is whole in itself.
    services.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(super) mod fake {
    //! Tables in memory.

    use super::*;

    /// What there is, and what was asked.
    #[derive(Debug, Default)]
    pub(crate) struct Kernel {
        pub(crate) contents: Contents,
        pub(crate) writes: usize,
        pub(crate) attached: usize,
        pub(crate) answers: bool,
        /// How many writes are left before they fail.
        pub(crate) room: Option<usize>,
    }

    #[derive(Debug, Default)]
    pub(crate) struct FakeForwarder(pub(crate) Mutex<Kernel>);

    impl Forwarder for FakeForwarder {
        fn read(&self) -> Answer<Contents> {
            Ok(self.0.lock().unwrap().contents.clone())
        }

        fn write(&self, steps: &[Step]) -> Answer<()> {
            let mut kernel = self.0.lock().unwrap();
            for step in steps {
                if let Some(room) = &mut kernel.room {
                    *room = room.checked_sub(1).ok_or(kuryr_datapath::Error::NoCgroup2)?;
                }
                let contents = &mut kernel.contents;
                match step.clone() {
                    Step::PutRow(place, row) => drop(contents.rows.insert(place, row)),
                    Step::PutMember(member, slot) => drop(contents.members.insert(member, slot)),
                    Step::PutValue(frontend, value) => drop(contents.values.insert(frontend, value)),
                    Step::DeleteValue(frontend) => drop(contents.values.remove(&frontend)),
                    Step::DeleteRow(place) => drop(contents.rows.remove(&place)),
                    Step::DeleteMember(member) => drop(contents.members.remove(&member)),
                    Step::PutNode(address, kind) => drop(contents.nodes.insert(address, kind)),
                    Step::DeleteNode(address) => drop(contents.nodes.remove(&address)),
                }
                kernel.writes += 1;
            }
            Ok(())
        }

        fn attach(&self) -> Answer<()> {
            self.0.lock().unwrap().attached += 1;
            Ok(())
        }

        fn answer(&self) -> bool {
            self.0.lock().unwrap().answers
        }

        fn tells_refusal(&self) -> bool {
            true
        }

        fn outcomes(&self) -> Answer<Outcomes> {
            Ok(Outcomes::default())
        }
    }
}
