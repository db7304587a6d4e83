//! The configuration file: what the contract says, read strictly. An unknown key is an error, since a misspelt
//! limit that is silently ignored is worse than a daemon that does not start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{DaemonError, MountOptions};
use crate::catalog::Quota;
use crate::format::codec::Compression;
use crate::operations::{DiffTrust, VerifyOptions};
use crate::types::{ByteRate, ByteSize, GIB, MIB, ProjectName, SourceName, TimeSpan};

/// The sample is planned in memory.
const SAMPLE_BLOCKS_MAX: u64 = 65_536;

/// Read where neither `--config` nor `--repo` is given.
const CONFIG_PATH: &str = "/etc/amberfs/amberfs.toml";

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub repository: RepositoryConfig,
    #[serde(default)]
    pub limits: LimitsConfig,
    #[serde(default)]
    pub trust: TrustConfig,
    #[serde(default)]
    pub mount: MountConfig,
    #[serde(default)]
    pub verify: VerifyConfig,
    #[serde(default)]
    pub source: BTreeMap<String, SourceConfig>,
    #[serde(default)]
    pub volume_type: BTreeMap<String, VolumeTypeConfig>,
    #[serde(default)]
    pub project: BTreeMap<String, ProjectConfig>,
    /// `full` or `fail`.
    #[serde(default)]
    pub incremental_without_parent: WithoutParentConfig,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepositoryConfig {
    pub url: String,
    pub index: Option<PathBuf>,
    #[serde(default = "default_compression")]
    pub compression: String,
    #[serde(default = "default_cache")]
    pub cache: ByteSize,
    /// Who may only read looks so often what the writer has done, in seconds; 0 is never.
    #[serde(default = "default_refresh_seconds")]
    pub refresh_seconds: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    pub max_operations: usize,
    pub memory: ByteSize,
    /// All scratch images together hold no more than this of what was written to them.
    pub scratch: ByteSize,
    /// Ended jobs stay in `jobs/` for so long, and so many of them.
    pub finished_jobs_seconds: u64,
    pub finished_jobs: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_operations: 15,
            memory: ByteSize(GIB),
            scratch: ByteSize(16 * GIB),
            finished_jobs_seconds: 24 * 3600,
            finished_jobs: 1000,
        }
    }
}

/// How far a source's word on what has changed is taken.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustConfig {
    /// Every part of a volume is read again within so many incremental backups; 0: never.
    pub reread_within: u64,
    /// Blocks of 64 KiB that each incremental backup reads again; 0: none.
    pub sample_blocks: u64,
}

impl Default for TrustConfig {
    fn default() -> Self {
        let DiffTrust { reread_within, sample_blocks } = DiffTrust::default();
        Self { reread_within, sample_blocks }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MountConfig {
    /// Let other users than the daemon's into the mount.
    pub allow_other: bool,
    /// The group that may write commands, by its name or number; by default the daemon's.
    pub control_group: Option<GroupConfig>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerifyConfig {
    /// Bytes a second that all verifications together read, or `none`.
    pub rate: ByteRate,
    /// So many verifications run at once.
    pub parallel: usize,
    /// Each backup is verified once in this time: `30d`.
    pub schedule: Option<TimeSpan>,
}

impl Default for VerifyConfig {
    fn default() -> Self {
        let VerifyOptions { rate, parallel, schedule } = VerifyOptions::default();
        Self { rate, parallel, schedule }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum GroupConfig {
    Id(u32),
    Name(String),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WithoutParentConfig {
    #[default]
    Full,
    Fail,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum SourceConfig {
    Dir {
        path: PathBuf,
    },
    Rbd {
        #[serde(default = "default_ceph_conf")]
        conf: PathBuf,
        #[serde(default = "default_ceph_user")]
        user: String,
        pool: String,
        #[serde(default)]
        namespace: String,
        /// Seconds after which a cluster that does not answer is given up.
        #[serde(default = "default_timeout_seconds")]
        timeout_seconds: u64,
    },
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VolumeTypeConfig {
    pub source: Option<SourceName>,
    pub data_pool: Option<String>,
    pub object_size: Option<ByteSize>,
    pub features: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectConfig {
    pub sources: Vec<SourceName>,
    /// By default the daemon's user and group.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    #[serde(default)]
    pub quota: Quota,
}

fn default_compression() -> String {
    "zstd:3".to_owned()
}

fn default_cache() -> ByteSize {
    ByteSize(512 * MIB)
}

fn default_refresh_seconds() -> u64 {
    5
}

fn default_ceph_conf() -> PathBuf {
    PathBuf::from("/etc/ceph/ceph.conf")
}

fn default_ceph_user() -> String {
    "amberfs".to_owned()
}

fn default_timeout_seconds() -> u64 {
    60
}

impl Config {
    /// Puts together what `amberfs mount` was given: the file, if any, with `--repo` and `--volumes` over it.
    pub fn for_mount(options: &MountOptions) -> Result<Self, DaemonError> {
        let mut config = Self::load(options.config.as_deref(), options.repo.as_deref())?;
        config.add_volumes(options.volumes.as_deref())?;
        config.mount.allow_other |= options.allow_other;
        config.check()?;
        Ok(config)
    }

    /// Makes a directory of images the source `local`.
    pub fn add_volumes(&mut self, volumes: Option<&Path>) -> Result<(), DaemonError> {
        if let Some(volumes) = volumes {
            let path = absolute(volumes)?;
            self.source.insert("local".to_owned(), SourceConfig::Dir { path });
        }
        Ok(())
    }

    /// Reads the file that is named, else the default one unless a repository directory is given.
    pub fn load(file: Option<&Path>, repo: Option<&Path>) -> Result<Self, DaemonError> {
        let mut config = match (file, repo) {
            (Some(file), _) => Self::read(file)?,
            (None, None) => Self::read(Path::new(CONFIG_PATH))?,
            (None, Some(_)) => Self::embedded(),
        };
        if let Some(repo) = repo {
            config.repository.url = format!("dir:{}", absolute(repo)?.display());
        }
        Ok(config)
    }

    fn read(path: &Path) -> Result<Self, DaemonError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| DaemonError::ConfigUnreadable { path: path.to_owned(), source })?;
        toml::from_str(&text)
            .map_err(|error| DaemonError::Config { path: path.to_owned(), why: error.to_string() })
    }

    /// What holds without a file.
    fn embedded() -> Self {
        Self {
            repository: RepositoryConfig {
                url: String::new(),
                index: None,
                compression: default_compression(),
                cache: default_cache(),
                refresh_seconds: default_refresh_seconds(),
            },
            limits: LimitsConfig::default(),
            trust: TrustConfig::default(),
            mount: MountConfig::default(),
            verify: VerifyConfig::default(),
            source: BTreeMap::new(),
            volume_type: BTreeMap::new(),
            project: BTreeMap::new(),
            incremental_without_parent: WithoutParentConfig::default(),
        }
    }

    /// What serde cannot see: names that do not fit together.
    fn check(&self) -> Result<(), DaemonError> {
        let invalid = |why: String| Err(DaemonError::InvalidConfig { why });
        for name in self.source.keys() {
            if let Err(error) = name.parse::<SourceName>() {
                return invalid(error.to_string());
            }
        }
        for (name, project) in &self.project {
            if let Err(error) = name.parse::<ProjectName>() {
                return invalid(error.to_string());
            }
            if let Some(source) =
                project.sources.iter().find(|source| !self.source.contains_key(source.as_str()))
            {
                return invalid(format!("project {name} has the source {source}, which is not configured"));
            }
        }
        if self.source.is_empty() {
            return invalid("no source is given: add one to the configuration, or name a directory of images with --volumes".to_owned());
        }
        if self.trust.sample_blocks > SAMPLE_BLOCKS_MAX {
            return invalid(format!(
                "trust.sample_blocks is more than {SAMPLE_BLOCKS_MAX}: set trust.reread_within lower to read more again"
            ));
        }
        if self.limits.max_operations == 0 {
            return invalid("limits.max_operations is 0: nothing could ever run".to_owned());
        }
        if self.verify.parallel == 0 {
            return invalid("verify.parallel is 0: nothing could ever be verified".to_owned());
        }
        Ok(())
    }

    pub fn compression(&self) -> Result<Compression, DaemonError> {
        self.repository.compression.parse().map_err(|why| DaemonError::InvalidConfig { why })
    }
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf, DaemonError> {
    std::path::absolute(path)
        .map_err(|source| DaemonError::ConfigUnreadable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_the_contract_is_read() {
        let text = r#"
            [repository]
            url = "dir:/var/lib/amberfs"
            index = "/var/lib/amberfs/index"
            compression = "zstd:3"
            cache = "512MiB"
            [limits]
            max_operations = 15
            memory = "1GiB"
            [source.rbd]
            type = "rbd"
            conf = "/etc/ceph/ceph.conf"
            user = "amberfs"
            pool = "volumes"
            namespace = ""
            [source.local]
            type = "dir"
            path = "/srv/volumes"
            [volume_type.standard]
            source = "rbd"
            data_pool = ""
            object_size = "4MiB"
            [project.default]
            sources = ["rbd", "local"]
            uid = 0
            gid = 0
            quota = { backups = 10, backup_gigabytes = 1000, volumes = 10, gigabytes = 1000 }
        "#;
        let config: Config = toml::from_str(text).unwrap();
        config.check().unwrap();
        assert_eq!(config.project["default"].quota.backups, 10);
        assert_eq!(config.volume_type["standard"].object_size, Some(ByteSize(4 * MIB)));
        assert_eq!(config.compression().unwrap(), Compression::Zstd { level: 3 });
    }

    #[test]
    fn a_control_group_has_a_name_or_a_number() {
        let group = |text: &str| {
            let config: MountConfig = toml::from_str(&format!("control_group = {text}")).unwrap();
            config.control_group.unwrap()
        };
        assert_eq!(group("\"backup\""), GroupConfig::Name("backup".to_owned()));
        assert_eq!(group("1000"), GroupConfig::Id(1000));
        assert!(toml::from_str::<MountConfig>("control_group = -1").is_err());
    }

    #[test]
    fn a_misspelt_key_is_an_error() {
        let text = "[repository]\nurl = \"dir:/r\"\ncompresion = \"none\"";
        assert!(toml::from_str::<Config>(text).is_err());
    }
}
