//! What a schema cannot say: rules between fields, Fly's rules for sizes, presets and defaults.

mod lints;
mod machine;
mod parameters;
mod storage;

use std::collections::BTreeMap;

use super::diagnostics::{Code, Diagnostic, Level, Report, quoted};
use super::mend::Faults;
use super::preset::Fill;
use super::raw;
use super::source::{Source, Span};
use super::text::{self, ImageParts};
use super::tree::Node;
use super::types::{ClusterSpec, Deletion, Durability, FailoverSpec, PostgresSpec, Profile, ReconcileMode, RegionSpec};

/// Bytes an `async` failover may lose where the file does not say: one WAL segment.
const DEFAULT_MAX_LAG: u64 = 16 << 20;

/// Reports through paths: a rule names the field it is about, the tree knows where that stands.
struct Checker<'a> {
    source: &'a Source<'a>,
    document: &'a Node,
    /// What is not judged, because its shape is not good.
    faults: &'a Faults,
    report: &'a mut Report,
}

impl Checker<'_> {
    fn error(&mut self, code: Code, path: &str, message: impl AsRef<str>, label: impl Into<String>, help: &[String]) {
        let span = self.document.span_of(path);
        self.add(Level::Error, code, span, message, label, help);
    }

    fn warn(&mut self, path: &str, message: impl AsRef<str>, label: impl Into<String>, help: &[String]) {
        let span = self.document.span_of(path);
        self.add(Level::Warning, Code::Doubtful, span, message, label, help);
    }

    fn add(
        &mut self,
        level: Level,
        code: Code,
        span: Span,
        message: impl AsRef<str>,
        label: impl Into<String>,
        help: &[String],
    ) {
        let place = self.source.place(span, label);
        let diagnostic = Diagnostic::new(level, code, self.source.file, message).at(place);
        self.report.add(help.iter().fold(diagnostic, Diagnostic::help));
    }

    /// A field that has no value because there is no preset either.
    fn missing(&mut self, owner: &str, field: &str, example: &str) {
        let message = format!("`{field}` is missing from `{owner}`, and there is no preset to fill it");
        let help = format!("add `{field}: {example}`, or choose a `preset`: {}", Fill::CHOICES);
        self.error(Code::MissingField, owner, message, format!("expected `{field}` in here"), &[help]);
    }
}

/// The cluster that `raw` asks for, with everything filled in. `None` if an error was reported, or `faults` were.
pub(crate) fn check(
    source: &Source<'_>,
    document: &Node,
    raw: &raw::PostgresCluster,
    faults: &Faults,
    report: &mut Report,
) -> Option<ClusterSpec> {
    let before = report.errors();
    let mut checker = Checker { source, document, faults, report };
    let spec = checker.cluster(raw);
    if checker.report.errors() > before || !faults.is_empty() {
        return None;
    }
    match &spec {
        Some(spec) => checker.lint(raw, spec),
        // Every value was found good above, so this is never seen; a cluster must not vanish without a word.
        None => checker.error(Code::BadValue, "metadata.name", "this cluster cannot be understood", "", &[]),
    }
    spec
}

impl Checker<'_> {
    fn cluster(&mut self, raw: &raw::PostgresCluster) -> Option<ClusterSpec> {
        let spec = &raw.spec;
        let fill = spec.preset.map(Fill::of).unwrap_or_default();
        self.judge(&["metadata.labels"], |checker| checker.labels(raw));
        let primary = self
            .judge(&["spec.regions.primary", "spec.preset"], |checker| checker.primary(&spec.regions.primary, &fill));
        let replicas = self.replicas(&spec.regions);
        let guest = self.judge(&["spec.machine", "spec.preset"], |checker| checker.guest(spec.machine.as_ref(), &fill));
        let storage =
            self.judge(&["spec.storage", "spec.preset"], |checker| checker.storage(spec.storage.as_ref(), &fill));
        let postgres = self.postgres(&spec.postgres);
        if let Some(guest) = guest.iter().flatten().next() {
            self.buffers(&postgres.parameters, guest);
        }
        let primary = primary.flatten();
        let durability = self.judge(&["spec.durability"], |checker| {
            primary.as_ref().map(|primary| checker.durability(spec.durability, primary.nodes))
        });
        let failover = self.judge(&["spec.failover"], |checker| checker.failover(spec.failover.as_ref()));
        Some(ClusterSpec {
            name: raw.metadata.name.0.parse().ok()?,
            labels: raw.metadata.labels.clone().unwrap_or_default(),
            organization: spec.organization.0.clone(),
            postgres,
            primary: primary?,
            replicas: replicas?,
            guest: guest??,
            storage: storage??,
            durability: durability??,
            failover: failover??,
            flycast: spec.access.as_ref().and_then(|access| access.flycast).unwrap_or(true),
            deletion: match spec.deletion {
                None | Some(raw::Deletion::Protect) => Deletion::Protect,
                Some(raw::Deletion::RetainVolumes) => Deletion::RetainVolumes,
                Some(raw::Deletion::Delete) => Deletion::Delete,
            },
            reconcile: match spec.reconcile {
                None | Some(raw::Reconcile::Active) => ReconcileMode::Active,
                Some(raw::Reconcile::FailoverOnly) => ReconcileMode::FailoverOnly,
                Some(raw::Reconcile::Observe) => ReconcileMode::Observe,
                Some(raw::Reconcile::Stop) => ReconcileMode::Stop,
            },
        })
    }

    /// Judges a rule, if all it looks at has the right shape.
    fn judge<T>(&mut self, paths: &[&str], rule: impl FnOnce(&mut Self) -> T) -> Option<T> {
        paths.iter().all(|path| self.faults.spare(path)).then(|| rule(self))
    }

    /// Kubernetes' rules for label keys and values, without its prefixes; ours are kept for us.
    fn labels(&mut self, raw: &raw::PostgresCluster) {
        let Some(given) = &raw.metadata.labels else { return };
        let Some(labels) = self.document.entry("metadata").and_then(|m| m.value.entry("labels")) else { return };
        for entry in labels.value.entries() {
            let Some(value) = given.get(&entry.key) else { continue };
            let (key, key_span, value_span) = (&entry.key, entry.key_span, entry.value.span);
            if !is_label(key) || key.is_empty() {
                let message = format!("{} is not a label", quoted(key));
                let label =
                    "expected at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends";
                self.add(Level::Error, Code::BadValue, key_span, message, label, &[]);
            } else if key.starts_with("flypg_") || key.starts_with("fly_") {
                let message = format!("the label {} is not yours to set", quoted(key));
                self.add(Level::Error, Code::BadValue, key_span, message, "this prefix is reserved", &[]);
            }
            if !is_label(value) {
                let message = format!("{} is not the value of a label", quoted(value));
                let label =
                    "expected at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends";
                self.add(Level::Error, Code::BadValue, value_span, message, label, &[]);
            }
        }
    }

    fn primary(&mut self, primary: &raw::PrimaryRegion, fill: &Fill) -> Option<RegionSpec> {
        let nodes = primary.nodes.or(fill.nodes);
        if nodes.is_none() {
            self.missing("spec.regions.primary", "nodes", "3");
        }
        Some(RegionSpec { code: primary.code.0.parse().ok()?, nodes: nodes? })
    }

    fn replicas(&mut self, regions: &raw::Regions) -> Option<Vec<RegionSpec>> {
        let mut replicas: Vec<RegionSpec> = Vec::new();
        let mut seen: BTreeMap<&str, String> = BTreeMap::new();
        let primary = "spec.regions.primary.code";
        for (at, replica) in regions.replicas.iter().flatten().enumerate() {
            let path = format!("spec.regions.replicas.{at}.code");
            let code = replica.code.0.as_str();
            if !self.faults.spare(&path) {
                continue;
            }
            if code == regions.primary.code.0 && self.faults.spare(primary) {
                let message = format!("`{code}` is the primary region and a replica region");
                let help = "nodes in the primary region are replicas of the primary already; raise `primary.nodes`";
                self.twice(&path, primary, message, "not here too", "the primary region", help);
            } else if let Some(first) = seen.get(code).cloned() {
                let message = format!("the replica region `{code}` stands here twice");
                self.twice(&path, &first, message, "the second", "the first", "add their `nodes` up in one of them");
            }
            seen.entry(code).or_insert(path);
            replicas.push(RegionSpec { code: code.parse().ok()?, nodes: replica.nodes.unwrap_or(1) });
        }
        Some(replicas)
    }

    fn twice(&mut self, path: &str, first: &str, message: String, label: &str, first_label: &str, help: &str) {
        let place = self.source.place(self.document.span_of(path), label);
        let related = self.source.place(self.document.span_of(first), first_label);
        let diagnostic = Diagnostic::error(Code::Conflict, self.source.file, message);
        self.report.add(diagnostic.at(place).related(related).help(help));
    }

    fn postgres(&mut self, raw: &raw::Postgres) -> PostgresSpec {
        if let Some(image) = &raw.image {
            let both = ["spec.postgres.image", "spec.postgres.version"];
            self.judge(&both, |checker| checker.image(&image.0, raw.version));
        }
        let parameters = self.parameters(raw.parameters.as_ref());
        PostgresSpec { major: raw.version, image: raw.image.as_ref().map(|image| image.0.clone()), parameters }
    }

    /// Our own images are tagged with their major version, alone or followed by `.` or `-` and more.
    fn image(&mut self, image: &str, major: u8) {
        let Some(parts) = ImageParts::of(image) else { return };
        let ours = parts.repository == "flypg/postgres" || parts.repository.ends_with("/flypg/postgres");
        let (true, Some(tag)) = (ours, parts.tag) else { return };
        let tagged = tag.split(['.', '-']).next().and_then(|first| first.parse::<u8>().ok());
        if let Some(tagged) = tagged.filter(|tagged| *tagged != major) {
            let message = format!("the image is PostgreSQL {tagged}, and `version` is {major}");
            let help = "a major version changes the format of the data: both have to say the same".to_owned();
            let label = format!("expected `{}:{major}`", parts.repository);
            self.error(Code::Conflict, "spec.postgres.image", message, label, &[help]);
        }
    }

    fn durability(&mut self, given: Option<raw::Durability>, nodes: u32) -> Durability {
        match given {
            Some(raw::Durability::Quorum) if nodes < 2 => {
                let message = "`durability: quorum` needs a second node in the primary region";
                let label = "with one node no standby can confirm a commit: every write would wait for ever";
                let help = ["set `regions.primary.nodes` to 3".to_owned(), "or `durability: async`".to_owned()];
                self.error(Code::Conflict, "spec.durability", message, label, &help);
                Durability::Quorum
            }
            Some(raw::Durability::Quorum) => Durability::Quorum,
            Some(raw::Durability::QuorumAvailable) => Durability::QuorumAvailable,
            Some(raw::Durability::Async) => Durability::Async,
            None if nodes >= 3 => Durability::Quorum,
            None if nodes == 2 => Durability::QuorumAvailable,
            None => Durability::Async,
        }
    }

    fn failover(&mut self, given: Option<&raw::Failover>) -> Option<FailoverSpec> {
        Some(FailoverSpec {
            profile: match given.and_then(|failover| failover.profile) {
                Some(raw::Profile::Fast) => Profile::Fast,
                None | Some(raw::Profile::Balanced) => Profile::Balanced,
                Some(raw::Profile::Patient) => Profile::Patient,
            },
            read_fence: given.and_then(|failover| failover.read_fence) != Some(raw::ReadFence::Off),
            max_lag_bytes: match given.and_then(|failover| failover.max_lag.as_ref()) {
                Some(max_lag) => text::bytes(&max_lag.0)?,
                None => DEFAULT_MAX_LAG,
            },
        })
    }
}

/// Empty is a good value and no good key.
fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= 63
        && ends.iter().flatten().all(|b| b.is_ascii_alphanumeric())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
