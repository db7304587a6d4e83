//! Objects in memory, with every read counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use amberfs::objects::{
    ObjectEntry, ObjectError, ObjectKind, ObjectName, ObjectStamp, ObjectStore, ObjectWriter,
};
use amberfs::types::ChunkId;

type Objects = Arc<Mutex<HashMap<ObjectName, Vec<u8>>>>;

#[derive(Default)]
pub struct MemoryStore {
    objects: Objects,
    reads: AtomicU64,
    bytes_read: AtomicU64,
}

impl MemoryStore {
    pub fn insert(&self, name: ObjectName, bytes: Vec<u8>) {
        self.objects.lock().unwrap().insert(name, bytes);
    }

    /// Removes all but the packs.
    pub fn keep_packs(&self) {
        self.objects.lock().unwrap().retain(|name, _| matches!(name, ObjectName::Pack(_)));
    }

    /// Reads, and bytes in them, since the last call.
    pub fn cost(&self) -> (u64, u64) {
        (self.reads.swap(0, Ordering::Relaxed), self.bytes_read.swap(0, Ordering::Relaxed))
    }
}

fn is_of(kind: ObjectKind, name: ObjectName) -> bool {
    match name {
        ObjectName::Header => false,
        ObjectName::Pack(_) => kind == ObjectKind::Pack,
        ObjectName::Manifest(_) => kind == ObjectKind::Manifest,
        ObjectName::Record(_) => kind == ObjectKind::Record,
    }
}

impl ObjectStore for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn create(&self, name: ObjectName) -> Result<Box<dyn ObjectWriter>, ObjectError> {
        Ok(Box::new(MemoryWriter { objects: Arc::clone(&self.objects), name, bytes: Vec::new() }))
    }

    fn replace(&self, name: ObjectName, bytes: &[u8]) -> Result<(), ObjectError> {
        self.insert(name, bytes.to_vec());
        Ok(())
    }

    fn read(&self, name: ObjectName, offset: u64, into: &mut [u8]) -> Result<(), ObjectError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes_read.fetch_add(into.len() as u64, Ordering::Relaxed);
        let objects = self.objects.lock().unwrap();
        let bytes = objects.get(&name).ok_or(ObjectError::Missing { name })?;
        let (length, wanted_end) = (bytes.len() as u64, offset.saturating_add(into.len() as u64));
        if wanted_end > length {
            return Err(ObjectError::Truncated { name, length, wanted_end });
        }
        into.copy_from_slice(&bytes[offset as usize..wanted_end as usize]);
        Ok(())
    }

    fn read_whole(&self, name: ObjectName, length_max: u64) -> Result<Vec<u8>, ObjectError> {
        let objects = self.objects.lock().unwrap();
        let bytes = objects.get(&name).ok_or(ObjectError::Missing { name })?;
        let length = bytes.len() as u64;
        if length > length_max {
            return Err(ObjectError::TooLong { name, length, length_max });
        }
        Ok(bytes.clone())
    }

    fn length(&self, name: ObjectName) -> Result<u64, ObjectError> {
        let objects = self.objects.lock().unwrap();
        objects.get(&name).map(|bytes| bytes.len() as u64).ok_or(ObjectError::Missing { name })
    }

    fn forget_kept(&self, _name: ObjectName) {}

    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectEntry>, ObjectError> {
        let objects = self.objects.lock().unwrap();
        let entries = objects.iter().filter(|(name, _)| is_of(kind, **name));
        Ok(entries
            .map(|(name, bytes)| ObjectEntry { name: *name, length: bytes.len() as u64, stamp: stamp(bytes) })
            .collect())
    }

    fn remove(&self, name: ObjectName) -> Result<(), ObjectError> {
        self.objects.lock().unwrap().remove(&name);
        Ok(())
    }
}

struct MemoryWriter {
    objects: Objects,
    name: ObjectName,
    bytes: Vec<u8>,
}

impl ObjectWriter for MemoryWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), ObjectError> {
        let mut objects = self.objects.lock().unwrap();
        match objects.insert(self.name, self.bytes) {
            None => Ok(()),
            Some(_) => Err(ObjectError::Exists { name: self.name }),
        }
    }
}

fn stamp(bytes: &[u8]) -> ObjectStamp {
    let id = ChunkId::of(bytes);
    ObjectStamp::new(u64::from_le_bytes(*id.as_bytes().first_chunk().unwrap()))
}
