//! The configuration's file, read again.

use super::{actor::Actor, denied::Denied, form::ReloadView};
use crate::{config::Finding, reload::Gates};
use axum::{Extension, Json, extract::State};
use countersign_core::refusal::Code;

/// Puts the configuration in force that the file holds now.
pub(super) async fn reload(
    State(gates): State<Gates>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<ReloadView>, Denied> {
    actor.may_here()?;
    // It goes on when its caller has gone, so that log and memory say the same.
    let reloading = tokio::spawn(async move { gates.reload(&actor.text()).await });
    let done = reloading.await.map_err(|_panicked| Code::InternalFault)??;
    Ok(Json(ReloadView {
        file: done.read_from.file.display().to_string(),
        digest: done.read_from.digest.to_hex(),
        warnings: done.warnings.iter().map(Finding::to_string).collect(),
    }))
}
