//! Which scenario is tried where: `SCENARIOS.tsv`, read.

use std::path::Path;

use crate::table;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'t> {
    pub id: &'t str,
    pub title: &'t str,
    /// Where it is tried; empty where it is not.
    pub places: &'t str,
    /// `not yet: …`, `never: …`, or empty.
    pub missing: &'t str,
}

/// Lines of a map; those that begin with `#` are for people.
///
/// # Errors
/// The first line that does not have four columns.
pub fn read(text: &str) -> Result<Vec<Entry<'_>>, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let entry = |line| {
        let mut columns = str::split(line, '\t').map(|column| if column == "-" { "" } else { column });
        match (columns.next(), columns.next(), columns.next(), columns.next(), columns.next()) {
            (Some(id), Some(title), Some(places), Some(missing), None) => Ok(Entry { id, title, places, missing }),
            _ => Err(format!("not four columns: {line}")),
        }
    };
    lines.map(entry).collect()
}

/// What is wrong with an entry: something that is said to be there and is not.
#[must_use]
pub fn complaints(entry: &Entry<'_>, repository: &Path) -> Vec<String> {
    let mut all = Vec::new();
    if entry.places.is_empty() && entry.missing.is_empty() {
        all.push(format!("{}: neither tried nor a reason", entry.id));
    }
    if !entry.missing.is_empty() && !["not yet: ", "never: "].iter().any(|word| entry.missing.starts_with(word)) {
        all.push(format!("{}: {} says neither never nor not yet", entry.id, entry.missing));
    }
    let source = |path: &str| std::fs::read_to_string(repository.join(path)).unwrap_or_default();
    for place in entry.places.split_whitespace() {
        let there = match place.split_once(':') {
            Some(("fault", name)) => table::find(name).is_some(),
            Some(("sim", name)) => source("tests/sim/src/setup.rs").contains(&format!("Fault::{name},")),
            Some(("model", name)) => ["wal", "lease"]
                .iter()
                .any(|room| source(&format!("tests/model/src/{room}.rs")).contains(&format!("Mutant::{name}"))),
            _ => place.split_once("::").is_some_and(|(file, test)| is_a_test(&source(file), test)),
        };
        if !there {
            all.push(format!("{}: there is no {place}", entry.id));
        }
    }
    all
}

/// Whether this source has a test function of this name: the attribute stands within a few lines above it.
fn is_a_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let heads = [format!("fn {name}("), format!("async fn {name}(")];
    let at = lines.iter().position(|line| heads.iter().any(|head| line.starts_with(head.as_str())));
    let mark = |line: &&str| line.starts_with("#[test") || line.starts_with("#[tokio::test");
    at.is_some_and(|at| lines[at.saturating_sub(4)..at].iter().any(mark))
}
