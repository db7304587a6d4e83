//! An RBD snapshot, open for reading.

use std::sync::Arc;

use super::connection::Connection;
use super::description;
use super::extents::Enumeration;
use super::librbd::{FEATURE_FAST_DIFF, Failure, Image, Pool};
use super::transfer::Transfer;
use crate::source::{Changes, Consistency, EmitExtent, Snapshot, SnapshotInfo, SourceError};
use crate::types::{ByteRange, VolumeMetadata, VolumeName};

pub struct RbdSnapshot {
    connection: Arc<Connection>,
    volume: VolumeName,
    image: Arc<Image>,
    info: SnapshotInfo,
    metadata: VolumeMetadata,
    layout: Layout,
    /// The volume and the snapshot, for errors.
    title: String,
}

/// What enumerating needs to know of an image where it stands.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    pub size: u64,
    pub overlap: u64,
    pub period: u64,
    /// Its object map can be trusted below this: everywhere or nowhere.
    pub fast_below: u64,
}

impl Layout {
    pub fn of(image: &Image) -> Result<Self, Failure> {
        let fast = image.features()? & FEATURE_FAST_DIFF != 0 && image.flags()? == 0;
        let period = image.object_size()?.saturating_mul(image.stripe_count()?.max(1)).max(1);
        let size = image.size()?;
        Ok(Self { size, overlap: image.overlap()?, period, fast_below: if fast { size } else { 0 } })
    }
}

impl RbdSnapshot {
    /// Opens the snapshot with this name, or returns none when the image has no such snapshot.
    pub fn open(
        pool: &Arc<Pool>,
        connection: &Arc<Connection>,
        volume: &VolumeName,
        snapshot: &str,
    ) -> Result<Option<Self>, Failure> {
        let mut image = Image::open_read_only(pool, volume.as_str())?;
        let metadata = description::metadata(&image)?;
        let infos = description::snapshots(&image)?;
        let Some(info) = infos.into_iter().find(|info| info.name.as_str() == snapshot) else {
            return Ok(None);
        };
        image.move_to_snapshot(info.id)?;
        let layout = Layout::of(&image)?;
        Ok(Some(Self {
            connection: Arc::clone(connection),
            title: format!("snapshot {snapshot:?} of volume {:?}", volume.as_str()),
            volume: volume.clone(),
            image: Arc::new(image),
            info,
            metadata,
            layout,
        }))
    }

    fn enumeration<'a>(&'a self, base: Option<&'a str>, fast_below: u64) -> Enumeration<'a> {
        Enumeration {
            connection: &self.connection,
            volume: &self.volume,
            image: &self.image,
            base,
            fast_below,
            overlap: self.layout.overlap,
            period: self.layout.period,
        }
    }

    /// Returns below which offset the object maps between the base and this snapshot tell all changes; none when the
    /// base is not there any more under this name and id.
    fn maps_tell_below(&self, base: &SnapshotInfo) -> Result<Option<u64>, SourceError> {
        let doing =
            format!("looking up snapshot {:?} of volume {:?}", base.name.as_str(), self.volume.as_str());
        // A handle of its own: it is moved about, and it knows the snapshots that there are now.
        let pool = Arc::clone(self.image.pool());
        let (volume, base, here) = (self.volume.clone(), base.clone(), self.info.id);
        let fast_below = self.layout.fast_below;
        let found = self.connection.call(&doing, move |_| {
            let mut image = Image::open_read_only(&pool, volume.as_str())?;
            let snapshots = image.snapshots()?;
            if !snapshots.iter().any(|entry| entry.id == base.id && entry.name == base.name.as_str()) {
                return Ok(None);
            }
            let mut below = fast_below;
            for entry in snapshots.iter().filter(|entry| base.id <= entry.id && entry.id < here) {
                image.move_to_snapshot(entry.id)?;
                if image.flags()? != 0 {
                    below = 0;
                } else if entry.id != base.id {
                    // librbd (16.2.15 at least) forgets what changed behind the end of a snapshot in between that is
                    // smaller than the ones around it: when a volume was shrunk, snapshotted and grown again.
                    below = below.min(entry.size);
                }
            }
            Ok(Some(below))
        })?;
        match found {
            // The volume itself is gone, and its snapshots with it.
            Err(Failure { errno: libc::ENOENT, .. }) => Ok(None),
            found => found.map_err(|failure| self.connection.io(&doing, failure)),
        }
    }

    fn transfer(&self) -> Transfer<'_> {
        Transfer { connection: &self.connection, image: &self.image, of: &self.title }
    }
}

impl Snapshot for RbdSnapshot {
    fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    fn consistency(&self) -> Consistency {
        Consistency::Frozen
    }

    fn metadata(&self) -> &VolumeMetadata {
        &self.metadata
    }

    fn allocated(&self, emit: &mut EmitExtent<'_>) -> Result<(), SourceError> {
        self.enumeration(None, self.layout.fast_below).run(self.layout.size, emit)
    }

    fn changed_since(&self, base: &SnapshotInfo, emit: &mut EmitExtent<'_>) -> Result<Changes, SourceError> {
        if base.id > self.info.id {
            return Ok(Changes::Unknown);
        }
        let Some(fast_below) = self.maps_tell_below(base)? else { return Ok(Changes::Unknown) };
        let enumeration = self.enumeration(Some(base.name.as_str()), fast_below);
        enumeration.run(self.layout.size, emit)?;
        // The diff went by the base's name, and by objects that its removal would have thinned out meanwhile.
        if self.maps_tell_below(base)?.is_none() {
            return Err(self.changed(format!("snapshot {:?} was removed", base.name.as_str())));
        }
        Ok(Changes::Known)
    }

    fn read(&self, ranges: &[ByteRange], into: &mut [u8]) -> Result<(), SourceError> {
        if let Some(range) = ranges.iter().find(|range| range.end() > self.layout.size) {
            let what = format!("reading {}: {range} reach beyond its {} bytes", self.title, self.layout.size);
            return Err(self.connection.refused(what));
        }
        self.transfer().read(ranges, into)
    }

    /// The objects of a snapshot that somebody removed go away one by one, and then read as zeros.
    fn confirm(&self) -> Result<(), SourceError> {
        match self.maps_tell_below(&self.info)? {
            Some(_) => Ok(()),
            None => Err(self.changed(format!("snapshot {:?} was removed", self.info.name.as_str()))),
        }
    }
}

impl RbdSnapshot {
    fn changed(&self, how: String) -> SourceError {
        let source_name = self.connection.options().name.clone();
        SourceError::Changed { source_name, volume: self.volume.clone(), how }
    }
}
