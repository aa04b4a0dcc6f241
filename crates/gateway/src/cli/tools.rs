//! `tools`: definitions that are pinned, and a person's word on those that changed.

use super::{
    link::Link,
    out::{Out, table},
    stop::Stop,
};
use crate::admin::form::{Items, ToolName, ToolView};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Tools {
    /// List what tools say of themselves; with --waiting those that wait for a person.
    List {
        /// Only those that nobody has approved, or that changed.
        #[arg(long)]
        waiting: bool,
    },
    /// Show what changed since a definition was approved.
    Diff {
        /// `server/tool`.
        tool: String,
    },
    /// Approve what was seen of a tool last. Its grants stay suspended until they are resumed.
    Approve {
        /// `server/tool`.
        tool: String,
        /// Digest of the definition that was looked at: another one is not approved.
        #[arg(long)]
        digest: Option<String>,
    },
}

impl Tools {
    /// Does it.
    pub(super) async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::List { waiting } => {
                let found: Items<ToolView> =
                    link.list(&format!("/v1/tools?waiting={waiting}"), None).await?;
                out.show(&found, |found| lines(&found.items))
            }
            Self::Diff { tool } => {
                let all: Items<ToolView> = link.list("/v1/tools", None).await?;
                let found = all.items.into_iter().find(|view| view.tool == tool);
                let Some(view) = found else {
                    return Err(Stop::usage(format!("no tool `{tool}` was seen yet")));
                };
                out.show(&view, |view| match view.diff.is_empty() {
                    true => format!("{} is as it was", view.tool),
                    false => view.diff.join("\n"),
                })
            }
            Self::Approve { tool, digest } => {
                let approved: ToolView =
                    link.post("/v1/tools/approve", &ToolName { tool, digest }).await?;
                out.show(&approved, |view| format!("{} is {}", view.tool, view.status))
            }
        }
    }
}

fn lines(tools: &[ToolView]) -> String {
    let row = |view: &ToolView| {
        vec![
            view.tool.clone(),
            view.status.clone(),
            view.approved_by.clone().unwrap_or_default(),
            view.seen_at.clone(),
            view.digest.clone(),
        ]
    };
    let names = ["tool", "definition", "approved by", "seen", "digest"];
    table(&names, &tools.iter().map(row).collect::<Vec<_>>())
}
