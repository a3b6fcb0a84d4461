//! `cluster.yaml`: parsed into checked types.
//!
//! Text becomes a tree that knows where everything stands ([`tree`]); the tree is held against the one description
//! of the shape ([`raw`], through its JSON Schema) so that every mistake is reported at once ([`shape`]); serde reads
//! the typed values ([`typed`]); and what a schema cannot say is checked on those ([`check`]).

mod check;
mod diagnostics;
mod mend;
mod preset;
mod raw;
mod regions;
mod scalar;
mod schema;
mod shape;
mod source;
mod suggest;
mod text;
mod tree;
mod typed;
mod types;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use diagnostics::{Code, Diagnostic, Diagnostics, Level, Place, Style};
pub use schema::schema;
pub use source::MAX_BYTES;
pub use types::*;

use crate::names::ClusterName;
use diagnostics::Report;
use mend::Faults;
use source::Source;
use tree::{Node, Value};

/// A value, and where it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    pub value: T,
    /// As the caller named it.
    pub file: String,
    /// Where the name of the value stands.
    pub place: Place,
}

/// What some files hold together.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// In the order of the files. None from a file that has an error.
    pub clusters: Vec<Located<ClusterSpec>>,
    /// The files that have an error, as the caller named them. What they ask for is not known, so that while there
    /// is one, a cluster nobody asks for may be one of theirs: it has not left the files.
    pub refused: BTreeSet<String>,
    /// Errors and warnings of all files, file by file.
    pub diagnostics: Diagnostics,
}

/// The clusters of one file, in order. Warnings are not errors; [`check_all`] tells them.
///
/// `file` is how diagnostics call it. `source` is YAML in UTF-8, at most 256 KiB, one cluster per document.
pub fn parse(file: &str, source: &[u8]) -> Result<Vec<Located<ClusterSpec>>, Diagnostics> {
    let checked = check_all(&[(file, source)]);
    if checked.refused.is_empty() { Ok(checked.clusters) } else { Err(checked.diagnostics) }
}

/// The clusters of several files, each given with its name, which must not ask for the same cluster twice.
///
/// Where two files do, neither is taken: which of them is meant cannot be known.
pub fn check_all<F: AsRef<str>, S: AsRef<[u8]>>(files: &[(F, S)]) -> Checked {
    let mut checked = Checked::default();
    let mut first: BTreeMap<ClusterName, (&str, Place)> = BTreeMap::new();
    for (file, source) in files {
        let file = file.as_ref();
        let mut report = Report::default();
        let clusters = read_file(file, source.as_ref(), &mut report);
        for cluster in &clusters {
            match first.get(&cluster.value.name) {
                None => {
                    first.insert(cluster.value.name.clone(), (file, cluster.place.clone()));
                }
                Some((earlier, place)) => {
                    checked.refused.insert((*earlier).to_owned());
                    report.add(duplicate(&cluster.value.name, place, &cluster.place));
                }
            }
        }
        if report.errors() > 0 {
            checked.refused.insert(file.to_owned());
        }
        checked.diagnostics.extend(report.finish(file));
        checked.clusters.extend(clusters);
    }
    checked.clusters.retain(|cluster| !checked.refused.contains(&cluster.file));
    checked
}

fn duplicate(name: &ClusterName, first: &Place, second: &Place) -> Diagnostic {
    Diagnostic::error(Code::DuplicateCluster, &second.file, format!("two clusters are called `{name}`"))
        .at(second.labelled("the second"))
        .related(first.labelled("the first"))
        .help("a name is a cluster's identity and that of its Fly app: rename one, or remove it")
}

/// The clusters of one file whose documents are good; of the others, the reasons go to `report`.
fn read_file(file: &str, bytes: &[u8], report: &mut Report) -> Vec<Located<ClusterSpec>> {
    let source = match Source::decode(file, bytes) {
        Ok(source) => source,
        Err(diagnostic) => {
            report.add(*diagnostic);
            return Vec::new();
        }
    };
    let documents = tree::read(&source, report);
    if documents.iter().all(is_empty) && report.errors() == 0 {
        let message = "this file holds no cluster";
        report.add(Diagnostic::new(Level::Warning, Code::Doubtful, file, message));
    }
    // What the tree refuses, another reader may not even take apart in the same way.
    let readable = report.errors() == 0;
    let mut good = Vec::with_capacity(documents.len());
    for document in &documents {
        let shaped = !is_empty(document) && {
            let faults = shape::check(&source, document, report);
            if !(readable && faults.is_empty())
                && let Some(raw) = mend::mended(document, &faults)
            {
                check::check(&source, document, &raw, &faults, report);
            }
            faults.is_empty()
        };
        let name = document.entry("metadata").and_then(|metadata| metadata.value.entry("name"));
        let name = name.and_then(|name| name.value.scalar()).map(|scalar| scalar.text.as_str());
        good.push(name.filter(|_| readable && shaped));
    }
    if !readable {
        return Vec::new();
    }
    let mut clusters = Vec::new();
    for (document, raw) in documents.iter().zip(typed::read(&source, &good)) {
        match raw {
            None => {}
            Some(Err(diagnostic)) => report.add(*diagnostic),
            Some(Ok(raw)) => {
                let place = source.place(document.span_of("metadata.name"), "");
                let spec = check::check(&source, document, &raw, &Faults::default(), report);
                clusters.extend(spec.map(|value| Located { value, file: file.to_owned(), place }));
            }
        }
    }
    clusters
}

/// Nothing between two `---`, or only comments.
fn is_empty(document: &Node) -> bool {
    match &document.value {
        Value::Scalar(scalar) => scalar.plain && scalar.text.is_empty(),
        _ => false,
    }
}
