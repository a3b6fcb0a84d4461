//! Rules of the failover protocol, each with a switch, so that a test can take one away and see that it is missed.
//!
//! Without the feature `mutants`, which nothing that ships has, every rule is in force and [`off`] is a constant.

#[cfg(feature = "mutants")]
mod switches {
    use std::cell::RefCell;

    thread_local! {
        static OFF: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// Takes these rules away, and gives all others back, on this thread.
    pub fn set(rules: &[&str]) {
        OFF.set(rules.iter().map(|rule| (*rule).to_owned()).collect());
    }

    /// True if this rule is taken away.
    pub fn off(rule: &str) -> bool {
        OFF.with_borrow(|off| off.iter().any(|taken| taken == rule))
    }
}

#[cfg(feature = "mutants")]
pub use switches::{off, set};

/// True if this rule is taken away.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn off(_rule: &str) -> bool {
    false
}
