//! Whole objects by name: put once, read in ranges, list, remove. Knows nothing of what is in them.
//!
//! `tests/object_store_contract.rs` holds every implementation to what is written here.

mod directory;
mod error;
mod measured;
mod name;

pub use directory::{DirectoryStore, ForeignFile};
pub use error::ObjectError;
pub use measured::MeasuredStore;
pub use name::{ObjectKind, ObjectName};

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectEntry {
    pub name: ObjectName,
    pub length: u64,
    pub stamp: ObjectStamp,
}

/// Two of one name that are equal say that the object was not replaced in between; two that are not say nothing. They
/// cost no look into the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectStamp(u64);

impl ObjectStamp {
    /// Made by a store of whatever it tells its objects apart by.
    pub const fn new(stamp: u64) -> Self {
        Self(stamp)
    }
}

/// A place for objects: a directory, later a RADOS pool or an S3 bucket.
///
/// An object is there whole and durable, or not at all, whatever happens to the writer. It is never changed in
/// place: [`create`](Self::create) never overwrites, [`replace`](Self::replace) swaps whole objects atomically.
/// Calls may come from several threads. After an error nothing is half done.
pub trait ObjectStore: Send + Sync {
    /// Says where this is, as in the configuration: `dir:/var/lib/amberfs`.
    fn location(&self) -> String;

    /// Starts a new object. The name being taken shows when it is finished: `Exists`.
    fn create(&self, name: ObjectName) -> Result<Box<dyn ObjectWriter>, ObjectError>;

    /// Puts a small object in the place of whatever has this name.
    fn replace(&self, name: ObjectName, bytes: &[u8]) -> Result<(), ObjectError>;

    /// Fills `into` from `offset`; `Truncated` when the object ends before that, `Missing` when there is none.
    fn read(&self, name: ObjectName, offset: u64, into: &mut [u8]) -> Result<(), ObjectError>;

    /// Reads a whole object that may not be longer than `length_max`; a longer one is `TooLong`. Beside a
    /// [`replace`](Self::replace) it is the old object or the new one, never some of both.
    fn read_whole(&self, name: ObjectName, length_max: u64) -> Result<Vec<u8>, ObjectError>;

    /// Returns the object's length in bytes; `Missing` when there is none.
    fn length(&self, name: ObjectName) -> Result<u64, ObjectError>;

    /// Lets go of what is kept of an object in memory, so that the next reads come from where it is stored. A hint.
    fn forget_kept(&self, name: ObjectName);

    /// Lists the objects of a kind in any order. What is not named as an object is passed over.
    fn list(&self, kind: ObjectKind) -> Result<Vec<ObjectEntry>, ObjectError>;

    /// Removes an object durably; not an error when there is none.
    fn remove(&self, name: ObjectName) -> Result<(), ObjectError>;
}

impl dyn ObjectStore + '_ {
    /// Puts a small new object; `Exists` when the name is taken.
    pub fn put(&self, name: ObjectName, bytes: &[u8]) -> Result<(), ObjectError> {
        let mut writer = self.create(name)?;
        writer.append(bytes)?;
        writer.finish()
    }
}

/// An object that is being written. Dropped unfinished it leaves nothing behind.
pub trait ObjectWriter: Send {
    fn append(&mut self, bytes: &[u8]) -> Result<(), ObjectError>;

    /// Makes the object durable and visible under its name.
    fn finish(self: Box<Self>) -> Result<(), ObjectError>;
}
