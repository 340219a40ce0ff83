//! What a run found out: readable lines, or one JSON object with the same names.

use std::fmt;

use hdrhistogram::Histogram;
use serde_json::{Map, Value};

use crate::load::observe::Sample;
use crate::load::progress::Point;

/// Named figures in the order in which they are shown.
#[derive(Debug, Default)]
pub(crate) struct Report {
    lines: Vec<(&'static str, Value)>,
    /// What the JSON has and the summary has not.
    details: Vec<(&'static str, Value)>,
    warnings: Vec<String>,
    violations: Vec<String>,
    violation_count: u64,
    /// How much was done over time.
    pub(crate) points: Vec<Point>,
    /// Latency of the messages that were measured.
    pub(crate) latency: Option<Histogram<u64>>,
}

/// Violations that are kept word for word; the others are counted.
const VIOLATIONS_KEPT: usize = 20;

impl Report {
    /// An empty report.
    pub(crate) fn new() -> Report {
        Report::default()
    }

    /// Adds a figure.
    pub(crate) fn add(&mut self, name: &'static str, value: impl Into<Value>) {
        self.lines.push((name, value.into()));
    }

    /// Adds what programs want to know, to the JSON alone.
    pub(crate) fn add_detail(&mut self, name: &'static str, value: impl Into<Value>) {
        self.details.push((name, value.into()));
    }

    /// Says that figures may not mean what they seem to.
    pub(crate) fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// Adds a figure with as many digits as mean something.
    pub(crate) fn add_rounded(&mut self, name: &'static str, value: f64) {
        self.add(name, (value * 1_000.0).round() / 1_000.0);
    }

    /// Adds the quantiles of latencies in nanoseconds, as microseconds, and keeps all of them for the plot.
    pub(crate) fn add_latency(&mut self, latency: Histogram<u64>) {
        self.add_quantiles(
            &latency,
            ["latency_p50_us", "latency_p99_us", "latency_p99.9_us", "latency_max_us"],
        );
        self.latency = Some(latency);
    }

    /// Adds the median, 99 %, 99.9 % and the worst of latencies in nanoseconds, as microseconds.
    pub(crate) fn add_quantiles(&mut self, latency: &Histogram<u64>, names: [&'static str; 4]) {
        for (name, quantile) in names.into_iter().zip([0.5, 0.99, 0.999, 1.0]) {
            self.add_rounded(name, latency.value_at_quantile(quantile) as f64 / 1_000.0);
        }
    }

    /// Adds what the broker had the kernel write to devices, over `count` of something, where that can be seen.
    pub(crate) fn add_written(&mut self, before: &Usage, after: &Usage, count: u64, name: &'static str) {
        if let (Some(before), Some(after)) = (before.broker, after.broker)
            && let (Some(before), Some(after)) = (before.written, after.written)
        {
            self.add_rounded(name, after.saturating_sub(before) as f64 / count.max(1) as f64);
        }
    }

    /// Adds what the broker's CPU and this tool's CPU cost, over `count` of something.
    pub(crate) fn add_cpu(&mut self, before: &Usage, after: &Usage, count: u64, names: [&'static str; 2]) {
        let per = |before: &Sample, after: &Sample| {
            after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1_000.0 / count.max(1) as f64
        };
        if let (Some(before), Some(after)) = (&before.broker, &after.broker) {
            self.add_rounded(names[0], per(before, after));
        }
        self.add_rounded(names[1], per(&before.own, &after.own));
    }

    /// Adds what the broker's memory grew by, over `count` of something.
    pub(crate) fn add_growth(&mut self, before: &Usage, after: &Usage, count: u64, names: [&'static str; 2]) {
        let each = |before: u64, after: u64| (after as f64 - before as f64) / count.max(1) as f64;
        if let (Some(before), Some(after)) = (&before.broker, &after.broker) {
            self.add_rounded(names[0], each(before.rss, after.rss));
            self.add_rounded(names[1], each(before.rss_anon, after.rss_anon));
        }
    }

    /// Notes that the broker did what it must not.
    pub(crate) fn violation(&mut self, text: impl Into<String>) {
        self.violation_count += 1;
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(text.into());
        }
    }

    /// How often [`Report::violation`] was called.
    pub(crate) const fn violation_count(&self) -> u64 {
        self.violation_count
    }

    /// The report as one line of JSON.
    pub(crate) fn to_json(&self) -> String {
        let mut object: Map<String, Value> = self
            .lines
            .iter()
            .chain(&self.details)
            .map(|(name, value)| ((*name).into(), value.clone()))
            .collect();
        object.insert("warnings".into(), self.warnings.clone().into());
        object.insert("violations".into(), self.violation_count.into());
        object.insert("violation_texts".into(), self.violations.clone().into());
        Value::Object(object).to_string()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let violations = ("violations", Value::from(self.violation_count));
        let lines = || self.lines.iter().chain(std::iter::once(&violations));
        let name_width = lines().map(|(name, _)| name.len()).max().unwrap_or(0);
        // A list takes a line for each of its items, and those have a width of their own.
        let values: Vec<Vec<String>> = lines()
            .map(|(_, value)| match value {
                Value::Array(items) => items.iter().map(readable_item).collect(),
                value => vec![readable(value)],
            })
            .collect();
        let alone = values.iter().filter(|values| values.len() == 1).flatten();
        let width = alone.map(String::len).max().unwrap_or(0);
        for ((name, _), values) in lines().zip(values) {
            let name = name.replace('_', " ").replace("cpu", "CPU").replace("rss", "RSS");
            for value in values {
                writeln!(f, "{name:name_width$}  {value:>width$}")?;
            }
        }
        for text in &self.warnings {
            writeln!(f, "WARNING: {text}")?;
        }
        for text in &self.violations {
            writeln!(f, "VIOLATION: {text}")?;
        }
        Ok(())
    }
}

/// An item of a list as people read it: what was measured, without what was not.
fn readable_item(item: &Value) -> String {
    let Value::Object(fields) = item else { return readable(item) };
    let known = fields.iter().filter(|(_, value)| !value.is_null());
    let fields: Vec<String> = known.map(|(name, value)| format!("{name} {}", readable(value))).collect();
    fields.join(", ").replace("rss", "RSS")
}

/// A value as people read it.
fn readable(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => match (value.as_u64(), value.as_f64()) {
            (Some(whole), _) => grouped(whole),
            (None, Some(number)) if number.abs() >= 1_000.0 => {
                format!("{}{}", if number < 0.0 { "-" } else { "" }, grouped(number.abs().round() as u64))
            }
            _ => value.to_string(),
        },
    }
}

/// A number in groups of three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).unwrap_or("")).collect();
    groups.join(",")
}

/// The broker, if we know its process, and this tool.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// The broker.
    pub(crate) broker: Option<Sample>,
    /// This tool.
    pub(crate) own: Sample,
}

impl Usage {
    /// Looks at the process `pid` and at this one.
    pub(crate) fn now(pid: Option<u32>) -> std::io::Result<Usage> {
        let broker = pid.map(crate::load::observe::sample).transpose()?;
        Ok(Usage { broker, own: crate::load::observe::sample(std::process::id())? })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_takes_a_short_line_for_each_item() {
        let mut report = Report::new();
        report.add("slab_bytes_per_connection_both_ends", 8_193);
        let step = |connections| json!({ "connections": connections, "rss": 410_000_000, "slab": null });
        report.add("steps", vec![step(1_000), step(100_000), step(1_000_000)]);
        report.warn("not fresh");
        let text = report.to_string();
        assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        let steps: Vec<_> = text.lines().filter(|line| line.starts_with("steps ")).collect();
        assert_eq!(steps.len(), 3, "{text}");
        assert!(steps[2].ends_with("  connections 1,000,000, RSS 410,000,000"), "{text}");
        assert!(text.ends_with("WARNING: not fresh\n"), "{text}");
    }

    #[test]
    fn numbers_are_readable() {
        let texts: Vec<String> = [
            Value::from(0),
            Value::from(999),
            Value::from(1_000),
            Value::from(12_345_678),
            Value::from(0.42),
            Value::from(-2_048),
            Value::from(1_777.4),
        ]
        .iter()
        .map(readable)
        .collect();
        assert_eq!(texts, ["0", "999", "1,000", "12,345,678", "0.42", "-2,048", "1,777"]);
    }
}
