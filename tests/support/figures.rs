//! What the benches print: one line a figure, with its target and whether it is met.

use std::time::Duration;

/// The figures of one bench.
#[derive(Debug)]
pub struct Figures {
    title: String,
    rows: Vec<[String; 4]>,
}

impl Figures {
    /// None yet.
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: vec![] }
    }

    /// A figure without a target.
    pub fn add(&mut self, name: &str, value: &str, note: &str) {
        self.row(name, value, note, "");
    }

    /// A figure that must not exceed a limit.
    pub fn limit(&mut self, name: &str, value: f64, unit: &str, limit: f64) {
        let verdict = if value <= limit { "met" } else { "MISSED" };
        self.row(name, &format!("{value:.2} {unit}"), &format!("≤ {limit} {unit}"), verdict);
    }

    /// A figure whose ratio to another of the same run must not exceed a limit.
    pub fn ratio(&mut self, name: &str, value: &str, ratio: f64, limit: f64) {
        let verdict = if ratio <= limit { "met" } else { "MISSED" };
        self.row(name, &format!("{value} ({ratio:.2}x)"), &format!("≤ {limit}x"), verdict);
    }

    fn row(&mut self, name: &str, value: &str, target: &str, verdict: &str) {
        eprintln!("{name}: {value} {verdict}");
        self.rows.push([name, value, target, verdict].map(str::to_owned));
    }

    /// Prints them as a table in Markdown.
    pub fn print(&self) {
        println!("\n### {}\n\n| figure | measured | target | |\n|---|---|---|---|", self.title);
        for row in &self.rows {
            println!("| {} |", row.join(" | "));
        }
    }
}

/// The value below which so many of a hundred lie.
pub fn percentile(values: &[Duration], percent: usize) -> Duration {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() - 1) * percent / 100]
}

/// A time as one reads it.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1000.0)
}
