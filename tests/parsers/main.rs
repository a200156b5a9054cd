//! What the fuzz targets look for, on the stable toolchain and in seconds: the same properties (`fuzz/properties`) on the
//! seed corpus, on what comes of it by chance, and on values that are written and read back.
//!
//! An input that breaks a property belongs into `fuzz/corpus/<target>`, where [`corpus`] keeps it from breaking it again.

#[path = "../../fuzz/properties/lib.rs"]
mod properties;

mod chance;
mod corpus;
mod limits;
mod values;

use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// Holds `check` against as many values as `cases`, or as many as `PROPTEST_CASES` says; the smallest one that fails is told.
fn for_all<S: proptest::strategy::Strategy>(cases: u32, values: S, check: impl Fn(S::Value)) {
    let mut config = Config::with_cases(cases);
    if std::env::var_os("PROPTEST_CASES").is_some() {
        config = Config::default();
    }
    // No file beside the sources: what is found is told, and goes into the corpus or a test of its own.
    config.failure_persistence = None;
    let outcome = TestRunner::new(config).run(&values, |value| {
        check(value);
        Ok::<(), TestCaseError>(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
