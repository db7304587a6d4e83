//! Who uses an image: clients that watch it, and locks that are held on it.

use std::ffi::CStr;
use std::ptr;

use super::image::nul_terminated;
use super::{Failure, Image, LIST_LENGTH_MAX, LIST_TRIES, check, ffi};

/// A client that has the image open for writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watcher {
    pub client_id: u64,
    pub address: String,
}

/// A lock on an image. It stays when its owner dies, until somebody breaks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locker {
    /// `client.ID`.
    pub client: String,
    /// What its owner calls it; librbd's own exclusive lock is `auto NUMBER`.
    pub cookie: String,
}

impl Image {
    /// Returns who has the image open for writing; opening it for reading does not show.
    pub fn watchers(&self) -> Result<Vec<Watcher>, Failure> {
        const CALL: &str = "rbd_watchers_list";
        let mut capacity = 16_usize;
        for _ in 0..LIST_TRIES {
            let mut watchers = Vec::with_capacity(capacity);
            let mut count = capacity;
            // SAFETY: there is room for `count` entries.
            let code = unsafe { ffi::rbd_watchers_list(self.handle, watchers.as_mut_ptr(), &raw mut count) };
            if code == -libc::ERANGE && count <= LIST_LENGTH_MAX {
                capacity = count + 1;
                continue;
            }
            check(CALL, code)?;
            // SAFETY: librbd filled in `count` entries, which fit, each with a NUL-terminated address, and takes
            // the addresses back after they were copied.
            let list = unsafe {
                watchers.set_len(count.min(capacity));
                let list = watchers.iter().map(|watcher: &ffi::RbdImageWatcher| Watcher {
                    client_id: watcher.id.unsigned_abs(),
                    address: CStr::from_ptr(watcher.addr).to_string_lossy().into_owned(),
                });
                let list = list.collect();
                ffi::rbd_watchers_list_cleanup(watchers.as_mut_ptr(), watchers.len());
                list
            };
            return Ok(list);
        }
        Err(Failure { call: CALL, errno: libc::ERANGE })
    }

    /// Returns who holds locks on the image.
    pub fn lockers(&self) -> Result<Vec<Locker>, Failure> {
        const CALL: &str = "rbd_list_lockers";
        let mut sizes = [1024_usize; 4];
        for _ in 0..LIST_TRIES {
            let [mut tag, mut clients, mut cookies, mut addresses] = sizes.map(|size| vec![0_u8; size]);
            let mut filled = sizes;
            let [tag_size, clients_size, cookies_size, addresses_size] = &mut filled;
            let mut exclusive = 0;
            // SAFETY: each buffer is as large as it is said to be.
            let count = unsafe {
                ffi::rbd_list_lockers(
                    self.handle,
                    &raw mut exclusive,
                    tag.as_mut_ptr().cast(),
                    ptr::from_mut(tag_size),
                    clients.as_mut_ptr().cast(),
                    ptr::from_mut(clients_size),
                    cookies.as_mut_ptr().cast(),
                    ptr::from_mut(cookies_size),
                    addresses.as_mut_ptr().cast(),
                    ptr::from_mut(addresses_size),
                )
            };
            let code = i32::try_from(count).unwrap_or(i32::MAX);
            if code == -libc::ERANGE && sizes.iter().all(|size| *size <= LIST_LENGTH_MAX) {
                sizes = sizes.map(|size| size.saturating_mul(4));
                continue;
            }
            if check(CALL, code)? == 0 {
                return Ok(Vec::new());
            }
            clients.truncate(*clients_size);
            cookies.truncate(*cookies_size);
            let lockers = nul_terminated(&clients).zip(nul_terminated(&cookies));
            return Ok(lockers.map(|(client, cookie)| Locker { client, cookie }).collect());
        }
        Err(Failure { call: CALL, errno: libc::ERANGE })
    }
}
