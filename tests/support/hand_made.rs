//! A repository whose backups are made by hand, extent by extent, without a source: for tests of whoever reads them.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use amberfs::catalog::{BackupRecord, BackupStatus, DiffCheck};
use amberfs::format::codec::Compression;
use amberfs::format::manifest::{ManifestExtent, Target};
use amberfs::repository::{Location, Repository, RepositoryOptions};
use amberfs::store::ManifestWriter;
use amberfs::types::{BackupId, ByteRange, ByteSize, Timestamp, VolumeId, VolumeMetadata};

pub const CHUNK: usize = 64 << 10;

pub struct HandMade {
    pub repository: Arc<Repository>,
    folder: tempfile::TempDir,
}

/// A backup that is to be made.
#[derive(Clone)]
pub struct Recipe {
    pub source: &'static str,
    pub volume: String,
    pub name: Option<String>,
    pub project: &'static str,
    pub status: BackupStatus,
    pub parent: Option<BackupId>,
    /// Seconds since 1970, of the data and of the backup.
    pub data_at: i64,
    pub created_at: i64,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            source: "local",
            volume: "vol".to_owned(),
            name: None,
            project: "default",
            status: BackupStatus::Available,
            parent: None,
            data_at: 1_700_000_000,
            created_at: 1_700_000_000,
        }
    }
}

impl Recipe {
    pub fn named(name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..Self::default() }
    }
}

impl HandMade {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Directory(folder.path().join("repository"));
        Repository::create(&location, ByteSize(CHUNK as u64)).unwrap();
        let compression = Compression::Zstd { level: 1 };
        let options = RepositoryOptions { index: None, compression, cache_bytes: 64 << 20 };
        let repository = Arc::new(Repository::open(&location, &options).unwrap());
        Self { repository, folder }
    }

    /// Lets the repository go, and keeps its folder.
    pub fn close(self) -> tempfile::TempDir {
        self.folder
    }

    /// Changes a byte of the repository's only pack.
    pub fn damage_pack(&self, offset: u64) {
        let packs = self.folder.path().join("repository/packs");
        let mut files = Vec::new();
        let mut folders = vec![packs];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        let [pack] = files.as_slice() else { panic!("{files:?}") };
        let file = std::fs::OpenOptions::new().read(true).write(true).open(pack).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).unwrap();
        file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    }

    /// Makes a full backup of an image; chunks of zeros are holes.
    pub fn full(&self, recipe: &Recipe, image: &[u8]) -> BackupId {
        let pieces = image.chunks(CHUNK).enumerate().map(|(number, piece)| (number * CHUNK, piece));
        self.backup(recipe, image.len(), pieces)
    }

    /// Makes an incremental backup of these changes; changes to zeros are holes.
    pub fn incremental(&self, recipe: &Recipe, size: usize, changes: &[(usize, &[u8])]) -> BackupId {
        assert!(recipe.parent.is_some());
        self.backup(recipe, size, changes.iter().copied())
    }

    fn backup<'a>(
        &self,
        recipe: &Recipe,
        size: usize,
        pieces: impl Iterator<Item = (usize, &'a [u8])>,
    ) -> BackupId {
        let session = self.repository.store().session();
        let mut chunks = session.writer();
        let mut manifest = ManifestWriter::create(self.repository.objects().as_ref(), size as u64).unwrap();
        for (offset, piece) in pieces {
            let target = if piece.iter().all(|byte| *byte == 0) {
                Target::Zero
            } else {
                let chunk = session.prepare(piece).unwrap();
                let id = chunk.id;
                chunks.add(chunk).unwrap();
                Target::Chunk { id, offset: 0 }
            };
            let range = ByteRange::new(offset as u64, piece.len() as u64);
            manifest.add(ManifestExtent { range, target }).unwrap();
        }
        let stored = chunks.finish().unwrap();
        let mut record = self.record(recipe, size as u64);
        record.stored_bytes = stored.pack_bytes;
        record.manifest = Some(manifest.finish(&record.encode().unwrap()).unwrap());
        let id = self.repository.catalog().insert(record).unwrap().id;
        let image = self.repository.image(id).unwrap();
        let allocated_bytes = image.allocated_bytes(ByteRange::new(0, size as u64)).unwrap();
        self.repository.catalog().update(id, |record| record.allocated_bytes = allocated_bytes).unwrap();
        id
    }

    /// Makes a record without an image.
    pub fn record_only(&self, recipe: &Recipe) -> BackupId {
        self.repository.catalog().insert(self.record(recipe, 1 << 20)).unwrap().id
    }

    pub fn set_status(&self, id: BackupId, status: BackupStatus) {
        self.repository.catalog().update(id, |record| record.status = status).unwrap();
    }

    /// Deletes a backup's record, as the last step of a delete does.
    pub fn delete(&self, id: BackupId) {
        self.repository.catalog().remove(id).unwrap();
    }

    fn record(&self, recipe: &Recipe, size_bytes: u64) -> BackupRecord {
        let time = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        BackupRecord {
            id: BackupId::random(),
            name: recipe.name.clone(),
            description: None,
            project: recipe.project.parse().unwrap(),
            status: recipe.status,
            fail_reason: None,
            volume_id: VolumeId::derived(recipe.source, &recipe.volume),
            volume_name: recipe.volume.parse().unwrap(),
            source: recipe.source.parse().unwrap(),
            size_bytes,
            stored_bytes: 0,
            object_count: 0,
            availability_zone: None,
            parent_id: recipe.parent,
            snapshot_id: None,
            created_at: time(recipe.created_at),
            updated_at: time(recipe.created_at),
            data_timestamp: time(recipe.data_at),
            properties: Default::default(),
            volume_metadata: VolumeMetadata::default(),
            image_sha256: None,
            last_verified_at: None,
            allocated_bytes: 0,
            manifest: None,
            snapshot: None,
            restore_target: None,
            protected: false,
            retired_manifests: Vec::new(),
            diff_check: DiffCheck::default(),
            damage: None,
        }
    }
}
