//! Progress a person can follow, on stderr: one line per step as it is done, and on a terminal one more line, written
//! over, that says what is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flypg_controller::act::ActError;
use flypg_controller::turn::{Part, Turn, Witness};
use flypg_controller::words::{chain, gist};
use flypg_core::names::ClusterName;
use flypg_core::plan::{Action, Step};
use flypg_core::render;

use crate::terminal::Terminal;

/// Longer than most terminals are wide helps nobody.
const WIDEST: usize = 100;

#[derive(Debug)]
pub(crate) struct Progress {
    terminal: Terminal,
    /// Every line says whose it is.
    several: bool,
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    /// There is a line to be written over.
    live: bool,
    /// What each cluster waits for now, as those who turn for it say.
    waits: BTreeMap<ClusterName, BTreeMap<Part, Vec<String>>>,
    /// By step, in words: how it failed when it was last tried.
    failed: BTreeMap<String, String>,
    /// What was told once already, without its figures, where lines cannot be written over.
    told: BTreeSet<String>,
}

impl Progress {
    pub(crate) fn new(terminal: Terminal, several: bool) -> Self {
        Self { terminal, several, shown: Mutex::default() }
    }

    /// One line that stays.
    pub(crate) fn line(&self, cluster: &ClusterName, text: &str) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        self.wipe(&mut shown);
        self.terminal.say(&format!("{}{text}\n", self.whose(cluster)));
        self.rewrite(&mut shown);
    }

    /// Nothing is waited for any more.
    pub(crate) fn done(&self, cluster: &ClusterName) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        self.wipe(&mut shown);
        shown.waits.remove(cluster);
        self.rewrite(&mut shown);
    }

    /// Nothing more is told.
    pub(crate) fn interrupted(&self) {
        self.wipe(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether this is another outcome than the step had when it was last tried.
    fn is_news(&self, step: &str, result: &Result<(), ActError>) -> bool {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => shown.failed.remove(step).is_some(),
            Err(error) => {
                let error = gist(&chain(error));
                shown.failed.insert(step.to_owned(), error.clone()) != Some(error)
            }
        }
    }

    fn whose(&self, cluster: &ClusterName) -> String {
        if self.several { format!("{cluster}: ") } else { String::new() }
    }

    fn wipe(&self, shown: &mut Shown) {
        if std::mem::take(&mut shown.live) {
            self.terminal.say("\r\x1b[K");
        }
    }

    fn rewrite(&self, shown: &mut Shown) {
        let text: Vec<&str> = shown.waits.values().flat_map(BTreeMap::values).flatten().map(String::as_str).collect();
        if !self.terminal.live || text.is_empty() {
            return;
        }
        let mut line = format!("  {}", text.join(" · "));
        if line.chars().count() > WIDEST {
            line = line.chars().take(WIDEST - 1).chain(['…']).collect();
        }
        // Without line wrap: of two rows only one could be written over.
        self.terminal.say(&format!("\x1b[?7l{}\x1b[?7h", self.terminal.dim(&line)));
        shown.live = true;
    }
}

/// A sentence without the numbers in its brackets: how far it has come.
fn without_figures(text: &str) -> String {
    let mut inside = false;
    let mut keep = |c: &char| {
        inside = (inside || *c == '(') && *c != ')';
        !(inside && c.is_ascii_digit())
    };
    text.chars().filter(|c| keep(c)).collect()
}

impl Witness for Progress {
    fn planned(&self, turn: &Turn) {
        let cluster = &turn.plan.cluster;
        let waits = turn.holds().filter(|hold| hold.until.is_wait()).map(render::hold);
        let waits: Vec<String> = waits.collect();
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        self.wipe(&mut shown);
        if !self.terminal.live {
            for wait in &waits {
                if shown.told.insert(format!("{cluster} {}", without_figures(wait))) {
                    self.terminal.say(&format!("{}  {wait}\n", self.whose(cluster)));
                }
            }
        }
        shown.waits.entry(cluster.clone()).or_default().insert(turn.part, waits);
        self.rewrite(&mut shown);
    }

    fn ended(&self, cluster: &ClusterName, step: &Step, result: &Result<(), ActError>, took: Duration) {
        let what = render::step(step);
        let is_news = self.is_news(&format!("{cluster} {what}"), result);
        if !is_news && (result.is_err() || matches!(step.action, Action::Renew { .. })) {
            return;
        }
        let took = self.terminal.dim(&format!("({:.1}s)", took.as_secs_f64()));
        match result {
            Ok(()) => self.line(cluster, &format!("{what} {took}")),
            Err(error) if error.is_passing() => {
                self.line(cluster, &format!("{what}: {}, and will be tried again {took}", error.kind()));
            }
            Err(error) => {
                let mark = self.terminal.bold_red("!");
                self.line(cluster, &format!("{mark} {what}\n  {}: {}", error.kind(), chain(error)));
            }
        }
    }
}
