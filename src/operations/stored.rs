//! What a project's backups take in the repository: each chunk that one of them needs, once, and the manifests.
//!
//! Of more chunks than can be remembered a sample is counted: those whose ids begin with so many zero bits, which is
//! as good as any, since ids are hashes. Memory stays the same however many there are.

use std::collections::HashSet;
use std::sync::Arc;

use super::Operations;
use crate::format::manifest::Target;
use crate::types::{ChunkId, ProjectName, Refusal};

/// The sum over so many chunks is right to about one in a hundred; they take 5 MB.
const SAMPLE_MAX: usize = 1 << 16;

impl Operations {
    /// Reads all manifests of a project's backups: exact up to 65,536 different chunks, an estimate beyond.
    pub fn stored_bytes(&self, project: &ProjectName) -> Result<u64, Refusal> {
        let mut sample = Sample::new(SAMPLE_MAX);
        let mut manifest_bytes = 0;
        for record in self.repository.catalog().all().iter().filter(|record| record.project == *project) {
            let Some(manifest) = &record.manifest else { continue };
            // The backup's own part of its chain: the others count by themselves.
            let own = match self.repository.open_image(std::slice::from_ref(manifest)) {
                // Deleted or flattened meanwhile.
                Err(_) if self.repository.catalog().get(record.id) != Some(Arc::clone(record)) => continue,
                own => own?,
            };
            // A manifest that could be opened is as long as its record says.
            manifest_bytes += manifest.length;
            own.newest_layer(|extent| {
                if let Target::Chunk { id, .. } = extent.target {
                    sample.add(id);
                }
            })?;
        }
        let store = self.repository.store();
        let mut chunk_bytes = 0;
        for id in &sample.ids {
            chunk_bytes += store.stored_length(*id)?.unwrap_or(0);
        }
        Ok(manifest_bytes + (chunk_bytes << sample.zero_bits))
    }
}

/// Different ids, or one in 2^`zero_bits` of them.
struct Sample {
    ids: HashSet<ChunkId>,
    zero_bits: u32,
    ids_max: usize,
}

impl Sample {
    fn new(ids_max: usize) -> Self {
        Self { ids: HashSet::new(), zero_bits: 0, ids_max }
    }

    fn add(&mut self, id: ChunkId) {
        if leading_zero_bits(id) < self.zero_bits {
            return;
        }
        self.ids.insert(id);
        while self.ids.len() > self.ids_max {
            self.zero_bits += 1;
            let zero_bits = self.zero_bits;
            self.ids.retain(|id| leading_zero_bits(*id) >= zero_bits);
        }
    }
}

fn leading_zero_bits(id: ChunkId) -> u32 {
    let first = id.as_bytes().first_chunk::<8>();
    first.map_or(0, |bytes| u64::from_be_bytes(*bytes).leading_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_exact_while_it_is_small_and_near_the_truth_beyond() {
        let count = |ids: u32, ids_max| {
            let mut sample = Sample::new(ids_max);
            for number in 0..ids * 2 {
                // Each comes twice.
                sample.add(ChunkId::of(&(number % ids).to_le_bytes()));
            }
            assert!(sample.ids.len() <= ids_max);
            sample.ids.len() << sample.zero_bits
        };
        assert_eq!(count(1000, 1000), 1000);
        let estimate = count(100_000, 4096);
        assert!((90_000..110_000).contains(&estimate), "{estimate}");
    }
}
