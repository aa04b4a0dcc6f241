//! `reload`: the running gateway reads its configuration again.

use super::{
    Shared,
    out::{Out, facts, note},
    stop::Stop,
};
use crate::admin::form::ReloadView;
use countersign_client::exit;
use serde_json::json;

/// Has the gateway read its file again, and says what took effect.
pub(super) async fn run(shared: &Shared, out: Out) -> Result<(), Stop> {
    let kept = "the running gateway was not asked, and goes on with what it has; mend the file";
    let link = shared.link().map_err(|stop| stop.next(kept))?;
    let moved = "where `data_dir` or `admin_socket` changed, that takes a new start; else name its \
                 socket with `--socket`";
    let done: Result<ReloadView, Stop> = link.post("/v1/reload", &json!({})).await;
    let done =
        done.map_err(|stop| if stop.exit() == exit::UPSTREAM { stop.next(moved) } else { stop })?;
    for warning in done.warnings.iter().filter(|_| out == Out::Text) {
        note(&format!("warning: {warning}"));
    }
    out.show(&done, |done| {
        facts(&[("in force", Some(done.file.clone())), ("sha256", Some(done.digest.clone()))])
    })
}
