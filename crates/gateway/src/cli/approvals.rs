//! `approvals`: calls that wait for a person.

use super::{
    link::Link,
    out::{Out, facts, table},
    stop::Stop,
};
use crate::admin::form::{ApprovalView, Items, Reason};
use countersign_core::ids::ApprovalId;
use countersign_store::ApprovalStatus;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Approvals {
    /// List those that wait; with --all also those that ended a short while ago.
    List {
        /// Answered and expired ones too.
        #[arg(long)]
        all: bool,
    },
    /// Show one.
    Show {
        /// The approval.
        id: ApprovalId,
    },
    /// Say yes: the very call may run once.
    Approve {
        /// The approval.
        id: ApprovalId,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Say no.
    Deny {
        /// The approval.
        id: ApprovalId,
        /// Why; the agent is told.
        #[arg(long)]
        reason: Option<String>,
    },
}

impl Approvals {
    /// Does it.
    pub(super) async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::List { all } => {
                let query = if all { "" } else { "?status=pending" };
                let found: Items<ApprovalView> = link.get(&format!("/v1/approvals{query}")).await?;
                out.show(&found, |found| lines(&found.items))
            }
            Self::Show { id } => {
                let approval: ApprovalView = link.get(&format!("/v1/approvals/{id}")).await?;
                out.show(&approval, full)
            }
            Self::Approve { id, reason } => decide(link, out, id, "approve", reason).await,
            Self::Deny { id, reason } => decide(link, out, id, "deny", reason).await,
        }
    }
}

async fn decide(
    link: &Link,
    out: Out,
    id: ApprovalId,
    verb: &str,
    reason: Option<String>,
) -> Result<(), Stop> {
    let path = format!("/v1/approvals/{id}/{verb}");
    let decided: ApprovalView = link.post(&path, &Reason { reason }).await?;
    out.show(&decided, |decided| {
        let then = match decided.status {
            ApprovalStatus::Approved => {
                format!("; the same call may run once, until {}", decided.expires_at)
            }
            ApprovalStatus::Pending
            | ApprovalStatus::Denied
            | ApprovalStatus::Expired
            | ApprovalStatus::Consumed => String::new(),
        };
        format!("{} is {}{then}", decided.id, word(decided.status))
    })
}

fn word(status: ApprovalStatus) -> &'static str {
    match status {
        ApprovalStatus::Pending => "pending",
        ApprovalStatus::Approved => "approved",
        ApprovalStatus::Denied => "denied",
        ApprovalStatus::Expired => "expired",
        ApprovalStatus::Consumed => "used",
    }
}

fn lines(approvals: &[ApprovalView]) -> String {
    let row = |approval: &ApprovalView| {
        vec![
            approval.id.to_string(),
            word(approval.status).to_owned(),
            approval.tool.clone(),
            approval.intent.text().to_owned(),
            approval.price.clone(),
            approval.agent.to_string(),
            approval.delegator.to_string(),
            approval.expires_at.clone(),
        ]
    };
    let names = ["approval", "state", "tool", "intent", "price", "agent", "for", "until"];
    table(&names, &approvals.iter().map(row).collect::<Vec<_>>())
}

fn full(approval: &ApprovalView) -> String {
    facts(&[
        ("approval", Some(approval.id.to_string())),
        ("state", Some(word(approval.status).to_owned())),
        ("tool", Some(approval.tool.clone())),
        ("intent", Some(approval.intent.text().to_owned())),
        ("price", Some(approval.price.clone())),
        ("agent", Some(approval.agent.to_string())),
        ("for", Some(approval.delegator.to_string())),
        ("tenant", Some(approval.tenant.to_string())),
        ("call digest", Some(approval.call_digest.clone())),
        ("asked at", Some(approval.requested_at.clone())),
        ("until", Some(approval.expires_at.clone())),
        ("answered by", approval.approver.clone()),
        ("answered at", approval.decided_at.clone()),
        ("reason", approval.reason.clone()),
    ])
}
