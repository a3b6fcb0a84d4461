//! JSON bodies read the way Go's `encoding/json` reads them: unknown keys are ignored, `null` is absence, and a wrong
//! kind is refused with the text Go would give.

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// A JSON object with the name of the Go type it is meant for.
#[derive(Clone, Copy, Debug)]
pub struct Object<'a> {
    map: &'a Map<String, Value>,
    go_type: &'a str,
    path: &'a str,
}

/// Reads a whole body. `Ok(None)` when it is empty or `null`.
///
/// # Errors
/// 400 with Go's words when it is not JSON or not an object.
pub fn body(bytes: &[u8], go_type: &str) -> Result<Option<Map<String, Value>>, Refusal> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(Value::Null) => Ok(None),
        Ok(other) => Err(Refusal::bad_request(&format!(
            "json: cannot unmarshal {} into Go value of type {go_type}",
            go_kind(&other)
        ))),
        Err(error) if error.is_eof() => Err(Refusal::bad_request("unexpected EOF")),
        Err(error) => {
            let line = bytes.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1)).unwrap_or_default();
            let at = String::from_utf8_lossy(line).chars().nth(error.column().saturating_sub(1)).unwrap_or('?');
            Err(Refusal::bad_request(&format!("invalid character '{at}' looking for beginning of value")))
        }
    }
}

/// A body that must be there.
///
/// # Errors
/// As [`body`], and 400 `EOF` for an empty one.
pub fn required_body(bytes: &[u8], go_type: &str) -> Result<Map<String, Value>, Refusal> {
    body(bytes, go_type)?.ok_or_else(|| Refusal::bad_request("EOF"))
}

fn go_kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(number) => format!("number {number}"),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "array".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

impl<'a> Object<'a> {
    /// `go_type` is the bare type name, `path` the dotted place of this object in the body (may be empty).
    pub const fn new(map: &'a Map<String, Value>, go_type: &'a str, path: &'a str) -> Self {
        Self { map, go_type, path }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, value: &Value, wanted: &str) -> Refusal {
        let dot = if self.path.is_empty() { "" } else { "." };
        let kind = match value {
            Value::Number(number) if wanted.starts_with("int") || wanted.starts_with("uint") => {
                format!("number {number}")
            }
            Value::Number(_) => "number".to_owned(),
            other => go_kind(other),
        };
        Refusal::bad_request(&format!(
            "json: cannot unmarshal {kind} into Go struct field {}.{}{dot}{key} of type {wanted}",
            self.go_type, self.path
        ))
    }

    /// # Errors
    /// 400 when it is there and not a string (so for all below).
    pub fn string(&self, key: &str) -> Result<Option<&'a str>, Refusal> {
        self.get(key).map(|value| value.as_str().ok_or_else(|| self.wrong(key, value, "string"))).transpose()
    }

    /// # Errors
    /// 400 when it is there and not a boolean.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, Refusal> {
        self.get(key).map(|value| value.as_bool().ok_or_else(|| self.wrong(key, value, "bool"))).transpose()
    }

    /// # Errors
    /// 400 when it is there and not a whole number.
    pub fn integer(&self, key: &str) -> Result<Option<i64>, Refusal> {
        self.get(key).map(|value| value.as_i64().ok_or_else(|| self.wrong(key, value, "int"))).transpose()
    }

    /// # Errors
    /// 400 when it is there and not a whole number ≥ 0.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, Refusal> {
        self.get(key).map(|value| value.as_u64().ok_or_else(|| self.wrong(key, value, "uint64"))).transpose()
    }

    /// # Errors
    /// 400 when it is there and not an object.
    pub fn object(&self, key: &str, go_type: &str) -> Result<Option<&'a Map<String, Value>>, Refusal> {
        self.get(key).map(|value| value.as_object().ok_or_else(|| self.wrong(key, value, go_type))).transpose()
    }

    /// # Errors
    /// 400 when it is there and not an array.
    pub fn array(&self, key: &str, go_type: &str) -> Result<Option<&'a [Value]>, Refusal> {
        let read = |value: &'a Value| value.as_array().ok_or_else(|| self.wrong(key, value, go_type));
        self.get(key).map(|value| read(value).map(Vec::as_slice)).transpose()
    }

    /// # Errors
    /// 400 when it is there and not an array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<String>>, Refusal> {
        let Some(items) = self.array(key, "[]string")? else { return Ok(None) };
        let item = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| self.wrong(key, value, "string"));
        items.iter().map(item).collect::<Result<_, _>>().map(Some)
    }

    /// A Go duration: a string such as `"1m30s"`, or a number of nanoseconds. In milliseconds.
    ///
    /// # Errors
    /// 400 when it is neither.
    pub fn duration_ms(&self, key: &str) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value {
            Value::Number(number) if number.as_u64().is_some() => Ok(number.as_u64().map(|ns| ns / 1_000_000)),
            Value::String(text) => go_duration_ms(text)
                .map(Some)
                .ok_or_else(|| Refusal::bad_request(&format!("time: invalid duration \"{text}\""))),
            other => Err(self.wrong(key, other, "time.Duration")),
        }
    }
}

/// Parses a Go duration (`"300ms"`, `"1.5h"`, `"1m30s"`, `"0"`) to milliseconds.
#[must_use]
pub fn go_duration_ms(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-6,
            "us" | "µs" | "μs" => 1e-3,
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 60e3,
            "h" => 3600e3,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    Some(total.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [("10s", 10_000), ("1m30s", 90_000), ("1.5s", 1_500), ("300ms", 300), ("0", 0)] {
            assert_eq!(go_duration_ms(text), Some(ms), "{text}");
        }
        for bad in ["", "10", "s", "1x", "-1s", "1.2.3s"] {
            assert_eq!(go_duration_ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn texts_of_go() {
        let error = |bytes: &[u8]| body(bytes, "main.stopRequest").unwrap_err().error;
        assert_eq!(error(b"[]"), "json: cannot unmarshal array into Go value of type main.stopRequest");
        assert_eq!(error(b"{\"a\""), "unexpected EOF");
        assert_eq!(error(b"x"), "invalid character 'x' looking for beginning of value");
        assert_eq!(required_body(b" ", "x").unwrap_err().error, "EOF");
        let map = body(br#"{"ttl":"x","n":null}"#, "t").unwrap().unwrap();
        let object = Object::new(&map, "createLeaseRequest", "");
        assert_eq!(object.integer("n"), Ok(None));
        assert_eq!(
            object.integer("ttl").unwrap_err().error,
            "json: cannot unmarshal string into Go struct field createLeaseRequest.ttl of type int"
        );
    }
}
