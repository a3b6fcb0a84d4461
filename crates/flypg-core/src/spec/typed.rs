//! serde_yaml, kept in one place: it is no longer developed, quadratic on deep nesting, silent on duplicate keys in
//! maps, and stops at the first error. [`super::tree`] has refused all of that before text comes here.

use serde::Deserialize;

use super::diagnostics::{Code, Diagnostic};
use super::raw::PostgresCluster;
use super::source::Source;

/// The documents of `source`, each by itself. One that is not wanted costs nothing but its parsing.
///
/// `wanted[n]` is the name of the cluster in document `n`, if its shape was found good; of the others the answer is
/// `None`.
pub(crate) fn read(
    source: &Source<'_>,
    wanted: &[Option<&str>],
) -> Vec<Option<Result<PostgresCluster, Box<Diagnostic>>>> {
    let mut documents = serde_yaml::Deserializer::from_str(source.text);
    let read = |wanted: &Option<&str>| {
        let document = documents.next();
        wanted.map(|name| match document.map(PostgresCluster::deserialize) {
            Some(Ok(cluster)) if cluster.metadata.name.0 == name => Ok(cluster),
            Some(Err(error)) => Err(disagreement(source, Some(&error))),
            Some(Ok(_)) | None => Err(disagreement(source, None)),
        })
    };
    wanted.iter().map(read).collect()
}

/// Two readers of YAML differ on this file, so other programs may as well.
fn disagreement(source: &Source<'_>, error: Option<&serde_yaml::Error>) -> Box<Diagnostic> {
    let reason = error.map_or_else(|| "programs differ on where its documents end".to_owned(), ToString::to_string);
    let diagnostic = Diagnostic::error(Code::Syntax, source.file, format!("this is ambiguous YAML: {reason}"))
        .help("write it more plainly: one field per line, text in double quotes");
    let diagnostic = match error.and_then(serde_yaml::Error::location) {
        Some(location) => diagnostic.at(source.place(source.at(location.line(), location.column()), "")),
        None => diagnostic,
    };
    Box::new(diagnostic)
}
