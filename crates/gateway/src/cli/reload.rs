//! `reload`: the running gateway reads its configuration again.

use super::{
    link::Link,
    out::{Out, facts, note},
    stop::Stop,
};
use crate::admin::form::ReloadView;
use serde_json::json;

/// Has the gateway read its file again, and says what took effect.
pub(super) async fn run(link: &Link, out: Out) -> Result<(), Stop> {
    let done: ReloadView = link.post("/v1/reload", &json!({})).await?;
    for warning in done.warnings.iter().filter(|_| out == Out::Text) {
        note(&format!("warning: {warning}"));
    }
    out.show(&done, |done| {
        facts(&[("in force", Some(done.file.clone())), ("sha256", Some(done.digest.clone()))])
    })
}
