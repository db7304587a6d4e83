//! A copy of the user's Ceph configuration with our time limits added, for the moment of connecting.
//!
//! The `ceph` crate connects in one step and takes options from a file only; and librados waits five minutes for a
//! monitor, and without end for an OSD, unless it is told. The copy may hold keys: nobody else can read it, and it
//! is gone when the value is dropped.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

pub struct PrivateConf {
    folder: PathBuf,
    file: PathBuf,
}

impl PrivateConf {
    pub fn new(original: &Path, user: &str, limit: Duration) -> io::Result<Self> {
        let text = fs::read(original)?;
        let folder = std::env::temp_dir().join(format!("amberfs-{}", Uuid::new_v4()));
        // Of the file's name, `CLUSTER.conf`, librados makes `$cluster`, which is in the default keyring's path.
        let file = folder.join(original.file_name().unwrap_or("ceph.conf".as_ref()));
        DirBuilder::new().mode(0o700).create(&folder)?;
        let this = Self { folder, file };
        let mut copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&this.file)?;
        copy.write_all(&text)?;
        copy.write_all(limits(user, limit).as_bytes())?;
        Ok(this)
    }

    pub fn path(&self) -> &Path {
        &self.file
    }
}

impl Drop for PrivateConf {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "a copy of a Ceph configuration is left behind");
        }
    }
}

/// Returns the section to append. The user's own section is stronger than `[client]` and `[global]`, and of one
/// option given twice in sections of one name, the last counts.
fn limits(user: &str, limit: Duration) -> String {
    let seconds = limit.as_secs().max(1);
    format!(
        "\n[client.{user}]\nclient_mount_timeout = {seconds}\nrados_mon_op_timeout = {seconds}\nrados_osd_op_timeout = {seconds}\n"
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_copy_is_private_and_goes_away() {
        let folder = tempfile::tempdir().unwrap();
        let original = folder.path().join("site.conf");
        let mut file = fs::File::create(&original).unwrap();
        file.write_all(b"[global]\nkey = secret").unwrap();

        let copy = PrivateConf::new(&original, "backup", Duration::from_secs(5)).unwrap();
        let path = copy.path().to_owned();
        assert_eq!(path.file_name().unwrap(), "site.conf");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("[global]\nkey = secret\n[client.backup]\n"), "{text}");
        assert!(text.contains("\nrados_osd_op_timeout = 5\n"), "{text}");
        drop(copy);
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn a_missing_file_is_an_error_and_leaves_nothing() {
        assert!(PrivateConf::new(Path::new("/nonexistent/ceph.conf"), "x", Duration::ZERO).is_err());
    }
}
