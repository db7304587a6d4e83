//! To come: start, serve, drain, stop. So far, what its commands are asked for.

mod options;

pub use options::{Compression, MountOptions, RepoInfoOptions, RepoInitOptions};
