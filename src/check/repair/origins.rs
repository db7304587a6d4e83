//! Takes chunks from where they came from: snapshots of the volumes that were backed up, and what the volumes have now.

use std::collections::{BTreeMap, HashMap};

use super::Repair;
use super::chunks::Stores;
use super::wanted::{Piece, put_together};
use crate::catalog::SnapshotReference;
use crate::check::CheckError;
use crate::source::{InUse, Snapshot, Source, SourceError};
use crate::types::{
    BackupId, ByteRange, ChunkId, ManifestId, SnapshotName, SourceName, VolumeName, sentence,
};

type Volume = (SourceName, VolumeName);

pub(super) struct Origins<'a> {
    repair: &'a Repair<'a>,
    /// Whose image a manifest is.
    volumes: HashMap<ManifestId, Volume>,
    /// Newest first.
    snapshots: BTreeMap<Volume, Vec<SnapshotReference>>,
}

impl<'a> Origins<'a> {
    pub(super) fn new(repair: &'a Repair<'a>) -> Self {
        let (mut volumes, mut snapshots) = (HashMap::new(), BTreeMap::<Volume, Vec<_>>::new());
        for record in repair.checker.records.readable.values() {
            let volume = (record.source.clone(), record.volume_name.clone());
            if let Some(manifest) = &record.manifest {
                volumes.insert(manifest.id, volume.clone());
            }
            snapshots.entry(volume).or_default().extend(record.snapshot.clone());
        }
        snapshots.values_mut().for_each(|of_volume| {
            of_volume.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.created_at));
        });
        Self { repair, volumes, snapshots }
    }

    /// Looks through all volumes that wanted chunks are of. A source that does not answer is noted.
    pub(super) fn look(&self, stores: &mut Stores<'_>) -> Result<(), CheckError> {
        for (volume, snapshots) in &self.snapshots {
            if self.wanted_of(volume, stores).is_empty() {
                continue;
            }
            let (source_name, name) = volume;
            let Some(source) = self.repair.sources.get(source_name) else {
                let note = format!("source {source_name}, which has volume {name}, is not configured");
                stores.report.note(note);
                continue;
            };
            for snapshot in snapshots {
                self.look_into_snapshot(source.as_ref(), volume, snapshot, stores)?;
            }
            if !self.wanted_of(volume, stores).is_empty() {
                self.look_into_volume(source.as_ref(), volume, stores)?;
            }
        }
        Ok(())
    }

    /// Returns the wanted chunks that backups of a volume need.
    fn wanted_of(&self, volume: &Volume, stores: &Stores<'_>) -> Vec<ChunkId> {
        let is_of = |piece: &Piece| self.volumes.get(&piece.manifest) == Some(volume);
        let mut ids = stores.wanted.ids();
        ids.retain(|id| stores.wanted.pieces(*id).iter().any(is_of));
        ids
    }

    fn look_into_snapshot(
        &self,
        source: &dyn Source,
        volume: &Volume,
        reference: &SnapshotReference,
        stores: &mut Stores<'_>,
    ) -> Result<(), CheckError> {
        let (source_name, name) = volume;
        match source.open_snapshot(name, &reference.name) {
            Ok(snapshot) => {
                let from = format!("snapshot {} of {source_name}/{name}", reference.name);
                self.read(snapshot.as_ref(), volume, &from, stores)
            }
            Err(SourceError::SnapshotNotFound { .. } | SourceError::VolumeNotFound { .. }) => Ok(()),
            Err(error) => {
                let why = sentence(&error);
                stores.report.note(format!(
                    "snapshot {} of {source_name}/{name} cannot be read: {why}",
                    reference.name
                ));
                Ok(())
            }
        }
    }

    /// Reads the volume as it is now, through a snapshot that goes again.
    fn look_into_volume(
        &self,
        source: &dyn Source,
        volume: &Volume,
        stores: &mut Stores<'_>,
    ) -> Result<(), CheckError> {
        let (source_name, name) = volume;
        let Some(snapshot_name) = self.snapshot_name() else { return Ok(()) };
        let snapshot = match source.create_snapshot(name, &snapshot_name, InUse::Accept) {
            Ok(snapshot) => snapshot,
            Err(SourceError::VolumeNotFound { .. }) => return Ok(()),
            Err(error) => {
                stores.report.note(format!("{source_name}/{name} cannot be read: {}", sentence(&error)));
                return Ok(());
            }
        };
        let from = format!("{source_name}/{name} as it is now");
        let read = self.read(snapshot.as_ref(), volume, &from, stores);
        let info = snapshot.info().clone();
        drop(snapshot);
        if let Err(error) = source.remove_snapshot(name, &info) {
            let why = sentence(&error);
            stores.report.note(format!(
                "snapshot {} of {source_name}/{name} cannot be removed: {why}; the next start of the daemon does it",
                info.name
            ));
        }
        read
    }

    /// One of ours: one that is left by a kill is removed as any that no backup needs.
    fn snapshot_name(&self) -> Option<SnapshotName> {
        let repository = self.repair.repository.header().id.to_string();
        let (start, _) = repository.split_at_checked(8)?;
        format!("amberfs.{start}.{}", BackupId::random()).parse().ok()
    }

    fn read(
        &self,
        snapshot: &dyn Snapshot,
        volume: &Volume,
        from: &str,
        stores: &mut Stores<'_>,
    ) -> Result<(), CheckError> {
        let ids = self.wanted_of(volume, stores);
        let total = ids.len() as u64;
        for (done, id) in ids.into_iter().enumerate() {
            self.repair.watch.checkpoint()?;
            self.repair.watch.tell("chunks at the source", done as u64, total);
            for ranges in self.ways(id, volume, stores) {
                match self.read_ranges(snapshot, &ranges) {
                    Ok(plain) => {
                        if stores.take(&plain, from)? {
                            break;
                        }
                    }
                    Err(error) => {
                        stores.report.note(format!("{from} cannot be read: {}", sentence(&error)));
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the ways to put a chunk together from a volume: as each backup of it has it, and from all of them.
    fn ways(&self, id: ChunkId, volume: &Volume, stores: &Stores<'_>) -> Vec<Vec<ByteRange>> {
        let pieces: Vec<Piece> = stores.wanted.pieces(id).to_vec();
        let of_volume = |piece: &&Piece| self.volumes.get(&piece.manifest) == Some(volume);
        let mut manifests: Vec<ManifestId> = Vec::new();
        for piece in pieces.iter().filter(of_volume) {
            if !manifests.contains(&piece.manifest) {
                manifests.push(piece.manifest);
            }
        }
        let mut ways = Vec::new();
        for manifest in manifests {
            let own = pieces.iter().filter(|piece| piece.manifest == manifest);
            ways.extend(put_together(own.copied()));
        }
        ways.extend(put_together(pieces.iter().filter(of_volume).copied()));
        ways.dedup();
        ways
    }

    fn read_ranges(&self, snapshot: &dyn Snapshot, ranges: &[ByteRange]) -> Result<Vec<u8>, SourceError> {
        let size = snapshot.info().size_bytes;
        let length: u64 = ranges.iter().map(|range| range.len()).sum();
        let mut plain = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        // A volume that has shrunk since has none of it.
        if ranges.iter().all(|range| range.end() <= size) {
            snapshot.read(ranges, &mut plain)?;
        }
        Ok(plain)
    }
}
