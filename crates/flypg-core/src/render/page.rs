//! A whole dry run: as text like Terraform's, as markdown for a pull request, as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::Timestamp;
use crate::names::NodeName;
use crate::observed::{Observed, Seen};
use crate::plan::{self, Action, Hold, Plan, Risk, Step, Why};
use crate::protocol::{Assignment, NodeReport, Task};
use crate::render::{Paint, words};
use crate::spec::ClusterSpec;

/// All that is shown of one cluster's dry run.
#[derive(Debug, Clone)]
pub struct Preview<'a> {
    pub spec: &'a ClusterSpec,
    pub observed: &'a Observed,
    /// From [`crate::plan::forecast`]; the first is what would be done now.
    pub turns: &'a [Plan],
}

/// One thing that a person is told.
struct Line {
    mark: char,
    what: String,
    why: String,
    risk: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    create: usize,
    change: usize,
    destroy: usize,
}

impl Preview<'_> {
    /// The lines of each turn. Telling nodes where the others are is put into one line a turn: it follows from the
    /// rest, and a list of it would hide the rest.
    fn lines(&self) -> Vec<Vec<Line>> {
        let mut world = self.observed.clone();
        let mut turns = Vec::new();
        for turn in self.turns {
            let mut lines = Vec::new();
            let mut routed = Vec::new();
            for step in turn.changes() {
                match &step.action {
                    Action::Assign { machine, assignment, .. } => match told(&world, machine, assignment, &step.why) {
                        Some((what, why)) => lines.push(Line { mark: '~', what, why: why.to_owned(), risk: None }),
                        None => routed.push(assignment.node.to_string()),
                    },
                    Action::Decide { decree, .. } if step.why == Why::MembersChanged => {
                        lines.push(line(step, '~', words::members(decree)));
                    }
                    action => {
                        let (mark, what) = words::action(action);
                        lines.push(line(step, mark, what));
                    }
                }
            }
            if !routed.is_empty() {
                let what = format!("{}: addresses and roles of the others", routed.join(", "));
                lines.push(Line { mark: '~', what, why: "so that they route and keep WAL".to_owned(), risk: None });
            }
            for step in &turn.steps {
                plan::apply(&mut world, &step.action, Timestamp::UNIX_EPOCH);
            }
            turns.push(lines);
        }
        turns
    }

    fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for step in self.turns.iter().flat_map(Plan::changes) {
            match &step.action {
                action if action.creates() => summary.create += 1,
                action if action.destroys() => summary.destroy += 1,
                _ => summary.change += 1,
            }
        }
        summary
    }

    fn now(&self) -> Option<&Plan> {
        self.turns.first()
    }

    /// What will still be held when everything that can be done is done.
    fn left(&self) -> &[Hold] {
        self.turns.last().map_or(&[], |turn| &turn.holds)
    }

    /// What is waited for now and will end by itself.
    fn waits(&self) -> impl Iterator<Item = &Hold> {
        self.now().into_iter().flat_map(|turn| &turn.holds).filter(|hold| !self.left().contains(hold))
    }

    fn converged(&self) -> bool {
        self.now().is_some_and(Plan::is_quiet)
    }
}

fn line(step: &Step, mark: char, what: String) -> Line {
    let risk = match (step.risk, step.pauses_writes_ms) {
        (Risk::None, None) => None,
        (_, Some(ms)) => Some(format!("writes pause for about {:.1} s", ms as f64 / 1000.0)),
        (Risk::Restart, None) => Some("its connections are cut".to_owned()),
        (Risk::Failover, None) => Some("another node takes over".to_owned()),
        (Risk::DataLoss, None) => Some("its data are gone for good".to_owned()),
    };
    Line { mark, what, why: words::why(&step.why), risk }
}

/// What is new for the node in this assignment, and why; `None` if it is only where the others are.
fn told(world: &Observed, machine: &str, assignment: &Assignment, why: &Why) -> Option<(String, &'static str)> {
    let node = &assignment.node;
    match (&assignment.task, why) {
        (_, Why::OthersChanged) => None,
        (_, Why::FileChanged) => {
            let report = world.reports.get(machine).and_then(Seen::known)?;
            Some((parameters(report, node, assignment)?, "the file says so"))
        }
        (Task::Bootstrap { .. }, _) => Some((words::task(node, &assignment.task), "initdb")),
        (Task::Follow { primary, .. }, Why::NotTold) => {
            Some((format!("{node} follows {primary}"), "after a clone, where its volume is blank"))
        }
        (task, _) => Some((words::task(node, task), "as on record")),
    }
}

fn parameters(report: &NodeReport, node: &NodeName, assignment: &Assignment) -> Option<String> {
    let (old, new) = (&report.postgres.as_ref()?.parameters, &assignment.parameters);
    let mut changes = Vec::new();
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        match (old.get(name), new.get(name)) {
            (Some(was), Some(is)) if was != is => changes.push(format!("{name} {was} → {is}")),
            (None, Some(is)) => changes.push(format!("{name} = {is}")),
            (Some(was), None) => changes.push(format!("{name} {was} → default")),
            _ => {}
        }
    }
    (!changes.is_empty()).then(|| format!("{node}: {}", changes.join(", ")))
}

/// Like Terraform's plan: `+ ~ -`, one line per step with its why, holds, a summary.
pub fn text(preview: &Preview<'_>, paint: Paint) -> String {
    let mut page = format!("{}: {}\n", paint.bold(preview.spec.name.as_str()), headline(preview));
    for (index, lines) in preview.lines().iter().enumerate().filter(|(_, lines)| !lines.is_empty()) {
        let _ = writeln!(page, "\n  {}", paint.dim(if index == 0 { "now" } else { "then" }));
        for Line { mark, what, why, risk } in lines {
            let _ = write!(page, "    {} {what}  {}", paint.mark(*mark), paint.dim(&format!("({why})")));
            let _ = match risk {
                Some(risk) => writeln!(page, "  {}", paint.warn(risk)),
                None => writeln!(page),
            };
        }
    }
    section(&mut page, "waiting now", preview.waits(), |text| paint.dim(text));
    section(&mut page, "held", preview.left().iter(), |text| paint.warn(text));
    if preview.turns.iter().any(|turn| turn.changes().next().is_some()) {
        let Summary { create, change, destroy } = preview.summary();
        let _ = writeln!(
            page,
            "\n{}",
            paint.bold(&format!("{create} to create, {change} to change, {destroy} to destroy"))
        );
        let _ = writeln!(page, "{}", paint.dim(&words::promise(preview.spec)));
    }
    page
}

fn section<'a>(page: &mut String, title: &str, holds: impl Iterator<Item = &'a Hold>, paint: impl Fn(&str) -> String) {
    for (index, hold) in holds.enumerate() {
        if index == 0 {
            let _ = writeln!(page, "\n  {}", paint(title));
        }
        let _ = writeln!(page, "    ! {}", words::hold(hold));
    }
}

fn headline(preview: &Preview<'_>) -> String {
    if preview.converged() {
        return "nothing to do, the cluster is as the file says".to_owned();
    }
    match preview.now() {
        Some(now) => words::verdict(&now.verdict),
        None => "not planned".to_owned(),
    }
}

/// For a pull-request comment.
pub fn markdown(preview: &Preview<'_>) -> String {
    let mut page = format!("### `{}`\n\n{}\n", preview.spec.name, headline(preview));
    let turns = preview.lines();
    if turns.iter().any(|lines| !lines.is_empty()) {
        page.push_str("\n```diff\n");
        for (index, lines) in turns.iter().enumerate().filter(|(_, lines)| !lines.is_empty()) {
            let _ = writeln!(page, "# {}", if index == 0 { "now" } else { "then" });
            for Line { mark, what, why, risk } in lines {
                // `diff` highlights `!` where it has no colour for `~`.
                let mark = if *mark == '~' { '!' } else { *mark };
                let risk = risk.as_ref().map_or(String::new(), |risk| format!(", {risk}"));
                let _ = writeln!(page, "{mark} {what} ({why}{risk})");
            }
        }
        page.push_str("```\n");
    }
    let mut holds = |title: &str, holds: &mut dyn Iterator<Item = &Hold>| {
        for (index, hold) in holds.enumerate() {
            if index == 0 {
                let _ = writeln!(page, "\n**{title}**\n");
            }
            let _ = writeln!(page, "- {}", words::hold(hold));
        }
    };
    holds("Waiting now", &mut preview.waits());
    holds("Held", &mut preview.left().iter());
    if turns.iter().any(|lines| !lines.is_empty()) {
        let Summary { create, change, destroy } = preview.summary();
        let _ = writeln!(page, "\n**{create} to create, {change} to change, {destroy} to destroy**");
        let _ = writeln!(page, "\n_{}_", words::promise(preview.spec));
    }
    page
}

/// The object that `reconcile --dry-run -o json` prints for one cluster.
pub fn json(preview: &Preview<'_>) -> Value {
    let steps = |plan: &Plan| plan.changes().map(step).collect::<Vec<_>>();
    let now = preview.now();
    let holds = now.map_or(&[][..], |plan| &plan.holds);
    let Summary { create, change, destroy } = preview.summary();
    json!({
        "cluster": preview.spec.name,
        "converged": preview.converged(),
        "verdict": now.map(|plan| &plan.verdict),
        "steps": now.map(steps).unwrap_or_default(),
        "holds": holds.iter().map(hold).collect::<Vec<_>>(),
        "forecast": preview.turns.iter().skip(1).map(steps).collect::<Vec<_>>(),
        "held_at_last": preview.left().iter().map(hold).collect::<Vec<_>>(),
        "summary": { "create": create, "change": change, "destroy": destroy, "wait": holds.len() },
        "monthly_usd": { "before": Value::Null, "after": Value::Null },
    })
}

fn hold(hold: &Hold) -> Value {
    json!({ "what": words::work(&hold.what), "until": words::until(&hold.until), "waits": hold.until.is_wait() })
}

fn step(step: &Step) -> Value {
    let action = serde_json::to_value(&step.action).expect("an action has string keys only");
    let mut value = json!({
        "action": action["do"],
        "target": words::target(&step.action),
        "why": words::why(&step.why),
        "risk": step.risk,
    });
    if let Some(node) = step.action.node() {
        value["node"] = json!(node);
    }
    if let Some(pause) = step.pauses_writes_ms {
        value["pauses_writes_ms"] = json!(pause);
    }
    value
}
