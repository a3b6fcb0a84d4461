//! Every mistake that has a rule of its own, and the whole of what a person is told.

mod doubts;
mod fields;
mod files;
mod postgres;
mod values;
mod yaml;

use expect_test::Expect;

use super::diagnostics;
use crate::spec::Style;

fn check(text: impl AsRef<[u8]>, expected: Expect) {
    expected.assert_eq(&diagnostics(text.as_ref()).render(Style::Plain));
}
