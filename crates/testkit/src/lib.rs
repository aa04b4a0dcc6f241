//! The rules of the tree itself, as tests (`tests/arrows.rs`): which crate may depend on which, and
//! what every file keeps to. Home of whatever tests of several crates come to share. Never
//! published; other crates depend on it for their tests only.
