//! The part of librbd's C interface that is used, as `/usr/include/rbd/librbd.h` of Ceph 16.2 declares it.
//!
//! Declarations only. `rados_ioctx_t` is the one of the `ceph` crate. What is missing here is missing on purpose:
//! `rbd_open*` with a snapshot name frees the image under a running completion in 16.2.15, so images are opened
//! at their head and moved with `rbd_snap_set_by_id`.

use std::ffi::{c_char, c_int, c_void};

use ceph::rados::rados_ioctx_t;

pub type RbdImage = *mut c_void;
pub type RbdImageOptions = *mut c_void;
pub type RbdCompletion = *mut c_void;
pub type CompletionCallback = extern "C" fn(RbdCompletion, *mut c_void);
pub type DiffCallback = extern "C" fn(u64, usize, c_int, *mut c_void) -> c_int;
pub type ProgressCallback = extern "C" fn(u64, u64, *mut c_void) -> c_int;

pub const IMAGE_OPTION_FEATURES: c_int = 1;
pub const IMAGE_OPTION_ORDER: c_int = 2;
pub const IMAGE_OPTION_STRIPE_UNIT: c_int = 3;
pub const IMAGE_OPTION_STRIPE_COUNT: c_int = 4;
pub const IMAGE_OPTION_DATA_POOL: c_int = 10;

pub const LOCK_MODE_EXCLUSIVE: c_int = 0;
pub const SNAP_NAMESPACE_USER: c_int = 0;
pub const SNAP_NAMESPACE_TRASH: c_int = 2;

#[repr(C)]
pub struct RbdImageInfo {
    pub size: u64,
    pub obj_size: u64,
    pub num_objs: u64,
    pub order: c_int,
    pub block_name_prefix: [c_char; 24],
    pub parent_pool: i64,
    pub parent_name: [c_char; 96],
}

#[repr(C)]
pub struct RbdImageSpec {
    pub id: *mut c_char,
    pub name: *mut c_char,
}

#[repr(C)]
pub struct RbdSnapInfo {
    pub id: u64,
    pub size: u64,
    pub name: *const c_char,
}

#[repr(C)]
pub struct RbdImageWatcher {
    pub addr: *mut c_char,
    pub id: i64,
    pub cookie: u64,
}

#[link(name = "rbd")]
unsafe extern "C" {
    pub fn rbd_list2(io: rados_ioctx_t, images: *mut RbdImageSpec, max_images: *mut usize) -> c_int;
    pub fn rbd_image_spec_list_cleanup(images: *mut RbdImageSpec, num_images: usize);
    pub fn rbd_namespace_exists(io: rados_ioctx_t, name: *const c_char, exists: *mut bool) -> c_int;
    pub fn rbd_create4(io: rados_ioctx_t, name: *const c_char, size: u64, opts: RbdImageOptions) -> c_int;
    pub fn rbd_rename(io: rados_ioctx_t, from: *const c_char, to: *const c_char) -> c_int;
    pub fn rbd_remove_with_progress(
        io: rados_ioctx_t,
        name: *const c_char,
        callback: ProgressCallback,
        data: *mut c_void,
    ) -> c_int;

    pub fn rbd_image_options_create(opts: *mut RbdImageOptions);
    pub fn rbd_image_options_destroy(opts: RbdImageOptions);
    pub fn rbd_image_options_set_uint64(opts: RbdImageOptions, option: c_int, value: u64) -> c_int;
    pub fn rbd_image_options_set_string(opts: RbdImageOptions, option: c_int, value: *const c_char) -> c_int;

    pub fn rbd_open(
        io: rados_ioctx_t,
        name: *const c_char,
        image: *mut RbdImage,
        snapshot: *const c_char,
    ) -> c_int;
    pub fn rbd_open_read_only(
        io: rados_ioctx_t,
        name: *const c_char,
        image: *mut RbdImage,
        snapshot: *const c_char,
    ) -> c_int;
    pub fn rbd_close(image: RbdImage) -> c_int;

    pub fn rbd_stat(image: RbdImage, info: *mut RbdImageInfo, info_size: usize) -> c_int;
    pub fn rbd_get_size(image: RbdImage, size: *mut u64) -> c_int;
    pub fn rbd_get_features(image: RbdImage, features: *mut u64) -> c_int;
    pub fn rbd_get_flags(image: RbdImage, flags: *mut u64) -> c_int;
    pub fn rbd_get_overlap(image: RbdImage, overlap: *mut u64) -> c_int;
    pub fn rbd_get_id(image: RbdImage, id: *mut c_char, id_size: usize) -> c_int;
    pub fn rbd_get_stripe_unit(image: RbdImage, unit: *mut u64) -> c_int;
    pub fn rbd_get_stripe_count(image: RbdImage, count: *mut u64) -> c_int;
    pub fn rbd_get_data_pool_id(image: RbdImage) -> i64;

    pub fn rbd_metadata_list(
        image: RbdImage,
        start: *const c_char,
        max: u64,
        keys: *mut c_char,
        keys_size: *mut usize,
        values: *mut c_char,
        values_size: *mut usize,
    ) -> c_int;
    pub fn rbd_metadata_get(
        image: RbdImage,
        key: *const c_char,
        value: *mut c_char,
        value_length: *mut usize,
    ) -> c_int;
    pub fn rbd_metadata_set(image: RbdImage, key: *const c_char, value: *const c_char) -> c_int;
    pub fn rbd_metadata_remove(image: RbdImage, key: *const c_char) -> c_int;

    pub fn rbd_watchers_list(image: RbdImage, watchers: *mut RbdImageWatcher, max: *mut usize) -> c_int;
    pub fn rbd_watchers_list_cleanup(watchers: *mut RbdImageWatcher, count: usize);
    pub fn rbd_list_lockers(
        image: RbdImage,
        exclusive: *mut c_int,
        tag: *mut c_char,
        tag_size: *mut usize,
        clients: *mut c_char,
        clients_size: *mut usize,
        cookies: *mut c_char,
        cookies_size: *mut usize,
        addresses: *mut c_char,
        addresses_size: *mut usize,
    ) -> isize;
    pub fn rbd_lock_acquire(image: RbdImage, mode: c_int) -> c_int;

    pub fn rbd_snap_list(image: RbdImage, snaps: *mut RbdSnapInfo, max: *mut c_int) -> c_int;
    pub fn rbd_snap_list_end(snaps: *mut RbdSnapInfo);
    pub fn rbd_snap_get_namespace_type(image: RbdImage, id: u64, namespace_type: *mut c_int) -> c_int;
    pub fn rbd_snap_get_trash_namespace(
        image: RbdImage,
        id: u64,
        original_name: *mut c_char,
        max_length: usize,
    ) -> c_int;
    pub fn rbd_snap_get_timestamp(image: RbdImage, id: u64, timestamp: *mut libc::timespec) -> c_int;
    pub fn rbd_snap_is_protected(image: RbdImage, name: *const c_char, protected: *mut c_int) -> c_int;
    pub fn rbd_snap_create(image: RbdImage, name: *const c_char) -> c_int;
    pub fn rbd_snap_remove_by_id(image: RbdImage, id: u64) -> c_int;
    pub fn rbd_snap_set_by_id(image: RbdImage, id: u64) -> c_int;

    pub fn rbd_diff_iterate2(
        image: RbdImage,
        from_snapshot: *const c_char,
        offset: u64,
        length: u64,
        include_parent: u8,
        whole_object: u8,
        callback: DiffCallback,
        data: *mut c_void,
    ) -> c_int;

    pub fn rbd_aio_create_completion(
        data: *mut c_void,
        callback: CompletionCallback,
        completion: *mut RbdCompletion,
    ) -> c_int;
    pub fn rbd_aio_get_return_value(completion: RbdCompletion) -> isize;
    pub fn rbd_aio_release(completion: RbdCompletion);
    pub fn rbd_aio_read(
        image: RbdImage,
        offset: u64,
        length: usize,
        buffer: *mut c_char,
        completion: RbdCompletion,
    ) -> c_int;
    pub fn rbd_aio_write(
        image: RbdImage,
        offset: u64,
        length: usize,
        buffer: *const c_char,
        completion: RbdCompletion,
    ) -> c_int;
    pub fn rbd_aio_write_zeroes(
        image: RbdImage,
        offset: u64,
        length: usize,
        completion: RbdCompletion,
        zero_flags: c_int,
        op_flags: c_int,
    ) -> c_int;
    pub fn rbd_aio_flush(image: RbdImage, completion: RbdCompletion) -> c_int;
}
