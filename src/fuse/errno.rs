//! Which error number each error is: the one place that chooses. Without a catch-all, so that a new error does not
//! compile until somebody has chosen.

use fuser::Errno;

use super::requests::count_error;
use crate::files::FilesError;
use crate::types::RefusalKind;
use crate::vfs::VfsError;

/// Returns the number for a request that is answered with it, and counts it.
pub(super) fn errno(error: &VfsError) -> Errno {
    let errno = errno_of(error);
    count_error(errno);
    tracing::debug!(errno = errno.code(), %error, "a request is answered with an error");
    errno
}

fn errno_of(error: &VfsError) -> Errno {
    match error {
        VfsError::NotFound => Errno::ENOENT,
        VfsError::NotYours => Errno::EACCES,
        VfsError::NotAFolder => Errno::ENOTDIR,
        VfsError::IsAFolder => Errno::EISDIR,
        VfsError::NotALink => Errno::EINVAL,
        VfsError::UnknownInode { .. } => Errno::ESTALE,
        VfsError::BadHandle { .. } => Errno::EBADF,
        VfsError::ReadOnly => Errno::EROFS,
        VfsError::NothingBehind => Errno::ENXIO,
        VfsError::CommandsTooLong { .. } => Errno::EFBIG,
        VfsError::FixedSize => Errno::EINVAL,
        VfsError::NotSupported => Errno::EOPNOTSUPP,
        VfsError::InUse => Errno::EBUSY,
        VfsError::Full => Errno::ENOSPC,
        VfsError::NameTooLong => Errno::ENAMETOOLONG,
        VfsError::NotOpened => Errno::EACCES,
        VfsError::Inner(error) => errno_of_inner(error),
        VfsError::Refused { kind } => errno_of_refusal(*kind),
        VfsError::Open { .. }
        | VfsError::Read { .. }
        | VfsError::Part { .. }
        | VfsError::Scratch { .. }
        | VfsError::Events { .. }
        | VfsError::Record { .. } => Errno::EIO,
    }
}

fn errno_of_inner(error: &FilesError) -> Errno {
    match error {
        FilesError::NotFound { .. } => Errno::ENOENT,
        FilesError::NotAFolder { .. } => Errno::ENOTDIR,
        FilesError::IsAFolder { .. } => Errno::EISDIR,
        FilesError::NotAFile { .. } => Errno::EACCES,
        FilesError::NotALink { .. } => Errno::EINVAL,
        FilesError::Unsupported { .. } => Errno::EOPNOTSUPP,
        FilesError::Damaged { .. }
        | FilesError::Device { .. }
        | FilesError::WorkerEnded { .. }
        | FilesError::TimedOut { .. }
        | FilesError::TooManyFailures { .. }
        | FilesError::Start(_) => Errno::EIO,
        FilesError::Busy { .. } => Errno::EBUSY,
    }
}

/// The table of the contract (interface, "Control files").
fn errno_of_refusal(kind: RefusalKind) -> Errno {
    match kind {
        RefusalKind::InvalidInput
        | RefusalKind::AmbiguousName
        | RefusalKind::InvalidSnapshot
        | RefusalKind::InvalidRecord => Errno::EINVAL,
        RefusalKind::VolumeNotFound
        | RefusalKind::SnapshotNotFound
        | RefusalKind::BackupNotFound
        | RefusalKind::JobNotFound
        | RefusalKind::VolumeTypeNotFound
        | RefusalKind::ScratchNotFound => Errno::ENOENT,
        RefusalKind::VolumeInUse | RefusalKind::InvalidState => Errno::EBUSY,
        RefusalKind::BackupHasDependents => Errno::ENOTEMPTY,
        RefusalKind::VolumeBackupLimitExceeded
        | RefusalKind::VolumeBackupSizeExceedsAvailableQuota
        | RefusalKind::VolumeLimitExceeded
        | RefusalKind::VolumeSizeExceedsAvailableQuota => Errno::EDQUOT,
        RefusalKind::VolumeExists | RefusalKind::BackupExists | RefusalKind::ScratchExists => Errno::EEXIST,
        RefusalKind::VolumeTooSmall => Errno::EFBIG,
        RefusalKind::NotAuthorized => Errno::EACCES,
        RefusalKind::ReadOnly => Errno::EROFS,
        // Not in the table. Not EAGAIN, on which some writers try again for ever.
        RefusalKind::SourceUnavailable => Errno::EHOSTUNREACH,
        RefusalKind::Failed => Errno::EIO,
    }
}
