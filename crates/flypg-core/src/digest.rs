//! Short digests, to compare values that are too long to repeat.

use sha2::{Digest, Sha256};

/// The first 16 hexadecimal digits of SHA-256: enough to tell versions of one thing apart, not to resist an attacker.
pub fn short(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().take(8).fold(String::with_capacity(16), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}
