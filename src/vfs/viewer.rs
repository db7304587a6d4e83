//! Who looks at the tree, and whose parts of it he sees: those that the kernel would let him open.
//!
//! The kernel keeps others out of what has an owner. Folders that several projects share have none, so what is
//! listed and found in them depends on the viewer.

use std::sync::OnceLock;

use super::control_file::Caller;
use super::owners::Owner;
use crate::sysio::process;

pub(super) struct Viewer {
    caller: Caller,
    sees_all: bool,
    /// A request tells of one group only; the others are asked for when it comes to them.
    groups: OnceLock<Vec<u32>>,
}

impl Viewer {
    pub(super) fn new(caller: Caller, operator: Owner) -> Self {
        let sees_all = caller.uid == 0 || caller.uid == operator.uid;
        Self { caller, sees_all, groups: OnceLock::new() }
    }

    pub(super) fn is_root(&self) -> bool {
        self.caller.uid == 0
    }

    /// Takes note of all groups while the caller waits for us: who calls later is somebody else.
    pub(super) fn settled(self) -> Self {
        if !self.sees_all {
            self.groups();
        }
        self
    }

    /// May he look into what has this owner?
    pub(super) fn sees(&self, owner: Owner) -> bool {
        self.sees_all
            || owner.uid == self.caller.uid
            || owner.gid == self.caller.gid
            || self.groups().contains(&owner.gid)
    }

    /// May he look into what these hold together?
    pub(super) fn sees_one_of(&self, owners: &[Owner]) -> bool {
        self.sees_all || owners.iter().any(|owner| self.sees(*owner))
    }

    fn groups(&self) -> &[u32] {
        self.groups.get_or_init(|| process::supplementary_groups(self.caller.pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_sees_by_uid_by_group_and_as_operator() {
        let project = Owner { uid: 1000, gid: 2000 };
        let operator = Owner { uid: 5, gid: 6 };
        // Of process 0 no groups are known.
        let sees = |uid, gid| Viewer::new(Caller { uid, gid, pid: 0 }, operator).sees(project);
        assert!(sees(0, 99) && sees(5, 99) && sees(1000, 99) && sees(99, 2000));
        assert!(!sees(99, 6) && !sees(2000, 1000), "a uid is no gid");
    }
}
