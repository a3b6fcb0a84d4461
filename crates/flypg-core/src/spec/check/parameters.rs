//! `postgres.parameters`: what PostgreSQL would refuse to start with is refused here, and what is ours.

use std::collections::BTreeMap;

use super::Checker;
use crate::settings;
use crate::spec::diagnostics::{Code, Diagnostic, Level, quoted};
use crate::spec::raw;
use crate::spec::source::Span;
use crate::spec::types::Guest;

/// Longer values are a mistake; PostgreSQL itself sets no limit.
const LONGEST_VALUE: usize = 4096;

impl Checker<'_> {
    /// By PostgreSQL's own spelling. Errors are reported, and what has one is left out.
    pub(super) fn parameters(&mut self, given: Option<&BTreeMap<String, raw::Parameter>>) -> BTreeMap<String, String> {
        let mut checked: BTreeMap<String, String> = BTreeMap::new();
        let mut seen: BTreeMap<String, Span> = BTreeMap::new();
        let Some(given) = given else { return checked };
        let entries = self.document.entry("spec").and_then(|spec| spec.value.entry("postgres"));
        let Some(entries) = entries.and_then(|postgres| postgres.value.entry("parameters")) else { return checked };
        for entry in entries.value.entries() {
            let Some(raw::Parameter(value)) = given.get(&entry.key) else { continue };
            let (name, span) = (entry.key.to_ascii_lowercase(), entry.key_span);
            if let Some(&first) = seen.get(&name) {
                let message = format!("the parameter `{name}` stands here twice");
                let diagnostic = Diagnostic::error(Code::DuplicateKey, self.source.file, message)
                    .at(self.source.place(span, "the second"))
                    .related(self.source.place(first, "the first"))
                    .help("PostgreSQL does not tell upper and lower case apart in a parameter's name");
                self.report.add(diagnostic);
                continue;
            }
            seen.insert(name.clone(), span);
            if settings::check_name(&name).is_err() {
                let message = format!("{} is not the name of a parameter", quoted(&entry.key));
                let label = "expected letters, digits and `_`, and one `.` after an extension's name";
                self.add(Level::Error, Code::BadValue, span, message, label, &[]);
            } else if let Some(reason) = settings::refused(&name) {
                let message = format!("the parameter `{name}` is not yours to set");
                self.add(Level::Error, Code::BadValue, span, message, reason, &["remove it".to_owned()]);
            } else if self.value(&name, value, entry.value.span) {
                checked.insert(name, value.clone());
            }
        }
        checked
    }

    /// A Machine that cannot hold its shared buffers does not start PostgreSQL at all.
    pub(super) fn buffers(&mut self, parameters: &BTreeMap<String, String>, guest: &Guest) {
        let Some(value) = parameters.get("shared_buffers") else { return };
        let memory = u64::from(guest.memory_mb) << 20;
        if memory_in_bytes(value, 8192).is_none_or(|buffers| buffers < memory) {
            return;
        }
        let entries = self.document.entry("spec").and_then(|spec| spec.value.entry("postgres"));
        let entries = entries.and_then(|postgres| postgres.value.entry("parameters"));
        let mut entries = entries.map_or(&[][..], |parameters| parameters.value.entries()).iter();
        let Some(entry) = entries.find(|entry| entry.key.eq_ignore_ascii_case("shared_buffers")) else { return };
        let message = format!("`shared_buffers` of {} does not fit into a {guest}", quoted(value));
        let label = format!("expected less than {}MB", guest.memory_mb);
        let help = "without it, it follows the memory of the machine".to_owned();
        self.add(Level::Error, Code::Conflict, entry.value.span, message, label, &[help]);
    }

    fn value(&mut self, name: &str, value: &str, span: Span) -> bool {
        let complaint = if settings::check_value(name, value).is_err() {
            Some(("expected one line without control characters".to_owned(), vec![]))
        } else if let Some(reason) = settings::refused_value(name, value) {
            Some((reason.to_owned(), vec![]))
        } else if value.len() > LONGEST_VALUE {
            Some((format!("expected at most {LONGEST_VALUE} bytes"), vec![]))
        } else if let Some(unit) = misspelt_unit(name, value) {
            let help = vec![
                format!("did you mean `{unit}`?"),
                "PostgreSQL tells upper and lower case apart in units: B, kB, MB, GB, TB, us, ms, s, min, h, d"
                    .to_owned(),
            ];
            Some(("this is not a unit of PostgreSQL's".to_owned(), help))
        } else if let Some((least, greatest)) = whole_number(name) {
            let number = value.parse().ok().filter(|n| (least..=greatest).contains(n));
            number.is_none().then(|| (format!("expected a whole number from {least} to {greatest}"), vec![]))
        } else {
            None
        };
        match complaint {
            Some((label, help)) => {
                let message = format!("`{name}` cannot be {}", quoted(value));
                self.add(Level::Error, Code::BadValue, span, message, label, &help);
                false
            }
            None => true,
        }
    }
}

/// Parameters every node has to agree on before it can be started, with PostgreSQL's own bounds. A standby whose value
/// is lower than its primary's stops, so a bad one costs more than itself.
fn whole_number(name: &str) -> Option<(u64, u64)> {
    match name {
        "max_connections" => Some((1, 262_143)),
        "max_prepared_transactions" | "max_worker_processes" => Some((0, 262_143)),
        "max_locks_per_transaction" => Some((10, 2_147_483_647)),
        _ => None,
    }
}

/// As PostgreSQL reads an amount of memory; a number without a unit counts `unit` bytes. `None` if it is none.
fn memory_in_bytes(value: &str, unit: u64) -> Option<u64> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = value.split_at(digits);
    let unit = match suffix.trim() {
        "" => unit,
        "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok().map(|number| number.saturating_mul(unit))
}

/// `16mb` or `1G`, with the unit as PostgreSQL spells it. Extensions may have units of their own.
fn misspelt_unit(name: &str, value: &str) -> Option<String> {
    const UNITS: [&str; 11] = ["B", "kB", "MB", "GB", "TB", "us", "ms", "s", "min", "h", "d"];
    let digits = value.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = value.split_at(digits);
    let unit = unit.trim();
    if name.contains('.') || digits == 0 || unit.is_empty() || UNITS.contains(&unit) {
        return None;
    }
    let meant = match unit.to_ascii_lowercase().as_str() {
        "k" | "kib" | "ki" => "kB",
        "m" | "mib" | "mi" => "MB",
        "g" | "gib" | "gi" => "GB",
        "t" | "tib" | "ti" => "TB",
        "sec" | "secs" | "second" | "seconds" => "s",
        "mins" | "minute" | "minutes" => "min",
        "hour" | "hours" => "h",
        "day" | "days" => "d",
        lower => UNITS.into_iter().find(|unit| unit.eq_ignore_ascii_case(lower))?,
    };
    Some(format!("{number}{meant}"))
}
