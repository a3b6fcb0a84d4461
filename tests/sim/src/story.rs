//! What happened, in words.

use std::fmt::Write;

use crate::time::Time;

#[derive(Debug, Default)]
pub struct Story {
    told: bool,
    lines: Vec<(Time, String)>,
}

impl Story {
    pub fn new(told: bool) -> Self {
        Self { told, lines: Vec::new() }
    }

    pub fn tell(&mut self, now: Time, line: impl FnOnce() -> String) {
        if self.told {
            self.lines.push((now, line()));
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for (at, line) in &self.lines {
            let _ = writeln!(text, "{:>9.3} s  {line}", *at as f64 / 1e9);
        }
        text
    }
}
