//! `approvals`: calls that wait for a person.

use super::{
    link::Link,
    out::{Out, facts, table},
    stop::Stop,
};
use crate::admin::form::{
    ApprovalView, Caps, Items, Person, Reply, RiskView, Withdrawn, WithdrawnView,
};
use countersign_core::{approval::ApprovalStatus, ids::ApprovalId};

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
    /// Say yes: the very call may run once; with --expires: by a grant from now on.
    Approve(Yes),
    /// Say no.
    Deny {
        /// The approval.
        id: ApprovalId,
        /// Why; the agent is told.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Take no more answers of a person, and void those that were not used.
    Withdraw(Who),
    /// Take the answers of such a person again.
    Reinstate(Who),
    /// List those whose answers count no more.
    Withdrawn,
}

/// A person who answers.
#[derive(Debug, clap::Args)]
pub(super) struct Who {
    /// The issuer that knows them; none for a user of the admin socket.
    #[arg(long)]
    issuer: Option<String>,
    /// `sub`, or the user: `os:1000:ada`.
    subject: String,
}

impl Who {
    fn person(self) -> Person {
        Person { issuer: self.issuer, subject: self.subject }
    }
}

/// A yes.
#[derive(Debug, clap::Args)]
pub(super) struct Yes {
    /// The approval.
    id: ApprovalId,
    /// Why.
    #[arg(long)]
    reason: Option<String>,
    /// The content that was shown, if the answer shall count for nothing else.
    #[arg(long, value_name = "HEX")]
    content: Option<String>,
    /// Make a grant that lasts this long: `24h`, at most `30d`.
    #[arg(long, value_name = "SPAN")]
    expires: Option<String>,
    /// The most one call may cost under it; this call's price when absent.
    #[arg(long, value_name = "MONEY", requires = "expires")]
    per_call: Option<String>,
    /// The most all calls may cost under it.
    #[arg(long, value_name = "MONEY", requires = "expires")]
    total: Option<String>,
    /// Rolling limit, such as `1 USD/24h`; repeat for several.
    #[arg(long = "window", value_name = "MONEY/SPAN", requires = "expires")]
    windows: Vec<String>,
    /// The most calls under it.
    #[arg(long, requires = "expires")]
    max_calls: Option<u64>,
    /// What the grant is for.
    #[arg(long, requires = "expires")]
    purpose: Option<String>,
}

impl Yes {
    fn reply(self) -> Reply {
        let Self { expires, per_call, total, windows, max_calls, purpose, .. } = self;
        let purpose = purpose.unwrap_or_default();
        let grant = expires.map(|expires| Caps {
            per_call,
            total,
            windows,
            max_calls,
            expires,
            purpose,
            bounds: Default::default(),
        });
        Reply { reason: self.reason, content: self.content, grant }
    }
}

impl Approvals {
    /// Does it.
    pub(super) async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::List { all } => {
                let query = if all { "" } else { "?status=pending" };
                let found: Items<ApprovalView> =
                    link.list(&format!("/v1/approvals{query}"), None).await?;
                out.show(&found, |found| lines(&found.items))
            }
            Self::Show { id } => {
                let approval: ApprovalView = link.get(&format!("/v1/approvals/{id}")).await?;
                out.show(&approval, full)
            }
            Self::Approve(yes) => decide(link, out, yes.id, "approve", yes.reply()).await,
            Self::Deny { id, reason } => {
                decide(link, out, id, "deny", Reply { reason, ..Reply::default() }).await
            }
            Self::Withdraw(who) => {
                let done: Withdrawn = link.post("/v1/approvers/withdraw", &who.person()).await?;
                out.show(&done, |done| {
                    format!("Withdrawn; {} approvals wait again", done.approvals)
                })
            }
            Self::Reinstate(who) => {
                let done: Person = link.post("/v1/approvers/reinstate", &who.person()).await?;
                out.show(&done, |done| format!("{} may answer again", done.subject))
            }
            Self::Withdrawn => {
                let all: Items<WithdrawnView> = link.list("/v1/approvers/withdrawn", None).await?;
                out.show(&all, |all| withdrawn(&all.items))
            }
        }
    }
}

async fn decide(
    link: &Link,
    out: Out,
    id: ApprovalId,
    verb: &str,
    reply: Reply,
) -> Result<(), Stop> {
    let path = format!("/v1/approvals/{id}/{verb}");
    let decided: ApprovalView = link.post(&path, &reply).await?;
    out.show(&decided, |decided| {
        let then = match (decided.status, decided.grant) {
            (ApprovalStatus::Approved, Some(grant)) => {
                format!("; {grant} lets such calls run, within its limits")
            }
            (ApprovalStatus::Approved, None) => {
                format!("; the same call may run once, until {}", decided.expires_at)
            }
            (ApprovalStatus::Pending, _) => {
                format!("; {} of {} agreed", decided.agreed.len(), decided.needed)
            }
            _ => String::new(),
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
        ApprovalStatus::Void => "void",
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
            approval.delegator.clone(),
            approval.expires_at.clone(),
        ]
    };
    let names = ["approval", "state", "tool", "intent", "price", "agent", "for", "until"];
    table(&names, &approvals.iter().map(row).collect::<Vec<_>>())
}

fn withdrawn(all: &[WithdrawnView]) -> String {
    let row = |one: &WithdrawnView| {
        let issuer = one.issuer.as_deref().unwrap_or("admin socket");
        vec![one.subject.to_string(), issuer.to_owned(), one.at.clone()]
    };
    table(&["person", "known by", "since"], &all.iter().map(row).collect::<Vec<_>>())
}

fn risk(risk: &RiskView) -> String {
    let points = risk.points.iter().map(|point| format!("{} (+{})", point.says, point.points));
    let points = points.collect::<Vec<_>>().join("; ");
    format!("{} of 100, {}: {points}", risk.score, risk.band)
}

fn full(approval: &ApprovalView) -> String {
    facts(&[
        ("approval", Some(approval.id.to_string())),
        ("state", Some(word(approval.status).to_owned())),
        ("tool", Some(approval.tool.clone())),
        ("intent", Some(approval.intent.text().to_owned())),
        ("price", Some(approval.price.clone())),
        ("payees", Some(approval.payees.join(", "))),
        ("arguments", Some(approval.arguments.to_string())),
        ("changed", approval.changed.as_ref().map(|changed| changed.join(", "))),
        ("purpose", approval.purpose.as_deref().map(str::to_owned)),
        ("because", Some(approval.reasons.join(", "))),
        ("risk", approval.risk.as_ref().map(risk)),
        ("agreed", Some(format!("{} of {}", approval.agreed.len(), approval.needed))),
        ("agent", Some(approval.agent.to_string())),
        ("for", Some(approval.delegator.clone())),
        ("tenant", Some(approval.tenant.to_string())),
        ("content", Some(approval.content.clone())),
        ("call digest", Some(approval.call_digest.clone())),
        ("asked at", Some(approval.requested_at.clone())),
        ("until", Some(approval.expires_at.clone())),
        ("answered by", approval.approver.clone()),
        ("answered at", approval.decided_at.clone()),
        ("reason", approval.reason.clone()),
    ])
}
