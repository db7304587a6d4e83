//! Another UUID for an XFS: in a scratch image, a volume, a file or a block device; or on the way into a volume.

use std::io;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::access::not_authorized;
use super::refusal::unreadable;
use super::{Operations, Requester};
use crate::contents::{self, ContentsError, DiskContents, Kind, PartName, Place};
use crate::source::VolumeWriter;
use crate::sysio::device::{self, ReadAt, WriteAt};
use crate::sysio::exclusive;
use crate::sysio::patched::Patched;
use crate::types::{ByteRange, Refusal, RefusalKind, sentence};
use crate::xfs::{self, XfsError};

/// In front of the name of a scratch image.
const SCRATCH: &str = "scratch/";

/// A restore keeps the changes of all file systems in memory, a sector for each record of a log: room for a hundred
/// thousand, where usual logs have some thousand.
const PATCHES_BYTES_MAX: u64 = 64 << 20;

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct XfsUuidRequest {
    pub target: String,
    /// Without it, a random one.
    pub uuid: Option<Uuid>,
    /// Without it, the disk itself, or every XFS in its partitions.
    pub partition: Option<u32>,
    /// A logical volume of LVM, on the partition or, without one, wherever there is one of this name.
    pub logical_volume: Option<String>,
    /// Say what would be done, and change nothing.
    pub dry_run: bool,
}

/// One file system that has, or would get, another UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XfsUuidChange {
    pub part: PartName,
    pub old_uuid: Uuid,
    pub new_uuid: Uuid,
    pub groups: u32,
    pub log_records: u64,
    /// Has the log something that the next mount replays?
    pub is_log_dirty: bool,
}

/// An XFS in a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FoundXfs {
    part: PartName,
    place: Place,
}

impl Operations {
    /// Gives the XFS in a scratch image, a volume or a file another UUID. It may be killed at any time, and is finished when
    /// it is asked for again.
    pub fn change_xfs_uuid(
        &self,
        requester: &Requester,
        request: &XfsUuidRequest,
    ) -> Result<Vec<XfsUuidChange>, Refusal> {
        let target = request.target.as_str();
        if let Some(name) = target.strip_prefix(SCRATCH) {
            let image = self.own_scratch(requester, name)?;
            let taken = image.take("being given another XFS UUID")?;
            return change_within(taken.image().as_ref(), request);
        }
        if is_path(target) {
            if !requester.is_operator() {
                let why =
                    "the daemon changes files for the operator only; run amberfs xfs-uuid on it yourself";
                return Err(not_authorized(why.to_owned()));
            }
            return change_xfs_uuid_of_file(Path::new(target), request);
        }
        let selected = self.select_volume(requester, target)?;
        let writer = selected.source.open_volume(&selected.volume.name)?;
        change_within(&VolumeDevice(writer.as_ref()), request)
    }
}

/// Is this the path of a file, and not the name of a volume?
pub fn is_path(target: &str) -> bool {
    ["/", "./", "../"].iter().any(|start| target.starts_with(start))
}

/// Gives the XFS in a file or block device another UUID, with the rights of the caller.
pub fn change_xfs_uuid_of_file(path: &Path, request: &XfsUuidRequest) -> Result<Vec<XfsUuidChange>, Refusal> {
    let device = exclusive::open(path).map_err(|error| {
        let (kind, advice) = match error.kind() {
            io::ErrorKind::NotFound => (RefusalKind::VolumeNotFound, ""),
            io::ErrorKind::ResourceBusy => (RefusalKind::VolumeInUse, ""),
            io::ErrorKind::InvalidInput => (RefusalKind::InvalidInput, ""),
            io::ErrorKind::PermissionDenied => (RefusalKind::NotAuthorized, ""),
            _ => (RefusalKind::Failed, ""),
        };
        Refusal::new(kind, format!("cannot open {}: {error}{advice}", path.display()))
    })?;
    change_within(&device, request)
}

fn change_within(disk: &dyn WriteAt, request: &XfsUuidRequest) -> Result<Vec<XfsUuidChange>, Refusal> {
    let chosen = chosen(&look_into(&disk)?, request)?;
    if request.uuid.is_some() && chosen.len() > 1 {
        let numbers: Vec<_> =
            chosen.iter().filter_map(|xfs| xfs.part.partition).map(|n| n.to_string()).collect();
        let sentence = format!(
            "there is an XFS in partitions {}, and two cannot have one UUID; choose with --partition",
            numbers.join(", ")
        );
        return Err(invalid(sentence));
    }
    // All are looked at before the first one is changed.
    let mut planned = Vec::new();
    for xfs in chosen {
        let new = request.uuid.unwrap_or_else(Uuid::new_v4);
        let device = xfs.place.of(disk);
        let plan = xfs::plan(&device, new).map_err(|error| refused(&xfs.part, error))?;
        planned.push((xfs, new, plan));
    }
    let mut changes = Vec::new();
    for (FoundXfs { part, place }, new, mut plan) in planned {
        if !request.dry_run {
            let old = plan.old_uuid;
            plan = xfs::change(&place.of(disk), new).map_err(|error| refused(&part, error))?;
            plan.old_uuid = old;
        }
        changes.push(XfsUuidChange {
            part,
            old_uuid: plan.old_uuid,
            new_uuid: new,
            groups: plan.groups,
            log_records: plan.log_records,
            is_log_dirty: plan.is_log_dirty,
        });
    }
    Ok(changes)
}

fn look_into(disk: &dyn ReadAt) -> Result<DiskContents, Refusal> {
    contents::look_into(disk).map_err(|error| match error {
        ContentsError::Io(error) => unreadable(error),
        error => invalid(sentence(&error)),
    })
}

/// Finds the file systems that are meant: that of a logical volume, of a partition, or the disk itself, or all in its
/// partitions.
fn chosen(disk: &DiskContents, request: &XfsUuidRequest) -> Result<Vec<FoundXfs>, Refusal> {
    let part = match (request.partition, request.logical_volume.as_deref()) {
        (Some(number), _) if disk.table.is_none() => {
            return Err(invalid(format!("it has no partition table, and so no partition {number}")));
        }
        (partition, Some(name)) => disk.find_logical_volume(partition, name).map_err(invalid)?,
        (None, None) if disk.table.is_some() => {
            let found = every_xfs(disk, |part| part.logical_volume.is_none())?;
            return match found.is_empty() {
                true => Err(invalid(format!(
                    "there is no XFS in its partitions; see partitions/table.json{}",
                    choose_a_logical_volume(disk, None)
                ))),
                false => Ok(found),
            };
        }
        (partition, None) => PartName { partition, logical_volume: None },
    };
    let Some(place) = disk.place(&part) else {
        return Err(invalid(format!("there is no {part}; see partitions/table.json")));
    };
    check_xfs(disk, &part)?;
    Ok(vec![FoundXfs { part, place }])
}

fn every_xfs(disk: &DiskContents, is_meant: impl Fn(&PartName) -> bool) -> Result<Vec<FoundXfs>, Refusal> {
    let mut found = Vec::new();
    for part in disk.parts() {
        if !is_meant(&part.name) {
            continue;
        }
        if let Err(error) = part.identified {
            return Err(unreadable(io::Error::new(error.kind(), error.to_string())));
        }
        if part.kind() == Some(Kind::Xfs)
            && let Some(place) = disk.place(&part.name)
        {
            found.push(FoundXfs { part: part.name, place });
        }
    }
    Ok(found)
}

fn check_xfs(disk: &DiskContents, part: &PartName) -> Result<(), Refusal> {
    let advice = match disk.content(part).map(|content| content.kind) {
        // Whatever it is said to be, its own check says more.
        Some(Kind::Xfs) | None => return Ok(()),
        Some(Kind::Luks) => {
            "holds LUKS: what is inside is encrypted; unlock it and name the unlocked device".to_owned()
        }
        Some(Kind::LvmPhysicalVolume) => match choose_a_logical_volume(disk, part.partition).as_str() {
            "" => "is a physical volume of LVM; activate it and name the logical volume".to_owned(),
            advice => format!("is a physical volume of LVM{advice}"),
        },
        Some(other) => format!("holds {}, not XFS", other.name()),
    };
    Err(invalid(format!("{part} {advice}; nothing was changed")))
}

/// Advice that names the logical volumes that can be read, of a partition or of all; empty where there are none.
fn choose_a_logical_volume(disk: &DiskContents, partition: Option<u32>) -> String {
    let parts = disk.parts();
    let meant =
        parts.iter().filter(|part| partition.is_none_or(|number| part.name.partition == Some(number)));
    let names: Vec<&str> = meant.filter_map(|part| part.name.logical_volume.as_deref()).collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("; choose a logical volume with --lv: {}", names.join(", ")),
    }
}

fn refused(part: &PartName, error: XfsError) -> Refusal {
    let kind = if error.is_refusal() { RefusalKind::InvalidInput } else { RefusalKind::Failed };
    let nothing = if error.is_refusal() { "; nothing was changed" } else { "" };
    Refusal::new(kind, format!("{part}: {}{nothing}", sentence(&error)))
}

fn invalid(sentence: String) -> Refusal {
    Refusal::new(RefusalKind::InvalidInput, sentence)
}

/// A disk whose XFS have other UUIDs, as a restore writes it. The changes are kept in memory.
pub(super) struct WithNewUuids {
    disk: Arc<Patched>,
    found: Vec<(FoundXfs, Uuid)>,
}

impl WithNewUuids {
    /// Changes each XFS of a disk that is read only: that of the disk itself, or those in its partitions, and those in the
    /// logical volumes that can be read. Refused when there is none, or one cannot be changed.
    ///
    /// The UUIDs follow from `seed`: a restore that goes on after a stop writes the same ones.
    pub(super) fn new(disk: Arc<dyn ReadAt>, seed: Uuid) -> Result<Self, Refusal> {
        let contents = look_into(&disk)?;
        let mut all = every_xfs(&contents, |_| true)?;
        if all.is_empty() {
            if contents.table.is_some() || contents.logical_volumes(None).is_some() {
                return Err(invalid("there is no XFS in its partitions or logical volumes".to_owned()));
            }
            // Says why not, and lets the check of an XFS say more of a disk of which nothing is known.
            all = chosen(&contents, &XfsUuidRequest::default())?;
        }
        let disk = Arc::new(Patched::new(disk, PATCHES_BYTES_MAX));
        let mut found = Vec::new();
        for xfs in all {
            let new = uuid_of(seed, &xfs.part);
            let device = xfs.place.of(Arc::clone(&disk));
            xfs::change(&device, new).map_err(|error| refused(&xfs.part, error))?;
            found.push((xfs, new));
        }
        Ok(Self { disk, found })
    }

    pub(super) fn disk(&self) -> Arc<dyn ReadAt> {
        self.disk.clone()
    }

    /// The new UUIDs, and the parts that have them.
    pub(super) fn uuids(&self) -> Vec<(PartName, Uuid)> {
        self.found.iter().map(|(xfs, uuid)| (xfs.part.clone(), *uuid)).collect()
    }

    /// Reads back from the volume that was written.
    pub(super) fn check(&self, volume: &dyn ReadAt) -> Result<(), Refusal> {
        for (FoundXfs { part, place }, uuid) in &self.found {
            xfs::check(&place.of(volume), *uuid).map_err(|error| refused(part, error))?;
        }
        Ok(())
    }
}

/// The new UUID of a file system. A bare one has the seed itself.
fn uuid_of(seed: Uuid, part: &PartName) -> Uuid {
    let number = part.partition.map(|number| number.to_string()).unwrap_or_default();
    match (&part.logical_volume, part.partition) {
        (None, None) => seed,
        (None, Some(_)) => Uuid::new_v5(&seed, number.as_bytes()),
        (Some(name), _) => Uuid::new_v5(&seed, format!("{number}/{name}").as_bytes()),
    }
}

/// A volume that we alone have open.
pub(super) struct VolumeDevice<'a>(pub(super) &'a dyn VolumeWriter);

impl ReadAt for VolumeDevice<'_> {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read_exact_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        device::check_within(self.size_bytes(), offset, into.len(), io::ErrorKind::UnexpectedEof)?;
        self.0.read(ByteRange::new(offset, into.len() as u64), into).map_err(io::Error::other)
    }
}

impl WriteAt for VolumeDevice<'_> {
    fn write_all_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        device::check_within(self.size_bytes(), offset, bytes.len(), io::ErrorKind::WriteZero)?;
        self.0.write(offset, bytes).map_err(io::Error::other)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.flush().map_err(io::Error::other)
    }
}
