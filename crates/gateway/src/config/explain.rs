//! What a configuration means, in sentences.

use super::Config;
/// x
#[must_use]
pub fn explain(_: &Config) -> Vec<String> {
    Vec::new()
}
