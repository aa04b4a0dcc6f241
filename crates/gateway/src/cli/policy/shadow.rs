//! `policy shadow`: a bundle that answers beside the one in force, and decides nothing.

use super::{read, simulate::changes};
use crate::{
    admin::form::{BundleFiles, ShadowView},
    cli::{
        Shared,
        out::{Out, facts},
        stop::Stop,
    },
};
use serde_json::json;
use std::path::PathBuf;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Shadow {
    /// Let a bundle answer beside the one in force: checked as for activation.
    Set {
        /// The bundle's directory.
        dir: PathBuf,
    },
    /// Show what it answers otherwise.
    Show,
    /// End it.
    Stop,
}

impl Shadow {
    /// Does it.
    pub(super) async fn run(self, shared: &Shared, out: Out) -> Result<(), Stop> {
        let link = shared.link()?;
        let view: ShadowView = match self {
            Self::Set { dir } => {
                let files = read(&dir)?.to_files();
                link.post("/v1/policy/shadow", &BundleFiles { files }).await?
            }
            Self::Show => link.get("/v1/policy/shadow").await?,
            Self::Stop => link.post("/v1/policy/shadow/stop", &json!({})).await?,
        };
        out.show(&view, told)
    }
}

fn told(view: &ShadowView) -> String {
    let Some(shadow) = &view.shadow else { return "no shadow bundle is set".to_owned() };
    let facts = facts(&[
        ("digest", Some(shadow.digest.clone())),
        ("revision", Some(shadow.revision.to_string())),
        ("set", Some(format!("{} by {}", shadow.set_at, shadow.set_by))),
        ("does not answer", shadow.problem.clone()),
        ("counted since", Some(shadow.since.clone())),
        ("decisions", Some(shadow.compared.to_string())),
        ("otherwise", Some(shadow.changed.to_string())),
        ("not compared", Some(shadow.dropped).filter(|n| *n > 0).map(|n| n.to_string())),
    ]);
    let changes = changes(&shadow.rows, shadow.beyond);
    if changes.is_empty() { facts } else { format!("{facts}\n\n{changes}") }
}
