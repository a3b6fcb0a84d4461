use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};

use flypg_controller::journal::Entry;
use flypg_controller::turn::Part;
use flypg_core::plan::Plan;
use flypg_core::render;

use crate::cli::Replay;
use crate::error::{CliError, Exit};
use crate::terminal::Terminal;

/// Plans every turn again, by what was seen then and what the file said then.
pub(crate) fn run(args: &Replay, terminal: &Terminal) -> Result<Exit, CliError> {
    let unreadable = |source| CliError::Lines { path: args.journal.clone(), source };
    let file = File::open(&args.journal).map_err(unreadable)?;
    let (mut lines, mut turns, mut differ) = (0_usize, 0_usize, 0_usize);
    for line in BufReader::new(file).lines() {
        let line = line.map_err(unreadable)?;
        lines += 1;
        // A line that is not whole was being written when its writer died.
        let Ok(entry) = serde_json::from_str::<Entry>(&line) else { continue };
        let Some(wanted) = &entry.wanted else { continue };
        turns += 1;
        let again = match entry.part {
            Part::Leadership => wanted.lead(&entry.observed, entry.at),
            Part::All | Part::Rest => wanted.plan(&entry.observed, entry.at),
        };
        let text = difference(&entry.plan, &again);
        if !text.is_empty() {
            differ += 1;
            terminal.print(&format!("{}  {}\n{text}", entry.at, render::verdict(&entry.plan.verdict)))?;
        }
    }
    if turns == 0 {
        let why = if lines == 0 { "it is empty" } else { "no line of it is a turn that this flypg can read" };
        return Err(CliError::NoJournal { path: args.journal.clone(), why });
    }
    terminal.print(&format!("{turns} turns, {differ} planned otherwise now\n"))?;
    Ok(if differ == 0 { Exit::Done } else { Exit::Pending })
}

/// What was planned and is not any more, and what is planned now; empty if nothing differs.
fn difference(then: &Plan, now: &Plan) -> String {
    if then == now {
        return String::new();
    }
    let (then, now) = (sentences(then), sentences(now));
    let gone = then.difference(&now).map(|line| format!("  then: {line}\n"));
    let new = now.difference(&then).map(|line| format!("  now:  {line}\n"));
    let text: String = gone.chain(new).collect();
    match text.is_empty() {
        true => "  the same in words, and not to the letter\n".to_owned(),
        false => text,
    }
}

fn sentences(plan: &Plan) -> BTreeSet<String> {
    let verdict = render::verdict(&plan.verdict);
    plan.steps.iter().map(render::step).chain(plan.holds.iter().map(render::hold)).chain([verdict]).collect()
}
