//! The one connection of a source: made when first needed, shared, made again after it was lost.
//!
//! No call waits without end. librados ends every request after the source's time limit; and for the case that
//! librbd itself gets stuck, each of its calls runs on a thread of its own that can be left behind, holding
//! everything the call uses.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam_channel::RecvTimeoutError;

use super::librbd::{ConnectFailure, Failure, Pool};
use super::private_conf::PrivateConf;
use crate::source::SourceError;
use crate::types::{SourceName, VolumeName};

/// Which volumes a source is over, and who asks for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbdOptions {
    pub name: SourceName,
    /// The path of `ceph.conf`.
    pub conf: PathBuf,
    /// The user without `client.`; its keyring is found through `conf`.
    pub user: String,
    pub pool: String,
    /// Empty for the pool's own images.
    pub namespace: String,
    /// How long one request to the cluster may take, in whole seconds, one at least.
    pub timeout: Duration,
}

/// What librbd itself may wait for besides requests: 30 s for a lock's owner that died, and then some.
const LIBRBD_PATIENCE: Duration = Duration::from_secs(60);

pub struct Connection {
    options: RbdOptions,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pool: Option<Arc<Pool>>,
    /// When the last attempt ended, and why it failed.
    failed: Option<(Instant, String)>,
}

impl Connection {
    pub fn new(mut options: RbdOptions) -> Self {
        if let Some(user) = options.user.strip_prefix("client.") {
            options.user = user.to_owned();
        }
        Self { options, state: Mutex::default() }
    }

    pub const fn options(&self) -> &RbdOptions {
        &self.options
    }

    /// How long a call may go on without a sign of life before it is given up: well beyond librados' own limit, which
    /// a call meets a few times, for its work and for cleaning up.
    pub fn patience(&self) -> Duration {
        self.options.timeout * 4 + LIBRBD_PATIENCE
    }

    /// Returns the connection, made now if need be.
    pub fn pool(&self) -> Result<Arc<Pool>, SourceError> {
        let asked_at = Instant::now();
        let mut state = self.state();
        if let Some(pool) = &state.pool {
            return Ok(Arc::clone(pool));
        }
        if let Some((failed_at, what)) = &state.failed
            && *failed_at > asked_at
        {
            // Somebody tried while we waited for the lock: once is enough for all who waited.
            return Err(self.unavailable(what.clone()));
        }
        match self.connect() {
            Ok(pool) => {
                state.pool = Some(Arc::clone(&pool));
                Ok(pool)
            }
            Err(what) => {
                state.failed = Some((Instant::now(), what.clone()));
                Err(self.unavailable(what))
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self) -> Result<Arc<Pool>, String> {
        let RbdOptions { conf, user, pool, namespace, timeout, .. } = self.options.clone();
        let copy = PrivateConf::new(&conf, &user, timeout)
            .map_err(|error| format!("the Ceph configuration {} cannot be read: {error}", conf.display()))?;
        let connected = self.run(move |_| Pool::connect(&user, copy.path(), &pool, &namespace));
        match connected {
            Some(connected) => connected.map(Arc::new).map_err(|failure| self.explain(failure)),
            None => Err(format!("connecting with {} got stuck", conf.display())),
        }
    }

    fn explain(&self, failure: ConnectFailure) -> String {
        let RbdOptions { conf, user, pool, namespace, timeout, .. } = &self.options;
        let conf = conf.display();
        match failure {
            ConnectFailure::Cluster(libc::ETIMEDOUT) => format!(
                "no monitor of {conf} answers client.{user} within {} s: check its mon_host, the network, and that the cluster is up",
                timeout.as_secs().max(1)
            ),
            // The same errno when there is no key to be found and when there is a wrong one.
            ConnectFailure::Cluster(libc::EACCES | libc::EPERM | libc::ENOENT | libc::EOPNOTSUPP) => format!(
                "the cluster of {conf} refuses client.{user}: check that `keyring` under [client.{user}] in {conf} names a readable file with the key that `ceph auth get client.{user}` shows"
            ),
            ConnectFailure::Cluster(errno) => {
                format!("client.{user} cannot connect with {conf}: {}", os_error(errno))
            }
            ConnectFailure::Pool(libc::ENOENT) => {
                format!("the cluster of {conf} has no pool {pool:?}: check `pool`, or create it")
            }
            ConnectFailure::Pool(errno) | ConnectFailure::Namespace(errno @ (libc::EACCES | libc::EPERM)) => {
                format!("client.{user} cannot use pool {pool:?} of {conf}: {}", os_error(errno))
            }
            ConnectFailure::Namespace(libc::ENOENT) => format!(
                "pool {pool:?} of {conf} has no namespace {namespace:?}: check `namespace`, or create it with `rbd namespace create`"
            ),
            ConnectFailure::Namespace(errno) => format!(
                "namespace {namespace:?} of pool {pool:?} of {conf} cannot be looked up as client.{user}: {}",
                os_error(errno)
            ),
        }
    }

    /// Runs a call into librbd. The outer error says that the cluster is away or keeps us out; the inner one is for
    /// the caller to make sense of. `doing` completes "the cluster did not answer: ...".
    pub fn call<T: Send + 'static>(
        &self,
        doing: &str,
        call: impl FnOnce(&AtomicU64) -> Result<T, Failure> + Send + 'static,
    ) -> Result<Result<T, Failure>, SourceError> {
        match self.run(call) {
            Some(Err(failure)) => match self.unavailability(doing, failure) {
                Some(error) => Err(error),
                None => Ok(Err(failure)),
            },
            Some(done) => Ok(done),
            None => Err(self.stuck(doing)),
        }
    }

    /// Runs a call whose failures all mean the same to the caller.
    pub fn call_io<T: Send + 'static>(
        &self,
        doing: &str,
        call: impl FnOnce(&AtomicU64) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, SourceError> {
        self.call(doing, call)?.map_err(|failure| self.io(doing, failure))
    }

    /// Runs a call on a thread of its own; none when it gave no sign of life for too long and was left behind.
    fn run<T: Send + 'static>(&self, call: impl FnOnce(&AtomicU64) -> T + Send + 'static) -> Option<T> {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let beats = Arc::new(AtomicU64::new(0));
        let its_beats = Arc::clone(&beats);
        let spawned = thread::Builder::new().name("librbd-call".into()).spawn(move || {
            // Nobody listens any more when this call was given up.
            let _ = sender.send(call(&its_beats));
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for a call into librbd");
            return None;
        }
        let mut seen = 0;
        loop {
            match receiver.recv_timeout(self.patience()) {
                Ok(done) => return Some(done),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    let now = beats.load(Ordering::Relaxed);
                    if now == seen {
                        return None;
                    }
                    seen = now;
                }
            }
        }
    }

    /// Says so when the failure means that the cluster is away or keeps us out. What is known of the connection is
    /// forgotten when it may be the connection's fault.
    pub fn unavailability(&self, doing: &str, failure: Failure) -> Option<SourceError> {
        let RbdOptions { conf, user, pool, timeout, .. } = &self.options;
        let (conf, seconds) = (conf.display(), timeout.as_secs().max(1));
        let what = match failure.errno {
            libc::ETIMEDOUT => format!(
                "pool {pool:?} of {conf} did not answer client.{user} within {seconds} s: {doing}; check `ceph -s` for OSDs that are down"
            ),
            libc::ESHUTDOWN => format!(
                "the cluster of {conf} has shut client.{user} out: {doing}; look for this host in `ceph osd blocklist ls`"
            ),
            libc::ENOTCONN | libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE => {
                format!("the connection to {conf} was lost: {doing}")
            }
            libc::EACCES | libc::EPERM => {
                return Some(self.unavailable(format!(
                    "client.{user} may not do this in pool {pool:?} of {conf}: {doing}; compare its caps (`ceph auth get client.{user}`) with those in README"
                )));
            }
            _ => return None,
        };
        self.lost();
        Some(self.unavailable(what))
    }

    pub fn stuck(&self, doing: &str) -> SourceError {
        self.lost();
        let conf = self.options.conf.display();
        let seconds = self.patience().as_secs();
        self.unavailable(format!(
            "librbd did not come back within {seconds} s: {doing}; check the cluster of {conf}"
        ))
    }

    /// Lets the next call connect anew. Whoever still uses the old connection keeps it.
    fn lost(&self) {
        let pool = self.state().pool.take();
        // Outside the lock: it may be the last use, and shutting down takes a while.
        drop(pool);
    }

    pub fn unavailable(&self, what: String) -> SourceError {
        SourceError::Unavailable { source_name: self.options.name.clone(), what }
    }

    pub fn io(&self, doing: &str, failure: Failure) -> SourceError {
        SourceError::Io {
            source_name: self.options.name.clone(),
            what: format!("{doing} ({})", failure.call),
            source: os_error(failure.errno),
        }
    }

    pub fn refused(&self, what: String) -> SourceError {
        let source = io::Error::from(io::ErrorKind::InvalidInput);
        SourceError::Io { source_name: self.options.name.clone(), what, source }
    }

    /// Makes sense of a failure of a call that names one volume.
    pub fn volume_error(&self, volume: &VolumeName, doing: &str, failure: Failure) -> SourceError {
        let source_name = self.options.name.clone();
        let volume = volume.clone();
        match failure.errno {
            libc::ENOENT => SourceError::VolumeNotFound { source_name, volume },
            libc::EEXIST => SourceError::VolumeExists { source_name, volume },
            libc::ENAMETOOLONG => {
                SourceError::InvalidName { source_name, volume, reason: "it is too long for RBD".into() }
            }
            _ => self.io(doing, failure),
        }
    }
}

fn os_error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
