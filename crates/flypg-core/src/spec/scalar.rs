//! What an unquoted word is: YAML 1.2, as `serde_yaml` reads it, and what other readers would take it for.

use super::tree::Scalar;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Boolean,
    Integer,
    Float,
    Text,
}

impl Scalar {
    pub(crate) fn kind(&self) -> Kind {
        if self.plain { kind_of_plain(&self.text) } else { Kind::Text }
    }

    /// Why this word, unquoted as it is, would be read differently by different programs.
    pub(crate) fn trap(&self) -> Option<Trap> {
        if !self.plain {
            return None;
        }
        let digits = self.text.strip_prefix(['-', '+']).unwrap_or(&self.text);
        if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
            return Some(Trap::LeadingZero);
        }
        match self.text.to_ascii_lowercase().as_str() {
            "on" | "yes" => Some(Trap::Boolean(true)),
            "off" | "no" => Some(Trap::Boolean(false)),
            _ if digits.starts_with("0x") || digits.starts_with("0o") || digits.starts_with("0b") => {
                (self.kind() == Kind::Integer).then_some(Trap::OtherBase)
            }
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trap {
    /// `010`: eight in YAML 1.1, ten or text in YAML 1.2.
    LeadingZero,
    /// `0x10`
    OtherBase,
    /// `on`, `no`: booleans in YAML 1.1, text in YAML 1.2.
    Boolean(bool),
}

fn kind_of_plain(text: &str) -> Kind {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let leading_zero = digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Kind::Boolean,
        _ if leading_zero => Kind::Text,
        _ if is_integer(digits) => Kind::Integer,
        _ if is_float(text, digits) => Kind::Float,
        _ => Kind::Text,
    }
}

/// `digits` without its sign.
fn is_integer(digits: &str) -> bool {
    let radix = |prefix: &str, radix: u32| {
        let rest = digits.strip_prefix(prefix)?;
        (!rest.is_empty() && rest.chars().all(|c| c.is_digit(radix))).then_some(())
    };
    let decimal = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // More digits than 128 bits hold are read as a float.
    (decimal && digits.parse::<u128>().is_ok())
        || radix("0x", 16).or_else(|| radix("0o", 8)).or_else(|| radix("0b", 2)).is_some()
}

fn is_float(text: &str, digits: &str) -> bool {
    match digits {
        ".inf" | ".Inf" | ".INF" => true,
        _ if matches!(text, ".nan" | ".NaN" | ".NAN") => true,
        _ if digits.starts_with(['+', '-']) => false,
        _ => digits.parse::<f64>().is_ok_and(f64::is_finite),
    }
}
