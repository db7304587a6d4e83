//! `docs/operations.md`: its rules are ones that Prometheus takes, and speak of metrics that there are.

use std::collections::BTreeSet;
use std::fs;

use super::Watched;
use super::prometheus::promtool;

fn page() -> String {
    fs::read_to_string("docs/operations.md").unwrap()
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_metric = |word: &&str| word.starts_with("amberfs_") || word.starts_with("process_");
    let words = text.split(|c| !is_of_name(c)).filter(is_metric);
    // `process_` alone is how a family begins.
    words.filter(|word| !word.ends_with('_')).map(str::to_owned).collect()
}

#[test]
fn the_rules_are_taken_and_name_metrics_that_there_are() {
    let watched = Watched::start();
    watched.volume("v", 1, 1 << 20);
    watched.daemon.backup("v");
    let metrics = watched.metrics();
    let (_, rules) = page().split_once("```yaml\n").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let (rules, _) = rules.split_once("```").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("amberfs.rules.yml");
    fs::write(&path, rules).unwrap();
    promtool(&["check", "rules", path.to_str().unwrap()], "");
    assert!(rules.matches("- alert: ").count() >= 10);
    // Recorded or told, a name is one of a family, or of a histogram's parts.
    for name in named(&page()) {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let is_known = metrics.families.contains_key(&name)
            || family
                .is_some_and(|family| metrics.families.get(family).is_some_and(|kind| kind == "histogram"));
        assert!(is_known, "docs/operations.md names {name}, which is not in metrics");
    }
}

#[test]
fn there_is_an_answer_to_each_problem_that_is_shown() {
    let watched = Watched::start();
    let page = page();
    let metrics = watched.metrics();
    let problems = metrics.series().filter_map(|series| series.strip_prefix("amberfs_problems{what=\""));
    let mut count = 0;
    for problem in problems.map(|problem| problem.trim_end_matches("\"}")) {
        assert!(page.contains(&format!("`{problem}`")), "nothing is said of {problem}");
        count += 1;
    }
    assert!(count >= 9);
}
