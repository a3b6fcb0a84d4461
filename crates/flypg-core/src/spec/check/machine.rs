//! Fly's rules for a Machine's size (its Machines API refuses everything else with status 400).

use super::Checker;
use crate::spec::diagnostics::Code;
use crate::spec::preset::Fill;
use crate::spec::raw;
use crate::spec::text;
use crate::spec::types::{CpuKind, Guest};

/// What one kind of CPU comes in.
struct Rules {
    cpus: &'static [u32],
    /// Per CPU, in MB.
    least: u64,
    greatest: u64,
    multiple: u64,
}

const fn rules(kind: CpuKind) -> Rules {
    match kind {
        CpuKind::Shared => Rules { cpus: &[1, 2, 4, 6, 8], least: 256, greatest: 2048, multiple: 256 },
        CpuKind::Performance => {
            Rules { cpus: &[1, 2, 4, 6, 8, 10, 12, 14, 16], least: 2048, greatest: 8192, multiple: 2048 }
        }
    }
}

impl Checker<'_> {
    pub(super) fn guest(&mut self, given: Option<&raw::Machine>, fill: &Fill) -> Option<Guest> {
        if given.is_none() && fill.cpus.is_none() {
            self.missing("spec", "machine", "{ cpuKind: shared, cpus: 2, memory: 4GB }");
            return None;
        }
        let given = given.cloned().unwrap_or_default();
        let kind = match given.cpu_kind {
            Some(raw::CpuKind::Shared) => CpuKind::Shared,
            Some(raw::CpuKind::Performance) => CpuKind::Performance,
            None => fill.cpu_kind.unwrap_or(CpuKind::Shared),
        };
        let cpus = given.cpus.or(fill.cpus);
        let memory = given.memory.as_ref().and_then(|memory| text::megabytes(&memory.0)).or(fill.memory_mb);
        if cpus.is_none() {
            self.missing("spec.machine", "cpus", "2");
        }
        if memory.is_none() {
            self.missing("spec.machine", "memory", "4GB");
        }
        let rules = rules(kind);
        let cpus = cpus?;
        if !rules.cpus.contains(&cpus) {
            let message = format!("a Machine cannot have {cpus} {} CPUs", kind.as_str());
            let choices = rules.cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
            let help: Vec<_> = (kind == CpuKind::Shared && self::rules(CpuKind::Performance).cpus.contains(&cpus))
                .then(|| "`cpuKind: performance` comes with up to 16".to_owned())
                .into_iter()
                .collect();
            self.error(Code::BadValue, "spec.machine.cpus", message, format!("expected one of {choices}"), &help);
            return None;
        }
        self.memory(kind, cpus, memory?, &rules, given.memory.is_none())
    }

    fn memory(&mut self, kind: CpuKind, cpus: u32, memory: u64, rules: &Rules, preset: bool) -> Option<Guest> {
        let (least, greatest) = (rules.least * u64::from(cpus), rules.greatest * u64::from(cpus));
        let machine = format!("{}-{cpus}x", kind.as_str());
        // Without a `memory` of its own the rest of the machine does not suit the preset's.
        let (path, origin) = match preset {
            true => ("spec.machine", format!("the preset's {}", amount(memory))),
            false => ("spec.machine.memory", amount(memory)),
        };
        let expected = format!("expected {} to {}", amount(least), amount(greatest));
        if memory < least {
            let message = format!("{origin} is too little memory for {machine}");
            let help = format!("Fly gives a {} CPU at least {}", kind.as_str(), amount(rules.least));
            self.error(Code::BadValue, path, message, expected, &[help]);
        } else if memory > greatest {
            let message = format!("{origin} is too much memory for {machine}");
            let mut help = vec![format!("Fly gives a {} CPU at most {}", kind.as_str(), amount(rules.greatest))];
            if let Some(more) = rules.cpus.iter().find(|cpus| u64::from(**cpus) * rules.greatest >= memory) {
                help.push(format!("`cpus: {more}` would be enough"));
            }
            self.error(Code::BadValue, path, message, expected, &help);
        } else if !memory.is_multiple_of(rules.multiple) {
            let message = format!("memory for {} CPUs comes in steps of {}", kind.as_str(), amount(rules.multiple));
            let (below, above) = (memory / rules.multiple * rules.multiple, memory.next_multiple_of(rules.multiple));
            let choices: Vec<_> =
                [below, above].into_iter().filter(|m| (least..=greatest).contains(m)).map(amount).collect();
            self.error(Code::BadValue, path, message, format!("expected {}", choices.join(" or ")), &[]);
        } else {
            return Some(Guest { cpu_kind: kind, cpus, memory_mb: memory.try_into().ok()? });
        }
        None
    }
}

/// In the unit the file would use.
fn amount(megabytes: u64) -> String {
    match megabytes % 1024 {
        0 => format!("{}GB", megabytes / 1024),
        _ => format!("{megabytes}MB"),
    }
}
