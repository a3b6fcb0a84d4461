//! Plans in words. The only place where a [`crate::plan::Why`] or [`crate::plan::Until`] becomes a sentence.

mod page;
mod words;

pub use page::{Preview, json, markdown, text};
pub use words::{hold, promise, rule, step, until, verdict, why, work};

/// Whether text may carry ANSI colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Colour,
}

impl Paint {
    fn wrap(self, code: &str, text: &str) -> String {
        match self {
            Paint::Plain => text.to_owned(),
            Paint::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn warn(self, text: &str) -> String {
        self.wrap("33", text)
    }

    fn mark(self, mark: char) -> String {
        let code = match mark {
            '+' => "32",
            '-' => "31",
            _ => "33",
        };
        self.wrap(code, &mark.to_string())
    }
}
