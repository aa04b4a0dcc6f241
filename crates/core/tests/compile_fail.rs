//! What must not compile: a permit without each of its proofs, and a proof from anywhere but its
//! constructor.
//!
//! `TRYBUILD=overwrite cargo test -p countersign-core --test compile_fail` renews the messages;
//! that a case fails for the right reason is for the reader of the change to see.

#[test]
fn proofs_and_permits_come_from_their_constructors_alone() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
