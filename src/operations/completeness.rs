//! Is all of a backup's data in the repository? Looked up, not read: verifying is what reads.

use super::Operations;
use crate::catalog::BackupRecord;
use crate::format::manifest::Target;
use crate::image::Image;
use crate::types::{ByteRange, ChunkId, Refusal, RefusalKind};

impl Operations {
    /// Opens a backup's image, whatever the record's status, and refuses when a manifest or chunk of it is not there.
    pub(super) fn check_data_is_there(&self, record: &BackupRecord) -> Result<Image, Refusal> {
        let missing = |why: String| {
            let sentence = format!("the data of backup {} is not all there: {why}", record.id);
            Refusal::new(RefusalKind::InvalidState, sentence)
        };
        let manifest = record.manifest.clone().ok_or_else(|| missing("it was never finished".to_owned()))?;
        let mut chain = vec![manifest];
        if let Some(parent) = record.parent_id {
            let of_parent = self.repository.catalog().chain(parent);
            chain.extend(of_parent.map_err(|error| missing(Refusal::from(error).sentence))?);
        }
        let opened = self.repository.open_image(&chain);
        let image = opened.map_err(|error| missing(Refusal::from(error).sentence))?;
        match self.first_missing(&image) {
            Ok(None) => Ok(image),
            Ok(Some((range, id))) => {
                Err(missing(format!("chunk {id}, for {range}, is in no pack that is whole")))
            }
            Err(refusal) => Err(missing(refusal.sentence)),
        }
    }

    fn first_missing(&self, image: &Image) -> Result<Option<(ByteRange, ChunkId)>, Refusal> {
        let store = self.repository.store();
        store.look_again();
        let mut last = None;
        let mut from = 0;
        while let Some(data) = image.next_data(from)? {
            let end = image.next_hole(data)?;
            let mut chunks = Vec::new();
            // A run of data may be as long as the image: a region at a time.
            for piece in ByteRange::between(data, end).split_on_grid(REGION_BYTES) {
                image.segments(piece, |segment| {
                    if let Target::Chunk { id, .. } = segment.target {
                        chunks.push((segment.range, id));
                    }
                })?;
                for (range, id) in chunks.drain(..) {
                    if last != Some(id) && !store.is_there(id)? {
                        return Ok(Some((range, id)));
                    }
                    last = Some(id);
                }
            }
            from = end;
        }
        Ok(None)
    }
}

const REGION_BYTES: u64 = 4 << 20;
