//! Another UUID for an XFS: in a scratch image, a volume, a file or a block device; or on the way into a volume.

use std::io;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use super::access::not_authorized;
use super::refusal::{sentence, unreadable};
use super::{Operations, Requester};
use crate::contents::{self, ContentsError, Kind};
use crate::source::VolumeWriter;
use crate::sysio::device::{self, ReadAt, Window, WriteAt};
use crate::sysio::exclusive;
use crate::sysio::patched::Patched;
use crate::types::{ByteRange, Refusal, RefusalKind};
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
    /// Say what would be done, and change nothing.
    pub dry_run: bool,
}

/// One file system that has, or would get, another UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XfsUuidChange {
    pub partition: Option<u32>,
    pub old_uuid: Uuid,
    pub new_uuid: Uuid,
    pub groups: u32,
    pub log_records: u64,
    /// Has the log something that the next mount replays?
    pub is_log_dirty: bool,
}

/// Where an XFS lies in a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    partition: Option<u32>,
    start: u64,
    length: u64,
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
            io::ErrorKind::ResourceBusy => (RefusalKind::VolumeInUse, "; unmount and detach it first"),
            io::ErrorKind::InvalidInput => (RefusalKind::InvalidInput, ""),
            io::ErrorKind::PermissionDenied => (RefusalKind::NotAuthorized, ""),
            _ => (RefusalKind::Failed, ""),
        };
        Refusal::new(kind, format!("cannot open {}: {error}{advice}", path.display()))
    })?;
    change_within(&device, request)
}

fn change_within(disk: &dyn WriteAt, request: &XfsUuidRequest) -> Result<Vec<XfsUuidChange>, Refusal> {
    let places = places(&disk, request.partition)?;
    if request.uuid.is_some() && places.len() > 1 {
        let numbers: Vec<_> =
            places.iter().filter_map(|place| place.partition).map(|n| n.to_string()).collect();
        let sentence = format!(
            "there is an XFS in partitions {}, and two cannot have one UUID; choose with --partition",
            numbers.join(", ")
        );
        return Err(invalid(sentence));
    }
    // All are looked at before the first one is changed.
    let mut planned = Vec::new();
    for place in places {
        let new = request.uuid.unwrap_or_else(Uuid::new_v4);
        let window = Window::new(disk, place.start, place.length);
        planned.push((place, new, xfs::plan(&window, new).map_err(|error| refused(place, error))?));
    }
    let mut changes = Vec::new();
    for (place, new, mut plan) in planned {
        if !request.dry_run {
            let window = Window::new(disk, place.start, place.length);
            let old = plan.old_uuid;
            plan = xfs::change(&window, new).map_err(|error| refused(place, error))?;
            plan.old_uuid = old;
        }
        changes.push(XfsUuidChange {
            partition: place.partition,
            old_uuid: plan.old_uuid,
            new_uuid: new,
            groups: plan.groups,
            log_records: plan.log_records,
            is_log_dirty: plan.is_log_dirty,
        });
    }
    Ok(changes)
}

/// Finds the file systems that are meant: that of a partition, or the disk itself, or all in its partitions.
fn places(disk: &dyn ReadAt, partition: Option<u32>) -> Result<Vec<Place>, Refusal> {
    let whole = Place { partition: None, start: 0, length: disk.size_bytes() };
    let table = match contents::partitions(disk) {
        Ok(table) => table,
        Err(ContentsError::Io(error)) => return Err(unreadable(error)),
        Err(error) => return Err(invalid(sentence(&error))),
    };
    let Some(table) = table else {
        if let Some(number) = partition {
            return Err(invalid(format!("it has no partition table, and so no partition {number}")));
        }
        check_xfs(disk, whole)?;
        return Ok(vec![whole]);
    };
    let mut found = Vec::new();
    for one in &table.partitions {
        let place = Place { partition: Some(one.number), start: one.start, length: one.length };
        match partition {
            Some(number) if number == one.number => {
                check_xfs(disk, place)?;
                return Ok(vec![place]);
            }
            Some(_) => {}
            None if is_xfs(disk, place)? => found.push(place),
            None => {}
        }
    }
    match (partition, found.is_empty()) {
        (Some(number), _) => {
            Err(invalid(format!("there is no partition {number}; see partitions/table.json")))
        }
        (None, true) => {
            Err(invalid("there is no XFS in its partitions; see partitions/table.json".to_owned()))
        }
        (None, false) => Ok(found),
    }
}

fn is_xfs(disk: &dyn ReadAt, place: Place) -> Result<bool, Refusal> {
    Ok(content(disk, place)?.is_some_and(|kind| kind == Kind::Xfs))
}

fn content(disk: &dyn ReadAt, place: Place) -> Result<Option<Kind>, Refusal> {
    let window = Window::new(disk, place.start, place.length);
    Ok(contents::identify(&window).map_err(unreadable)?.map(|content| content.kind))
}

fn check_xfs(disk: &dyn ReadAt, place: Place) -> Result<(), Refusal> {
    let advice = match content(disk, place)? {
        // Whatever it is said to be, its own check says more.
        Some(Kind::Xfs) | None => return Ok(()),
        Some(Kind::Luks) => {
            "holds LUKS: what is inside is encrypted; unlock it and name the unlocked device".to_owned()
        }
        Some(Kind::LvmPhysicalVolume) => {
            "is a physical volume of LVM; activate it and name the logical volume".to_owned()
        }
        Some(other) => format!("holds {}, not XFS", other.name()),
    };
    Err(invalid(format!("{} {advice}; nothing was changed", place.name())))
}

impl Place {
    fn name(self) -> String {
        self.partition.map_or_else(|| "the disk".to_owned(), |number| format!("partition {number}"))
    }
}

fn refused(place: Place, error: XfsError) -> Refusal {
    let kind = if error.is_refusal() { RefusalKind::InvalidInput } else { RefusalKind::Failed };
    let nothing = if error.is_refusal() { "; nothing was changed" } else { "" };
    Refusal::new(kind, format!("{}: {}{nothing}", place.name(), sentence(&error)))
}

fn invalid(sentence: String) -> Refusal {
    Refusal::new(RefusalKind::InvalidInput, sentence)
}

/// A disk whose XFS have other UUIDs, as a restore writes it. The changes are kept in memory.
pub(super) struct WithNewUuids {
    disk: Arc<Patched>,
    found: Vec<(Place, Uuid)>,
}

impl WithNewUuids {
    /// Changes each XFS of a disk that is read only. Refused when there is none, or one cannot be changed.
    ///
    /// The UUIDs follow from `seed`: a restore that goes on after a stop writes the same ones.
    pub(super) fn new(disk: Arc<dyn ReadAt>, seed: Uuid) -> Result<Self, Refusal> {
        let places = places(&disk, None)?;
        let disk = Arc::new(Patched::new(disk, PATCHES_BYTES_MAX));
        let mut found = Vec::new();
        for place in places {
            let new = uuid_of(seed, place.partition);
            let window = Window::new(Arc::clone(&disk), place.start, place.length);
            xfs::change(&window, new).map_err(|error| refused(place, error))?;
            found.push((place, new));
        }
        Ok(Self { disk, found })
    }

    pub(super) fn disk(&self) -> Arc<dyn ReadAt> {
        self.disk.clone()
    }

    /// The new UUIDs, by partition; of a bare file system, without one.
    pub(super) fn uuids(&self) -> Vec<(Option<u32>, Uuid)> {
        self.found.iter().map(|(place, uuid)| (place.partition, *uuid)).collect()
    }

    /// Reads back from the volume that was written.
    pub(super) fn check(&self, volume: &dyn ReadAt) -> Result<(), Refusal> {
        for (place, uuid) in &self.found {
            let window = Window::new(volume, place.start, place.length);
            xfs::check(&window, *uuid).map_err(|error| refused(*place, error))?;
        }
        Ok(())
    }
}

/// The new UUID of a partition's file system, or of a bare one's, which has the seed itself.
fn uuid_of(seed: Uuid, partition: Option<u32>) -> Uuid {
    match partition {
        None => seed,
        Some(number) => Uuid::new_v5(&seed, number.to_string().as_bytes()),
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
