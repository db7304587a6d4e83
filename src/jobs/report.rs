//! What can be said of a job: the fields of `jobs/ID`, in the order and with the names of the contract.

use std::borrow::Cow;
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sysio::clock;
use crate::types::{Refusal, Timestamp};

/// Numbers the jobs from 1 on, for as long as the journal is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub(super) u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for JobId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Queued,
    Running,
    Done,
    Failed,
    Cancelled,
}

impl JobState {
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        })
    }
}

/// Whom a job concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSubject {
    pub backup: Option<String>,
    pub volume: Option<String>,
    pub project: String,
}

/// A job as it is at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    pub id: JobId,
    /// `backup`, `restore`, ...
    pub kind: Cow<'static, str>,
    pub state: JobState,
    pub backup: Option<String>,
    pub volume: Option<String>,
    pub project: String,
    pub bytes_done: u64,
    /// 0 until the job knows.
    pub bytes_total: u64,
    /// Over the recent seconds while the job runs, over all of it afterwards.
    pub bytes_per_second: u64,
    pub queued_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    #[serde(serialize_with = "write_refusal", deserialize_with = "read_refusal")]
    pub error: Option<Refusal>,
    /// What the job found or did, where its end alone does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    /// What has to be known though the job went well: what a restore had to leave out.
    #[serde(default)]
    pub warning: Option<String>,
}

impl JobReport {
    /// A job of which nothing is done yet.
    pub(super) fn queued(id: JobId, kind: &'static str, subject: JobSubject) -> Self {
        Self {
            id,
            kind: Cow::Borrowed(kind),
            state: JobState::Queued,
            backup: subject.backup,
            volume: subject.volume,
            project: subject.project,
            bytes_done: 0,
            bytes_total: 0,
            bytes_per_second: 0,
            queued_at: clock::now(),
            started_at: None,
            ended_at: None,
            error: None,
            result: None,
            warning: None,
        }
    }
}

fn write_refusal<S: Serializer>(error: &Option<Refusal>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(Refusal::to_string).serialize(serializer)
}

fn read_refusal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Refusal>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::RefusalKind;

    #[test]
    fn a_report_is_written_as_the_contract_says() {
        let report = JobReport {
            id: JobId(12),
            kind: "backup".into(),
            state: JobState::Failed,
            backup: None,
            volume: Some("rbd/v".into()),
            project: "default".into(),
            bytes_done: 1,
            bytes_total: 2,
            bytes_per_second: 3,
            queued_at: Timestamp::from_micros(0),
            started_at: None,
            ended_at: None,
            error: Some(Refusal::new(RefusalKind::Failed, "no more space")),
            result: None,
            warning: None,
        };
        let expected = concat!(
            r#"{"id":12,"kind":"backup","state":"failed","backup":null,"volume":"rbd/v","project":"default","#,
            r#""bytes_done":1,"bytes_total":2,"bytes_per_second":3,"queued_at":"1970-01-01T00:00:00.000000Z","#,
            r#""started_at":null,"ended_at":null,"error":"Failed: no more space","warning":null}"#,
        );
        assert_eq!(serde_json::to_string(&report).unwrap(), expected);
        assert_eq!(serde_json::from_str::<JobReport>(expected).unwrap(), report);
        assert_eq!("12".parse(), Ok(JobId(12)));
    }
}
