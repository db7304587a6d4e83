//! One open image. Opened at its head, moved to a snapshot before it is shared, closed when dropped.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::pool::{text, text_until_nul};
use super::{Failure, LIST_LENGTH_MAX, LIST_TRIES, Pool, c_string, check, ffi};

pub struct Image {
    pub(super) handle: ffi::RbdImage,
    /// Requests that librbd has not called back for.
    pub(super) in_flight: Arc<AtomicUsize>,
    pool: Arc<Pool>,
}

// SAFETY: librbd lets any thread use and close an image. Moving it to a snapshot takes `&mut self`.
unsafe impl Send for Image {}
// SAFETY: as above.
unsafe impl Sync for Image {}

/// A longer name of a snapshot is none of ours.
const SNAPSHOT_NAME_MAX: usize = 4096;

/// A snapshot of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotEntry {
    pub id: u64,
    pub size: u64,
    /// As far as it is text.
    pub name: String,
    /// A user made it, and it is known by its name: not one of a group, of the trash, or of mirroring.
    pub is_users: bool,
    /// Its removal began and was cut off: librbd moves a snapshot to the trash under another name first.
    pub name_before_removal: Option<String>,
}

/// A range of a diff: it exists, or it is a hole where something was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiffExtent {
    pub offset: u64,
    pub length: u64,
    pub exists: bool,
}

/// A diff, or word that it has more extents than were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diff {
    Extents(Vec<DiffExtent>),
    TooMany,
}

impl Image {
    /// Opens the image's head for writing; this lets other clients see that it is in use.
    pub fn open(pool: &Arc<Pool>, name: &str) -> Result<Self, Failure> {
        Self::open_with("rbd_open", ffi::rbd_open, pool, name)
    }

    /// Opens the image's head for reading.
    pub fn open_read_only(pool: &Arc<Pool>, name: &str) -> Result<Self, Failure> {
        Self::open_with("rbd_open_read_only", ffi::rbd_open_read_only, pool, name)
    }

    fn open_with(
        call: &'static str,
        open: unsafe extern "C" fn(
            ceph::rados::rados_ioctx_t,
            *const c_char,
            *mut ffi::RbdImage,
            *const c_char,
        ) -> c_int,
        pool: &Arc<Pool>,
        name: &str,
    ) -> Result<Self, Failure> {
        let name = c_string(call, name)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the name is NUL-terminated, there is no snapshot, and `handle` is one pointer to be filled in.
        check(call, unsafe { open(pool.ioctx(), name.as_ptr(), &raw mut handle, ptr::null()) })?;
        Ok(Self { handle, in_flight: Arc::default(), pool: Arc::clone(pool) })
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Makes the image read as it was at this snapshot.
    pub fn move_to_snapshot(&mut self, id: u64) -> Result<(), Failure> {
        // SAFETY: the image is open, and nobody else uses it.
        check("rbd_snap_set_by_id", unsafe { ffi::rbd_snap_set_by_id(self.handle, id) })?;
        Ok(())
    }

    pub fn size(&self) -> Result<u64, Failure> {
        self.number("rbd_get_size", ffi::rbd_get_size)
    }

    pub fn features(&self) -> Result<u64, Failure> {
        self.number("rbd_get_features", ffi::rbd_get_features)
    }

    /// Zero when the object map of where the image stands can be trusted.
    pub fn flags(&self) -> Result<u64, Failure> {
        self.number("rbd_get_flags", ffi::rbd_get_flags)
    }

    /// How far from its start the image shows its parent's bytes.
    pub fn overlap(&self) -> Result<u64, Failure> {
        self.number("rbd_get_overlap", ffi::rbd_get_overlap)
    }

    pub fn stripe_unit(&self) -> Result<u64, Failure> {
        self.number("rbd_get_stripe_unit", ffi::rbd_get_stripe_unit)
    }

    pub fn stripe_count(&self) -> Result<u64, Failure> {
        self.number("rbd_get_stripe_count", ffi::rbd_get_stripe_count)
    }

    fn number(
        &self,
        call: &'static str,
        get: unsafe extern "C" fn(ffi::RbdImage, *mut u64) -> c_int,
    ) -> Result<u64, Failure> {
        let mut number = 0;
        // SAFETY: the image is open and `number` is one u64.
        check(call, unsafe { get(self.handle, &raw mut number) })?;
        Ok(number)
    }

    pub fn object_size(&self) -> Result<u64, Failure> {
        let mut info = ffi::RbdImageInfo {
            size: 0,
            obj_size: 0,
            num_objs: 0,
            order: 0,
            block_name_prefix: [0; 24],
            parent_pool: 0,
            parent_name: [0; 96],
        };
        // SAFETY: the image is open and `info` is as large as it is said to be.
        check("rbd_stat", unsafe {
            ffi::rbd_stat(self.handle, &raw mut info, size_of::<ffi::RbdImageInfo>())
        })?;
        Ok(info.obj_size)
    }

    pub fn id(&self) -> Result<String, Failure> {
        let mut buffer = [0_u8; 1024];
        // SAFETY: there is room for `buffer.len()` bytes.
        check("rbd_get_id", unsafe {
            ffi::rbd_get_id(self.handle, buffer.as_mut_ptr().cast(), buffer.len())
        })?;
        Ok(text_until_nul(&buffer))
    }

    /// Returns the pool that holds the image's data: its own, unless it has a data pool.
    pub fn data_pool_id(&self) -> Result<i64, Failure> {
        // SAFETY: the image is open.
        let id = unsafe { ffi::rbd_get_data_pool_id(self.handle) };
        if id < 0 {
            return Err(Failure { call: "rbd_get_data_pool_id", errno: libc::EIO });
        }
        Ok(id)
    }

    /// Returns one page of the image-meta: at most `max` keys behind `start`, in order, with their values.
    pub fn metadata_page(&self, start: &str, max: u64) -> Result<Vec<(String, String)>, Failure> {
        const CALL: &str = "rbd_metadata_list";
        let start = c_string(CALL, start)?;
        let (mut keys_size, mut values_size) = (4096_usize, 65536_usize);
        for _ in 0..LIST_TRIES {
            let (mut keys, mut values) = (vec![0_u8; keys_size], vec![0_u8; values_size]);
            // SAFETY: both buffers are as large as they are said to be.
            let code = unsafe {
                ffi::rbd_metadata_list(
                    self.handle,
                    start.as_ptr(),
                    max,
                    keys.as_mut_ptr().cast(),
                    &raw mut keys_size,
                    values.as_mut_ptr().cast(),
                    &raw mut values_size,
                )
            };
            if code == -libc::ERANGE && keys_size.max(values_size) <= LIST_LENGTH_MAX {
                keys_size = keys_size.max(keys.len());
                values_size = values_size.max(values.len());
                continue;
            }
            check(CALL, code)?;
            keys.truncate(keys_size);
            values.truncate(values_size);
            return Ok(nul_terminated(&keys).zip(nul_terminated(&values)).collect());
        }
        Err(Failure { call: CALL, errno: libc::ERANGE })
    }

    /// Returns the value of one key of the image-meta; `ERANGE` for one longer than those that are read so.
    pub fn metadata(&self, key: &str) -> Result<String, Failure> {
        const CALL: &str = "rbd_metadata_get";
        let key = c_string(CALL, key)?;
        let mut value = [0_u8; 256];
        let mut length = value.len();
        // SAFETY: the image is open, the key is NUL-terminated, and the buffer is as large as it is said to be.
        let code = unsafe {
            ffi::rbd_metadata_get(self.handle, key.as_ptr(), value.as_mut_ptr().cast(), &raw mut length)
        };
        check(CALL, code)?;
        Ok(nul_terminated(&value).next().unwrap_or_default())
    }

    pub fn set_metadata(&self, key: &str, value: &str) -> Result<(), Failure> {
        const CALL: &str = "rbd_metadata_set";
        let (key, value) = (c_string(CALL, key)?, c_string(CALL, value)?);
        // SAFETY: the image is open and both texts are NUL-terminated.
        check(CALL, unsafe { ffi::rbd_metadata_set(self.handle, key.as_ptr(), value.as_ptr()) })?;
        Ok(())
    }

    pub fn remove_metadata(&self, key: &str) -> Result<(), Failure> {
        const CALL: &str = "rbd_metadata_remove";
        let key = c_string(CALL, key)?;
        // SAFETY: the image is open and the key is NUL-terminated.
        check(CALL, unsafe { ffi::rbd_metadata_remove(self.handle, key.as_ptr()) })?;
        Ok(())
    }

    /// Takes the exclusive lock and keeps it: others who ask for it are refused until this image is closed.
    pub fn acquire_lock(&self) -> Result<(), Failure> {
        // SAFETY: the image is open.
        check("rbd_lock_acquire", unsafe { ffi::rbd_lock_acquire(self.handle, ffi::LOCK_MODE_EXCLUSIVE) })?;
        Ok(())
    }

    /// Returns all snapshots, oldest first.
    pub fn snapshots(&self) -> Result<Vec<SnapshotEntry>, Failure> {
        const CALL: &str = "rbd_snap_list";
        let mut capacity: c_int = 32;
        for _ in 0..LIST_TRIES {
            let mut infos = Vec::with_capacity(capacity.unsigned_abs() as usize);
            let mut max = capacity;
            // SAFETY: there is room for `max` entries.
            let code = unsafe { ffi::rbd_snap_list(self.handle, infos.as_mut_ptr(), &raw mut max) };
            if code == -libc::ERANGE && max.unsigned_abs() as usize <= LIST_LENGTH_MAX {
                capacity = max + 1;
                continue;
            }
            let count = check(CALL, code)?;
            // SAFETY: librbd filled in `count` entries and an empty one behind them, each of the `count` with a
            // NUL-terminated name, and takes the names back after they were copied.
            let mut entries: Vec<_> = unsafe {
                infos.set_len(count.unsigned_abs() as usize);
                let entries = infos.iter().map(|info: &ffi::RbdSnapInfo| SnapshotEntry {
                    id: info.id,
                    size: info.size,
                    name: text(CStr::from_ptr(info.name)).unwrap_or_default(),
                    is_users: false,
                    name_before_removal: None,
                });
                let entries = entries.collect();
                if count > 0 {
                    ffi::rbd_snap_list_end(infos.as_mut_ptr());
                }
                entries
            };
            for entry in &mut entries {
                match self.snapshot_namespace(entry.id)? {
                    ffi::SNAP_NAMESPACE_USER => entry.is_users = !entry.name.is_empty(),
                    ffi::SNAP_NAMESPACE_TRASH => entry.name_before_removal = self.trashed_name(entry.id)?,
                    _ => {}
                }
            }
            entries.sort_by_key(|entry| entry.id);
            return Ok(entries);
        }
        Err(Failure { call: CALL, errno: libc::ERANGE })
    }

    fn snapshot_namespace(&self, id: u64) -> Result<c_int, Failure> {
        let mut namespace_type = 0;
        // SAFETY: the image is open and `namespace_type` is one int, as large as the C enumeration.
        check("rbd_snap_get_namespace_type", unsafe {
            ffi::rbd_snap_get_namespace_type(self.handle, id, &raw mut namespace_type)
        })?;
        Ok(namespace_type)
    }

    /// The name that a snapshot had before its removal began; nothing when it has just gone.
    fn trashed_name(&self, id: u64) -> Result<Option<String>, Failure> {
        let mut name = [0_u8; SNAPSHOT_NAME_MAX];
        // SAFETY: the image is open and there is room for as many bytes as is said.
        let got = check("rbd_snap_get_trash_namespace", unsafe {
            ffi::rbd_snap_get_trash_namespace(self.handle, id, name.as_mut_ptr().cast(), name.len())
        });
        match got {
            Ok(_) => Ok(Some(text_until_nul(&name))),
            Err(Failure { errno: libc::ENOENT | libc::ERANGE, .. }) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    pub fn snapshot_time(&self, id: u64) -> Result<SystemTime, Failure> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the image is open and `time` is one timespec.
        check("rbd_snap_get_timestamp", unsafe {
            ffi::rbd_snap_get_timestamp(self.handle, id, &raw mut time)
        })?;
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0).min(999_999_999);
        Ok(UNIX_EPOCH + Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), nanos))
    }

    pub fn is_protected(&self, snapshot: &str) -> Result<bool, Failure> {
        const CALL: &str = "rbd_snap_is_protected";
        let snapshot = c_string(CALL, snapshot)?;
        let mut protected = 0;
        // SAFETY: the image is open, the name is NUL-terminated, and `protected` is one int.
        check(CALL, unsafe {
            ffi::rbd_snap_is_protected(self.handle, snapshot.as_ptr(), &raw mut protected)
        })?;
        Ok(protected != 0)
    }

    pub fn create_snapshot(&self, name: &str) -> Result<(), Failure> {
        const CALL: &str = "rbd_snap_create";
        let name = c_string(CALL, name)?;
        // SAFETY: the image is open and the name is NUL-terminated.
        check(CALL, unsafe { ffi::rbd_snap_create(self.handle, name.as_ptr()) })?;
        Ok(())
    }

    pub fn remove_snapshot(&self, id: u64) -> Result<(), Failure> {
        // SAFETY: the image is open.
        check("rbd_snap_remove_by_id", unsafe { ffi::rbd_snap_remove_by_id(self.handle, id) })?;
        Ok(())
    }

    /// Returns what changed in a range since a snapshot, or what exists there at all; whole objects, or exactly.
    /// Within an object set, extents may come in any order.
    pub fn diff(
        &self,
        from_snapshot: Option<&str>,
        offset: u64,
        length: u64,
        whole_object: bool,
        extents_max: usize,
    ) -> Result<Diff, Failure> {
        const CALL: &str = "rbd_diff_iterate2";
        let from = from_snapshot.map(|name| c_string(CALL, name)).transpose()?;
        let collector = Mutex::new(Collector { extents: Vec::new(), extents_max, too_many: false });
        // SAFETY: the image is open, the name is NUL-terminated or null, and the collector outlives the call, which
        // is when it is last used.
        let code = unsafe {
            ffi::rbd_diff_iterate2(
                self.handle,
                from.as_ref().map_or(ptr::null(), |name| name.as_ptr()),
                offset,
                length,
                1,
                u8::from(whole_object),
                on_diff_extent,
                ptr::from_ref(&collector).cast_mut().cast(),
            )
        };
        let collector = collector.into_inner().unwrap_or_else(PoisonError::into_inner);
        if collector.too_many {
            return Ok(Diff::TooMany);
        }
        check(CALL, code)?;
        Ok(Diff::Extents(collector.extents))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.in_flight.load(Ordering::Acquire) != 0 {
            // Only when librados broke its own time limit. Closing would wait for the requests without end, and
            // disconnecting would free what they use.
            tracing::warn!("an RBD image is left open: requests to it were never answered");
            std::mem::forget(Arc::clone(&self.pool));
            return;
        }
        // SAFETY: the image is open, and this is the last use of it. An error says that a flush failed, which
        // `flush` has said before to whoever cared, or that the cluster is away: there is nothing left to do.
        unsafe { ffi::rbd_close(self.handle) };
    }
}

struct Collector {
    extents: Vec<DiffExtent>,
    extents_max: usize,
    too_many: bool,
}

extern "C" fn on_diff_extent(offset: u64, length: usize, exists: c_int, data: *mut c_void) -> c_int {
    // SAFETY: `data` is the collector of `diff`, which is still waiting for librbd.
    let collector = unsafe { &*data.cast::<Mutex<Collector>>() };
    let collect = || {
        let mut collector = collector.lock().unwrap_or_else(PoisonError::into_inner);
        if collector.extents.len() >= collector.extents_max {
            collector.too_many = true;
            return -libc::EOVERFLOW;
        }
        collector.extents.push(DiffExtent { offset, length: length as u64, exists: exists != 0 });
        0
    };
    // A panic must not unwind into C++.
    catch_unwind(AssertUnwindSafe(collect)).unwrap_or(-libc::EIO)
}

pub(super) fn nul_terminated(buffer: &[u8]) -> impl Iterator<Item = String> {
    let buffer = buffer.strip_suffix(&[0]).unwrap_or(buffer);
    let texts = (!buffer.is_empty()).then(|| buffer.split(|byte| *byte == 0));
    texts.into_iter().flatten().map(|text| String::from_utf8_lossy(text).into_owned())
}
