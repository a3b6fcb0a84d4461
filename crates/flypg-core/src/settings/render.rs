//! Writing a `postgresql.conf`.

use std::collections::BTreeMap;

/// A value that no quoting can bring through a `postgresql.conf`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the value of `{parameter}` contains a control character ({character:?}), which a configuration file cannot hold"
)]
pub struct BadValue {
    pub parameter: String,
    pub character: char,
}

/// Newlines and other control characters are refused: PostgreSQL reads its configuration line by line.
pub fn check_value(parameter: &str, value: &str) -> Result<(), BadValue> {
    match value.chars().find(|c| c.is_control()) {
        None => Ok(()),
        Some(character) => Err(BadValue { parameter: parameter.to_owned(), character }),
    }
}

/// The text of a configuration file: one `name = 'value'` per line, in the order of names.
pub fn render(settings: &BTreeMap<String, String>) -> Result<String, BadValue> {
    let mut text = String::from(
        "# Written by flypg-agent; changes made here are overwritten. Set `postgres.parameters` in cluster.yaml instead.\n",
    );
    for (name, value) in settings {
        check_value(name, value)?;
        text.push_str(name);
        text.push_str(" = '");
        for c in value.chars() {
            // Inside quotes a quote is doubled, and a backslash would start an escape (guc-file.l, GUC_scanstr).
            if c == '\'' || c == '\\' {
                text.push(c);
            }
            text.push(c);
        }
        text.push_str("'\n");
    }
    Ok(text)
}
