//! The tree as a mounted file system: fuser's callbacks become calls of [`vfs`](crate::vfs), and errors become
//! error numbers. Nothing is decided here.

mod adapter;
mod attributes;
mod errno;
mod error;
mod mountpoint;
mod pool;
mod requests;
mod server;
mod session;

pub use error::FuseError;
pub use session::{FuseOptions, FuseSession, Unmounted, mount};
