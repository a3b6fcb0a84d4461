use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::open::open_enum;

open_enum! {
    @type
    /// A Unix signal by name. Numbers are read too: fly-go's `Kill` sends 9.
    Signal {
        Hup = "SIGHUP",
        Int = "SIGINT",
        Quit = "SIGQUIT",
        Ill = "SIGILL",
        Trap = "SIGTRAP",
        Abrt = "SIGABRT",
        Fpe = "SIGFPE",
        Kill = "SIGKILL",
        Usr1 = "SIGUSR1",
        Segv = "SIGSEGV",
        Usr2 = "SIGUSR2",
        Pipe = "SIGPIPE",
        Alrm = "SIGALRM",
        Term = "SIGTERM",
    }
}

impl Signal {
    /// Linux's numbers.
    fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            1 => Self::Hup,
            2 => Self::Int,
            3 => Self::Quit,
            4 => Self::Ill,
            5 => Self::Trap,
            6 => Self::Abrt,
            8 => Self::Fpe,
            9 => Self::Kill,
            10 => Self::Usr1,
            11 => Self::Segv,
            12 => Self::Usr2,
            13 => Self::Pipe,
            14 => Self::Alrm,
            15 => Self::Term,
            _ => return None,
        })
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NameOrNumber;

        impl Visitor<'_> for NameOrNumber {
            type Value = Signal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a signal's name, or its number on Linux")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Signal, E> {
                Ok(Signal::from(name))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Signal, E> {
                Signal::from_number(number).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }
        }

        from.deserialize_any(NameOrNumber)
    }
}

/// Body of `POST …/signal`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignalMachine {
    pub signal: Signal,
}
