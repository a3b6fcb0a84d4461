use std::fmt::Write;
use std::time::Duration;

use flypg_controller::events::{Event, read};
use flypg_controller::store::Store;

use super::status::{chosen, parse_name};
use crate::cli::{Events, TextOrJson};
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::terminal::Terminal;

/// Between two looks of `--follow`.
const INTERVAL: Duration = Duration::from_millis(250);

pub(crate) fn run(args: &Events, settings: &Settings, terminal: &Terminal) -> Result<Exit, CliError> {
    let name = parse_name(&args.cluster)?;
    let dir = settings.events();
    let store = Store::open_to_read(&settings.state)?;
    crate::runtime()?.block_on(async {
        let look = || read(&dir, &name).map_err(|source| CliError::Events { source });
        let mut told = look()?;
        if told.is_empty() {
            // One that left the files is still told of; one that never was is a mistake.
            chosen(store.specs().await?, Some(&name))?;
        }
        terminal.print(&text_of(args.output, &told))?;
        if !args.follow {
            return Ok(Exit::Done);
        }
        loop {
            tokio::time::sleep(INTERVAL).await;
            let now = look()?;
            let text = text_of(args.output, since(&told, &now));
            if !text.is_empty() {
                terminal.print(&text)?;
            }
            told = now;
        }
    })
}

/// What came after the last of `told`; all of it, if that is not kept any more.
fn since<'a>(told: &[Event], now: &'a [Event]) -> &'a [Event] {
    let Some(last) = told.last() else { return now };
    match now.iter().rposition(|event| event == last) {
        Some(at) => &now[at + 1..],
        None => now,
    }
}

fn text_of(output: TextOrJson, events: &[Event]) -> String {
    let mut text = String::new();
    for event in events {
        match output {
            TextOrJson::Json => {
                text.push_str(&serde_json::to_string(event).expect("an event has string keys only"));
                text.push('\n');
            }
            TextOrJson::Text => {
                let Event { at, what, message, .. } = event;
                let at = at.strftime("%Y-%m-%d %H:%M:%S%.3fZ");
                writeln!(text, "{at}  {:<16}  {message}", what.name()).expect("a String takes everything");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use flypg_controller::events::What;
    use flypg_core::Timestamp;

    use super::*;

    #[test]
    fn following_goes_on_after_the_last_that_was_told_also_when_the_file_began_anew() {
        let event = |at| Event {
            at: Timestamp::from_second(at).unwrap(),
            what: What::Done,
            node: None,
            epoch: None,
            message: String::new(),
        };
        let all: Vec<Event> = (0..5).map(event).collect();
        assert_eq!(since(&all[..3], &all), &all[3..]);
        assert_eq!(since(&[], &all), &all[..]);
        assert_eq!(since(&all, &all), &[]);
        assert_eq!(since(&all[..1], &all[3..]), &all[3..]);
        assert!(text_of(TextOrJson::Text, &all[1..2]).starts_with("1970-01-01 00:00:01.000Z  done "));
    }
}
