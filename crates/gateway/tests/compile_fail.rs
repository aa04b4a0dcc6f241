//! What must not compile: an upstream reached without a hold, a hold from anywhere but a
//! reservation, a permit reserved twice.
//!
//! `TRYBUILD=overwrite cargo test -p countersign --test compile_fail` renews the messages; that a
//! case fails for the right reason is for the reader of the change to see.

#[test]
fn nothing_reaches_an_upstream_without_a_hold() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
