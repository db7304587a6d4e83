//! A strict reader of Prometheus's text format: refuses what Prometheus only warns of.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

/// Samples by name and labels, as in `name{label="value"}`.
pub struct Metrics {
    samples: BTreeMap<String, f64>,
    pub families: BTreeMap<String, String>,
}

impl Metrics {
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'));
        let mut metrics = Self { samples: BTreeMap::new(), families: BTreeMap::new() };
        let (mut family, mut help) = (String::new(), None);
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, text) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
                assert!(text.ends_with('.') && text.len() >= 8, "not a sentence: {line}");
                help = Some(name.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(help.take().as_deref(), Some(name), "help and type belong together");
                check_name(name, kind);
                family = name.to_owned();
                let before = metrics.families.insert(family.clone(), kind.to_owned());
                assert!(before.is_none(), "{name} comes twice");
            } else {
                metrics.add_sample(&family, line);
            }
        }
        metrics.check_histograms();
        metrics
    }

    fn add_sample(&mut self, family: &str, line: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
            None => (series, ""),
        };
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} stands below {family}"));
        let suffixes: &[&str] = match self.families[family].as_str() {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(suffixes.contains(&suffix), "{line} in a {}", self.families[family]);
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            assert!(is_name(name), "{line}");
            assert!(!value.trim_end_matches('"').contains(['\n', '"']), "{line}");
        }
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line} has no value"));
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let before = self.samples.insert(series.to_owned(), value);
        assert!(before.is_none(), "{series} comes twice");
    }

    /// Buckets grow, and the last one is the count.
    fn check_histograms(&self) {
        let mut last: BTreeMap<String, (f64, f64)> = BTreeMap::new();
        let mut buckets: Vec<(String, f64, f64)> = Vec::new();
        for (series, count) in &self.samples {
            let Some((name, labels)) = series.split_once("_bucket{") else { continue };
            let (others, bound) = labels.split_once("le=\"").unwrap();
            let bound = bound.strip_suffix("\"}").unwrap();
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
            let others = others.trim_end_matches(',');
            let whole = if others.is_empty() { name.to_owned() } else { format!("{name}{{{others}}}") };
            buckets.push((whole, bound, *count));
        }
        buckets.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        for (series, bound, count) in buckets {
            if let Some((_, before)) = last.insert(series.clone(), (bound, count)) {
                assert!(before <= count, "the buckets of {series} do not grow");
            }
        }
        for (series, (bound, count)) in last {
            assert!(bound.is_infinite(), "{series} has no last bucket");
            let name = match series.split_once('{') {
                Some((name, labels)) => format!("{name}_count{{{labels}"),
                None => format!("{series}_count"),
            };
            assert_eq!(self.samples[&name], count, "{name}");
        }
    }

    pub fn value(&self, series: &str) -> f64 {
        let value = self.samples.get(series).copied();
        value.unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples.keys()))
    }

    pub fn has(&self, series: &str) -> bool {
        self.samples.contains_key(series)
    }

    pub fn series(&self) -> impl Iterator<Item = &String> {
        self.samples.keys()
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// What Prometheus's own linter wants of a name, and a bit more.
fn check_name(name: &str, kind: &str) {
    let ours = name.strip_prefix("amberfs_").or_else(|| name.strip_prefix("process_"));
    assert!(is_name(name) && ours.is_some(), "{name}");
    assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
    assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
    let words: BTreeSet<&str> = name.split('_').collect();
    for other in ["ms", "millis", "milliseconds", "kb", "kib", "mib", "gib", "minutes", "hours", "days"] {
        assert!(!words.contains(other), "{name} is in no base unit");
    }
}

/// Runs Prometheus's own checker, where there is one; says whether it was there.
pub fn promtool(arguments: &[&str], input: &str) -> bool {
    let process =
        Command::new("promtool").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut process) = process else {
        eprintln!("promtool is not installed (Debian package prometheus): not asked");
        return false;
    };
    std::io::Write::write_all(&mut process.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    true
}
