//! All the file systems that are open: how many workers they have together, and who starts and ends these.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::error::FilesError;
use super::metadata::FileSystemKind;
use super::process::WorkerProcess;
use super::tree::FileTree;
use crate::sysio::device::ReadAt;

/// How long an idle worker may be idle longer than it should.
const KEEPER_PERIODS: u32 = 4;

/// What the workers may use.
#[derive(Debug, Clone)]
pub struct FileTreesOptions {
    /// The amberfs binary; `/proc/self/exe` is this one, even when it was replaced by another version.
    pub program: PathBuf,
    /// Workers that run at once.
    pub workers_max: usize,
    /// Address space of a worker, the program itself included.
    pub memory_bytes: u64,
    /// Of one request, without what the device takes.
    pub deadline: Duration,
    /// A worker without requests for this long is ended.
    pub idle: Duration,
}

impl FileTreesOptions {
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            workers_max: 8,
            memory_bytes: 512 << 20,
            deadline: Duration::from_secs(30),
            idle: Duration::from_secs(60),
        }
    }
}

/// The file systems that are open, and their workers.
pub struct FileTrees {
    options: FileTreesOptions,
    registry: Arc<Registry>,
    keeper: Sender<SyncSender<io::Result<WorkerProcess>>>,
}

/// A worker that counts among those that run at once.
pub struct Worker {
    pub process: WorkerProcess,
    pub used: Instant,
    _place: Place,
}

struct Registry {
    state: Mutex<RegistryState>,
    /// A worker ended, or became idle.
    changed: Condvar,
}

struct RegistryState {
    workers: usize,
    /// Counts what `changed` tells.
    changes: u64,
    trees: Vec<Weak<FileTree>>,
}

/// A place among the workers that run at once, given back on drop.
struct Place(Arc<Registry>);

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.workers -= 1;
        self.0.tell(&mut state);
    }
}

impl FileTrees {
    pub fn new(options: FileTreesOptions) -> io::Result<Arc<Self>> {
        let state = Mutex::new(RegistryState { workers: 0, changes: 0, trees: Vec::new() });
        let registry = Arc::new(Registry { state, changed: Condvar::new() });
        let (keeper, orders) = channel();
        let (registry_of_keeper, options_of_keeper) = (Arc::clone(&registry), options.clone());
        thread::Builder::new()
            .name("file-trees".to_owned())
            .spawn(move || keep(&registry_of_keeper, &options_of_keeper, &orders))?;
        Ok(Arc::new(Self { options, registry, keeper }))
    }

    /// Opens a file system. Nothing is read and no worker is started before the first request.
    pub fn open(self: &Arc<Self>, device: Arc<dyn ReadAt>, kind: FileSystemKind) -> Arc<FileTree> {
        let tree = Arc::new(FileTree::new(Arc::clone(self), device, kind));
        let mut state = self.registry.lock();
        state.trees.retain(|tree| tree.strong_count() > 0);
        state.trees.push(Arc::downgrade(&tree));
        tree
    }

    pub fn options(&self) -> &FileTreesOptions {
        &self.options
    }

    /// Starts a worker; the least recently used idle one makes place for it.
    pub(super) fn start(&self) -> Result<Worker, FilesError> {
        let place = self.take_place()?;
        let (reply, started) = sync_channel(1);
        let gone = |_| FilesError::Start("the daemon is ending".to_owned());
        self.keeper.send(reply).map_err(|_| gone(()))?;
        let process = started.recv().map_err(|_| gone(()))?;
        let mut process = process.map_err(|error| FilesError::Start(error.to_string()))?;
        process.wait_ready(self.options.deadline).map_err(FilesError::Start)?;
        Ok(Worker { process, used: Instant::now(), _place: place })
    }

    /// To be called when a worker has answered and its tree is free again.
    pub(super) fn tell_idle(&self) {
        self.registry.tell(&mut self.registry.lock());
    }

    fn take_place(&self) -> Result<Place, FilesError> {
        let until = Instant::now() + self.options.deadline;
        let mut state = self.registry.lock();
        loop {
            if state.workers < self.options.workers_max.max(1) {
                state.workers += 1;
                return Ok(Place(Arc::clone(&self.registry)));
            }
            let (seen, trees) = (state.changes, upgraded(&state));
            drop(state);
            let ended = least_recently_used(trees).map(drop).is_some();
            state = self.registry.lock();
            // Who was busy when it was looked at may be idle by now.
            if ended || state.changes != seen {
                continue;
            }
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                let workers = self.options.workers_max;
                let why = format!("all {workers} processes that read file systems are busy");
                return Err(FilesError::Busy { why });
            }
            let waited = self.registry.changed.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, RegistryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &mut RegistryState) {
        state.changes = state.changes.wrapping_add(1);
        self.changed.notify_all();
    }
}

/// Returns the trees, to be dropped without the lock: the last to let go of a tree gives its worker's place back.
fn upgraded(state: &RegistryState) -> Vec<Arc<FileTree>> {
    state.trees.iter().filter_map(Weak::upgrade).collect()
}

fn least_recently_used(trees: Vec<Arc<FileTree>>) -> Option<Worker> {
    let oldest = trees
        .into_iter()
        .filter_map(|tree| Some((tree.idle_since()?, tree)))
        .min_by_key(|(since, _)| *since)?;
    oldest.1.take_idle_worker(Instant::now())
}

/// Starts workers for others, since a worker dies with the thread that started it, and ends those that are idle.
fn keep(
    registry: &Registry,
    options: &FileTreesOptions,
    orders: &Receiver<SyncSender<io::Result<WorkerProcess>>>,
) {
    let period = (options.idle / KEEPER_PERIODS).max(Duration::from_millis(10));
    loop {
        let order = if registry.lock().workers == 0 {
            orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            orders.recv_timeout(period)
        };
        match order {
            // Who asked may have gone meanwhile; the worker goes with the answer.
            Ok(reply) => drop(reply.send(WorkerProcess::spawn(&options.program, options.memory_bytes))),
            Err(RecvTimeoutError::Timeout) => end_idle(registry, options.idle),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn end_idle(registry: &Registry, idle: Duration) {
    let Some(before) = Instant::now().checked_sub(idle) else { return };
    let trees = upgraded(&registry.lock());
    for tree in trees {
        drop(tree.take_idle_worker(before));
    }
}
