use std::fmt::Write;

/// A path built segment by segment, each percent-encoded.
#[derive(Clone, Debug)]
pub(crate) struct Path(String);

impl Path {
    pub(crate) fn v1() -> Self {
        Self("/v1".to_owned())
    }

    /// `/v1/apps/{app}`
    pub(crate) fn app(app: &str) -> Self {
        Self::v1().then("apps").then(app)
    }

    /// `/v1/apps/{app}/machines/{machine}`
    pub(crate) fn machine(app: &str, machine: &str) -> Self {
        Self::app(app).then("machines").then(machine)
    }

    /// `/v1/apps/{app}/volumes/{volume}`
    pub(crate) fn volume(app: &str, volume: &str) -> Self {
        Self::app(app).then("volumes").then(volume)
    }

    /// Everything but RFC 3986's unreserved characters is encoded.
    pub(crate) fn then(mut self, segment: &str) -> Self {
        self.0.push('/');
        for byte in segment.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    self.0.push(char::from(byte));
                }
                _ => write!(self.0, "%{byte:02X}").expect("writing to a String cannot fail"),
            }
        }
        self
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

/// Whether the path arrives as it was meant. An empty segment, `.` and `..` name something else on the way (URL
/// parsers resolve dots even when they are percent-encoded), and a DELETE must not end up one level higher.
pub(crate) fn is_sendable(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|segment| !matches!(segment, "" | "." | "..")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_encoded() {
        let path = Path::machine("a/b", "ä?#%").then("wait").into_string();
        assert_eq!(path, "/v1/apps/a%2Fb/machines/%C3%A4%3F%23%25/wait");
    }

    #[test]
    fn empty_and_dotted_segments_are_not_sendable() {
        for name in ["", ".", ".."] {
            assert!(!is_sendable(&Path::app(name).into_string()), "{name:?}");
            assert!(!is_sendable(&Path::machine("orders-db", name).into_string()), "{name:?}");
        }
        assert!(is_sendable(&Path::app("...").into_string()));
        assert!(is_sendable(&Path::app("%2e%2e").into_string()));
    }
}
