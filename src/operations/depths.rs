//! How many backups each of many leans on: in which order they are deleted or imported.

use std::collections::HashMap;

use crate::types::BackupId;

/// Each backup is looked at once, however many are asked for and however long their chains are.
#[derive(Default)]
pub(super) struct Depths(HashMap<BackupId, usize>);

impl Depths {
    /// Returns a number that is larger than the parent's. Backups that lean on each other in a circle, as somebody else
    /// may have written them, get any.
    pub(super) fn of(&mut self, id: BackupId, parent_of: impl Fn(BackupId) -> Option<BackupId>) -> usize {
        let mut unknown = Vec::new();
        let mut next = Some(id);
        let mut depth = 0;
        while let Some(id) = next {
            if let Some(known) = self.0.get(&id) {
                depth = *known;
                break;
            }
            // Known from here on: a circle ends where it began.
            self.0.insert(id, 0);
            unknown.push(id);
            next = parent_of(id);
        }
        for id in unknown.into_iter().rev() {
            depth += 1;
            self.0.insert(id, depth);
        }
        depth
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn id(number: usize) -> BackupId {
        BackupId::from_bytes((number as u128).to_be_bytes())
    }

    #[test]
    fn each_backup_is_looked_at_once_however_long_the_chain_is() {
        const LENGTH: usize = 100_000;
        let parents: HashMap<BackupId, BackupId> =
            (1..LENGTH).map(|number| (id(number), id(number - 1))).collect();
        let (mut depths, looks) = (Depths::default(), Cell::new(0));
        for number in (0..LENGTH).rev().step_by(3).chain(0..LENGTH) {
            let depth = depths.of(id(number), |id| {
                looks.set(looks.get() + 1);
                parents.get(&id).copied()
            });
            assert_eq!(depth, number + 1);
        }
        assert_eq!(looks.get(), LENGTH);
    }

    #[test]
    fn a_circle_has_an_end() {
        let mut depths = Depths::default();
        let parent_of =
            |of: BackupId| Some(if of == id(2) { id(0) } else { id(usize::from(of == id(0)) + 1) });
        for number in [7, 0, 1, 2, 7] {
            assert!(depths.of(id(number), parent_of) > 0);
        }
    }
}
