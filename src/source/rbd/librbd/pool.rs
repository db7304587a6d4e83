//! A pool of a connected cluster, and what is done to images by their names.
//!
//! The connection is the `ceph` crate's, and lives as long as any [`Pool`] does. Its `disconnect_from_ceph` and
//! `destroy_rados_ioctx` are never called: dropping does the same again.

use std::ffi::{CStr, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use ceph::ceph::{IoCtx, Rados, connect_to_ceph};
use ceph::error::RadosError;
use ceph::rados::{
    rados_conf_read_file, rados_connect, rados_create, rados_get_instance_id, rados_ioctx_t,
    rados_pool_reverse_lookup, rados_shutdown, rados_t,
};

use super::{Failure, LIST_LENGTH_MAX, LIST_TRIES, c_string, check, ffi};

/// A connection, and one pool and namespace of it.
pub struct Pool {
    // Dropped in this order: an I/O context must not outlive its cluster.
    ioctx: IoCtx,
    rados: Rados,
}

// SAFETY: librados lets any thread use and shut down a cluster handle and an I/O context. What it does not allow, to
// change an I/O context's namespace while it is used, is done in `connect` only.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

/// Why there is no [`Pool`]: the step that failed, and its errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFailure {
    Cluster(i32),
    Pool(i32),
    Namespace(i32),
}

/// What a new image is like; the library's defaults where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateOptions {
    pub features: u64,
    /// The logarithm of the object size.
    pub order: Option<u64>,
    pub stripe_unit_and_count: Option<(u64, u64)>,
    pub data_pool: Option<String>,
}

impl Pool {
    /// Connects with the limits that stand in the configuration file.
    pub fn connect(user: &str, conf: &Path, pool: &str, namespace: &str) -> Result<Self, ConnectFailure> {
        let conf = conf.to_str().ok_or(ConnectFailure::Cluster(libc::EINVAL))?;
        // `connect_to_ceph` never gives the handle of a failed connection back, threads and all. Trying first with
        // one that is given back keeps a source that stays away for days from filling the process.
        try_to_connect(user, conf).map_err(|failure| ConnectFailure::Cluster(failure.errno))?;
        let rados = connect_to_ceph(user, conf).map_err(|e| ConnectFailure::Cluster(errno(&e)))?;
        let ioctx = rados.get_rados_ioctx(pool).map_err(|e| ConnectFailure::Pool(errno(&e)))?;
        let this = Self { ioctx, rados };
        if !namespace.is_empty() {
            let exists = this.namespace_exists(namespace).map_err(|f| ConnectFailure::Namespace(f.errno))?;
            if !exists {
                return Err(ConnectFailure::Namespace(libc::ENOENT));
            }
            this.ioctx.rados_set_namespace(namespace).map_err(|e| ConnectFailure::Namespace(errno(&e)))?;
        }
        Ok(this)
    }

    pub(super) fn ioctx(&self) -> rados_ioctx_t {
        *self.ioctx.inner()
    }

    /// The number by which the cluster knows this connection, and names it in lists of watchers.
    pub fn client_id(&self) -> u64 {
        // SAFETY: the handle is connected.
        unsafe { rados_get_instance_id(*self.rados.inner()) }
    }

    /// Returns the names of the images; those that are no UTF-8 as `Err` with what can be shown of them.
    pub fn images(&self) -> Result<Vec<Result<String, String>>, Failure> {
        const CALL: &str = "rbd_list2";
        let mut capacity = 256_usize;
        for _ in 0..LIST_TRIES {
            let mut specs = Vec::with_capacity(capacity);
            let mut count = capacity;
            // SAFETY: there is room for `count` entries.
            let code = unsafe { ffi::rbd_list2(self.ioctx(), specs.as_mut_ptr(), &raw mut count) };
            if code == -libc::ERANGE && count <= LIST_LENGTH_MAX {
                capacity = count + count / 8;
                continue;
            }
            check(CALL, code)?;
            // SAFETY: librbd filled in `count` entries, which fit, each with NUL-terminated names, and takes the
            // names back after they were copied.
            let names = unsafe {
                specs.set_len(count.min(capacity));
                let names = specs.iter().map(|spec: &ffi::RbdImageSpec| text(CStr::from_ptr(spec.name)));
                let names = names.collect();
                ffi::rbd_image_spec_list_cleanup(specs.as_mut_ptr(), specs.len());
                names
            };
            return Ok(names);
        }
        Err(Failure { call: CALL, errno: libc::ERANGE })
    }

    fn namespace_exists(&self, namespace: &str) -> Result<bool, Failure> {
        const CALL: &str = "rbd_namespace_exists";
        let namespace = c_string(CALL, namespace)?;
        let mut exists = false;
        // SAFETY: the name is NUL-terminated and `exists` is one bool.
        check(CALL, unsafe { ffi::rbd_namespace_exists(self.ioctx(), namespace.as_ptr(), &raw mut exists) })?;
        Ok(exists)
    }

    pub fn create(&self, name: &str, size: u64, options: &CreateOptions) -> Result<(), Failure> {
        const CALL: &str = "rbd_create4";
        let name = c_string(CALL, name)?;
        let image_options = ImageOptions::new();
        image_options.set(ffi::IMAGE_OPTION_FEATURES, options.features)?;
        if let Some(order) = options.order {
            image_options.set(ffi::IMAGE_OPTION_ORDER, order)?;
        }
        if let Some((unit, count)) = options.stripe_unit_and_count {
            image_options.set(ffi::IMAGE_OPTION_STRIPE_UNIT, unit)?;
            image_options.set(ffi::IMAGE_OPTION_STRIPE_COUNT, count)?;
        }
        if let Some(data_pool) = &options.data_pool {
            image_options.set_text(ffi::IMAGE_OPTION_DATA_POOL, data_pool)?;
        }
        // SAFETY: the name is NUL-terminated and the options live until the call returns.
        check(CALL, unsafe { ffi::rbd_create4(self.ioctx(), name.as_ptr(), size, image_options.0) })?;
        Ok(())
    }

    pub fn rename(&self, from: &str, to: &str) -> Result<(), Failure> {
        const CALL: &str = "rbd_rename";
        let (from, to) = (c_string(CALL, from)?, c_string(CALL, to)?);
        // SAFETY: both names are NUL-terminated.
        check(CALL, unsafe { ffi::rbd_rename(self.ioctx(), from.as_ptr(), to.as_ptr()) })?;
        Ok(())
    }

    /// Removes an image; `beats` grows while there is progress.
    pub fn remove(&self, name: &str, beats: &AtomicU64) -> Result<(), Failure> {
        const CALL: &str = "rbd_remove_with_progress";
        let name = c_string(CALL, name)?;
        // SAFETY: the name is NUL-terminated, and `beats` outlives the call, which is when it is last used.
        check(CALL, unsafe {
            let data = ptr::from_ref(beats).cast_mut().cast();
            ffi::rbd_remove_with_progress(self.ioctx(), name.as_ptr(), on_progress, data)
        })?;
        Ok(())
    }

    /// Returns the id of a pool of this cluster, or none when there is no such pool.
    pub fn pool_id(&self, pool: &str) -> Option<i64> {
        self.rados.rados_lookup_pool(pool).ok().flatten()
    }

    /// Returns the name of a pool of this cluster. (The `ceph` crate's own call always returns an empty one.)
    pub fn pool_name(&self, id: i64) -> Result<String, Failure> {
        let mut buffer = [0_u8; 4096];
        // SAFETY: there is room for `buffer.len()` bytes.
        check("rados_pool_reverse_lookup", unsafe {
            rados_pool_reverse_lookup(*self.rados.inner(), id, buffer.as_mut_ptr().cast(), buffer.len())
        })?;
        Ok(text_until_nul(&buffer))
    }
}

extern "C" fn on_progress(_done: u64, _total: u64, data: *mut c_void) -> c_int {
    // SAFETY: `data` is the `beats` of `remove`, which is still waiting for librbd.
    unsafe { &*data.cast::<AtomicU64>() }.fetch_add(1, Ordering::Relaxed);
    0
}

/// The options of `rbd_create4`, given back when dropped.
struct ImageOptions(ffi::RbdImageOptions);

impl ImageOptions {
    fn new() -> Self {
        let mut options = ptr::null_mut();
        // SAFETY: `options` is one pointer to be filled in.
        unsafe { ffi::rbd_image_options_create(&raw mut options) };
        Self(options)
    }

    fn set(&self, option: c_int, value: u64) -> Result<(), Failure> {
        // SAFETY: the options were made by `rbd_image_options_create`.
        check("rbd_image_options_set_uint64", unsafe {
            ffi::rbd_image_options_set_uint64(self.0, option, value)
        })?;
        Ok(())
    }

    fn set_text(&self, option: c_int, value: &str) -> Result<(), Failure> {
        const CALL: &str = "rbd_image_options_set_string";
        let value = c_string(CALL, value)?;
        // SAFETY: as in `set`; librbd copies the NUL-terminated value.
        check(CALL, unsafe { ffi::rbd_image_options_set_string(self.0, option, value.as_ptr()) })?;
        Ok(())
    }
}

impl Drop for ImageOptions {
    fn drop(&mut self) {
        // SAFETY: made by `rbd_image_options_create`, and given back once.
        unsafe { ffi::rbd_image_options_destroy(self.0) };
    }
}

fn try_to_connect(user: &str, conf: &str) -> Result<(), Failure> {
    let (user, conf) = (c_string("rados_create", user)?, c_string("rados_conf_read_file", conf)?);
    let mut cluster: rados_t = ptr::null_mut();
    // SAFETY: `cluster` is one handle to be filled in; it is used only after it was made, and shut down once.
    unsafe {
        check("rados_create", rados_create(&raw mut cluster, user.as_ptr()))?;
        let connected = check("rados_conf_read_file", rados_conf_read_file(cluster, conf.as_ptr()))
            .and_then(|_| check("rados_connect", rados_connect(cluster)));
        rados_shutdown(cluster);
        connected?;
    }
    Ok(())
}

fn errno(error: &RadosError) -> i32 {
    match error {
        RadosError::ApiError(errno) => *errno as i32,
        RadosError::NulError(_) => libc::EINVAL,
        _ => libc::EIO,
    }
}

/// Returns the name, or, as an error, what can be shown of one that is no UTF-8.
pub(super) fn text(name: &CStr) -> Result<String, String> {
    name.to_str().map(str::to_owned).map_err(|_| name.to_string_lossy().into_owned())
}

pub(super) fn text_until_nul(buffer: &[u8]) -> String {
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    String::from_utf8_lossy(buffer.get(..end).unwrap_or_default()).into_owned()
}
