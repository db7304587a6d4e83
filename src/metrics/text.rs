//! The text format of Prometheus, version 0.0.4.

use std::fmt::{self, Write};

use super::{Counter, Histogram};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// Of a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    Count(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Count(value)
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Count(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Count(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(value) => value.fmt(f),
            Self::Real(value) => value.fmt(f),
        }
    }
}

/// A text that is being written, one family of metrics after the other.
#[derive(Debug, Default)]
pub struct MetricsText {
    text: String,
}

impl MetricsText {
    /// Begins a family: all samples of one name. The help is one line.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: &mut self.text, name }
    }

    /// Writes a counter without labels.
    pub fn counter(&mut self, name: &'static str, help: &str, counter: &Counter) {
        self.family(name, Kind::Counter, help).sample(&[], counter.get());
    }

    /// Writes a gauge without labels.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: impl Into<Value>) {
        self.family(name, Kind::Gauge, help).sample(&[], value);
    }

    pub fn into_string(self) -> String {
        self.text
    }
}

pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Family<'_> {
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        self.line("", labels, None, value.into());
    }

    pub fn histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let (buckets, count) = histogram.cumulated();
        for (bound, below) in buckets {
            self.line("_bucket", labels, Some(&bound.to_string()), below.into());
        }
        self.line("_bucket", labels, Some("+Inf"), count.into());
        self.line("_sum", labels, None, histogram.sum_seconds().into());
        self.line("_count", labels, None, count.into());
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], bound: Option<&str>, value: Value) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        let mut separator = '{';
        for (name, value) in labels {
            self.text.push(separator);
            self.text.push_str(name);
            self.text.push_str("=\"");
            self.text.extend(value.chars().map(Escaped::of).flat_map(Escaped::chars));
            self.text.push('"');
            separator = ',';
        }
        let end = if separator == ',' { "}" } else { "" };
        let _ = writeln!(self.text, "{end} {value}");
    }
}

/// A character of a label's value, as the format wants it.
enum Escaped {
    Plain(char),
    Behind(char),
}

impl Escaped {
    fn of(c: char) -> Self {
        match c {
            '\\' | '"' => Self::Behind(c),
            '\n' => Self::Behind('n'),
            _ => Self::Plain(c),
        }
    }

    fn chars(self) -> impl Iterator<Item = char> {
        let (backslash, c) = match self {
            Self::Plain(c) => (None, c),
            Self::Behind(c) => (Some('\\'), c),
        };
        backslash.into_iter().chain([c])
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::ByLabels;

    #[test]
    fn a_text_is_as_the_format_says() {
        let mut text = MetricsText::default();
        let counter = Counter::new();
        counter.add(u64::MAX);
        text.counter("a_total", "What a counts.", &counter);
        text.gauge("b_seconds", "How old b is.", 0.25);
        let mut family = text.family("c", Kind::Gauge, "Of each.");
        family.sample(&[("name", "a\\b\"c\nd"), ("other", "\u{e9}")], true);
        let expected = "# HELP a_total What a counts.\n# TYPE a_total counter\na_total 18446744073709551615\n\
             # HELP b_seconds How old b is.\n# TYPE b_seconds gauge\nb_seconds 0.25\n\
             # HELP c Of each.\n# TYPE c gauge\nc{name=\"a\\\\b\\\"c\\nd\",other=\"\u{e9}\"} 1\n";
        assert_eq!(text.into_string(), expected);
    }

    #[test]
    fn the_buckets_of_a_histogram_add_up() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        for millis in [0, 500, 501, 1000, 1001, 999_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut text = MetricsText::default();
        text.family("d_seconds", Kind::Histogram, "D.").histogram(&[("kind", "x")], &histogram);
        let expected = "# HELP d_seconds D.\n# TYPE d_seconds histogram\n\
             d_seconds_bucket{kind=\"x\",le=\"0.5\"} 2\nd_seconds_bucket{kind=\"x\",le=\"1\"} 4\n\
             d_seconds_bucket{kind=\"x\",le=\"+Inf\"} 6\nd_seconds_sum{kind=\"x\"} 1002.002\n\
             d_seconds_count{kind=\"x\"} 6\n";
        assert_eq!(text.into_string(), expected);
    }

    #[test]
    fn names_from_outside_do_not_make_series_without_end() {
        let counters: ByLabels<Counter, 1> = ByLabels::new(Counter::new);
        for number in 0..5000 {
            counters.with([&number.to_string()]).increment();
        }
        let (mut series, mut sum, mut others) = (0, 0, 0);
        counters.for_each(|[name], counter| {
            series += 1;
            sum += counter.get();
            others += if name == "other" { counter.get() } else { 0 };
        });
        assert_eq!((series, sum, others), (1001, 5000, 4000));
    }
}
