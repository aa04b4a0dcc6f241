//! `grant`: people's standing consents.

use super::{
    link::Link,
    out::{Out, facts, table},
    stop::Stop,
};
use crate::{
    admin::form::{GrantMade, GrantRequest, GrantView, Items},
    fetch::form_encode,
};
use clap::builder::PossibleValuesParser;
use countersign_core::{
    grant::{ArgumentRule, Bounds, GrantStatus},
    ids::GrantId,
    policy::Intent,
};
use serde_json::json;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Grant {
    /// Consent to what an agent may spend for a person; prints the grant and its signed copy.
    Create(Box<Create>),
    /// List grants, the newest first.
    List(List),
    /// Show one.
    Show {
        /// The grant.
        id: GrantId,
    },
    /// End one for good; calls that have not started are refused from now on.
    Revoke {
        /// The grant.
        id: GrantId,
    },
    /// Pause one.
    Suspend {
        /// The grant.
        id: GrantId,
    },
    /// Take one up again that was paused.
    Resume {
        /// The grant.
        id: GrantId,
    },
}

/// A new grant. What is not named is not covered.
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// Tenant; the configured one when absent.
    #[arg(long)]
    tenant: Option<String>,
    /// Issuer of the person's tokens.
    #[arg(long)]
    issuer: String,
    /// The person: `sub` of their tokens.
    #[arg(long)]
    subject: String,
    /// The agent that may call for them.
    #[arg(long)]
    agent: String,
    /// Server, as configured.
    #[arg(long)]
    server: String,
    /// Tool; repeat for several, `*` for all, now and later.
    #[arg(long = "tool", value_name = "TOOL", required = true)]
    tools: Vec<String>,
    /// Intent; repeat for several.
    #[arg(long = "intent", value_name = "INTENT", required = true)]
    #[arg(value_parser = PossibleValuesParser::new(Intent::ALL.map(Intent::text)))]
    intents: Vec<String>,
    /// The most one call may cost: `0.05 USD`.
    #[arg(long, value_name = "MONEY")]
    per_call: String,
    /// The most all calls may cost.
    #[arg(long, value_name = "MONEY")]
    total: Option<String>,
    /// The most within a rolling window, `1 USD/24h`; repeat for several.
    #[arg(long = "window", value_name = "MONEY/SPAN")]
    windows: Vec<String>,
    /// The most calls.
    #[arg(long, value_name = "COUNT")]
    max_calls: Option<u64>,
    /// How long it lasts: `24h`, at most `30d`.
    #[arg(long, value_name = "SPAN")]
    expires: String,
    /// What for.
    #[arg(long, default_value = "")]
    purpose: String,
    #[command(flatten)]
    bounds: Narrower,
}

/// What narrows a grant further.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Narrower {
    /// The purpose that calls must declare.
    #[arg(long, value_name = "CODE")]
    purpose_code: Option<String>,
    /// Who may be paid; repeat for several.
    #[arg(long = "payee", value_name = "ADDRESS")]
    payees: Vec<String>,
    /// A wallet that may pay, or `linked` for any that is linked to the person; repeat for several.
    #[arg(long = "payer", value_name = "ADDRESS")]
    payers: Vec<String>,
    /// Values that an argument may have, `/city=["Berlin","Bern"]`; repeat for several.
    #[arg(long = "argument", value_name = "POINTER=JSON", value_parser = argument_rule)]
    arguments: Vec<ArgumentRule>,
    /// The most agents between the acting one and the person.
    #[arg(long, value_name = "COUNT")]
    max_depth: Option<u8>,
    /// Only in this session.
    #[arg(long)]
    session: Option<String>,
    /// The grant that it is a part of, and may not exceed.
    #[arg(long, value_name = "GRANT")]
    parent: Option<GrantId>,
}

impl Narrower {
    fn bounds(self) -> Bounds {
        Bounds {
            purpose_code: self.purpose_code.map(Into::into),
            payees: self.payees,
            payers: self.payers,
            arguments: self.arguments,
            max_depth: self.max_depth,
            session: self.session.map(Into::into),
            parent: self.parent,
        }
    }
}

fn argument_rule(text: &str) -> Result<ArgumentRule, String> {
    let (pointer, values) = text.split_once('=').ok_or("expected `/member=[\"value\"]`")?;
    let one_of = serde_json::from_str(values).map_err(|_| "expected a JSON list of values")?;
    Ok(ArgumentRule { pointer: pointer.to_owned(), one_of })
}

/// Which grants.
#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Of this agent.
    #[arg(long)]
    agent: Option<String>,
    /// Of this server.
    #[arg(long)]
    server: Option<String>,
    /// In this state.
    #[arg(long, value_parser = ["active", "suspended", "revoked"])]
    status: Option<String>,
}

impl Grant {
    /// Does it.
    pub(super) async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::Create(create) => {
                let made: GrantMade = link.post("/v1/grants", &create.request()).await?;
                out.show(&made, |made| {
                    format!("{}\n\nsigned copy:\n{}", full(&made.grant), made.receipt)
                })
            }
            Self::List(list) => {
                let found: Items<GrantView> = link.list(&list.path(), None).await?;
                out.show(&found, |found| lines(&found.items))
            }
            Self::Show { id } => {
                let grant: GrantView = link.get(&format!("/v1/grants/{id}")).await?;
                out.show(&grant, full)
            }
            Self::Revoke { id } => change(link, out, id, "revoke").await,
            Self::Suspend { id } => change(link, out, id, "suspend").await,
            Self::Resume { id } => change(link, out, id, "resume").await,
        }
    }
}

async fn change(link: &Link, out: Out, id: GrantId, verb: &str) -> Result<(), Stop> {
    let grant: GrantView = link.post(&format!("/v1/grants/{id}/{verb}"), &json!({})).await?;
    out.show(&grant, |grant| format!("{} is {}", grant.id, standing(grant)))
}

impl Create {
    fn request(self) -> GrantRequest {
        GrantRequest {
            tenant: self.tenant,
            issuer: self.issuer,
            subject: self.subject,
            agent: self.agent,
            server: self.server,
            tools: self.tools,
            intents: self.intents.iter().filter_map(|text| Intent::from_text(text)).collect(),
            per_call: self.per_call,
            total: self.total,
            windows: self.windows,
            max_calls: self.max_calls,
            expires: self.expires,
            purpose: self.purpose,
            bounds: self.bounds.bounds(),
        }
    }
}

impl List {
    fn path(&self) -> String {
        let filters = [("agent", &self.agent), ("server", &self.server), ("status", &self.status)];
        let pairs: Vec<(&str, &str)> = filters
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)))
            .collect();
        format!("/v1/grants?{}", form_encode(&pairs))
    }
}

/// A grant's state in a word.
fn standing(grant: &GrantView) -> &'static str {
    match (grant.status, grant.is_expired) {
        (GrantStatus::Active, false) if grant.is_exhausted => "exhausted",
        (GrantStatus::Revoked, _) => "revoked",
        (GrantStatus::Active | GrantStatus::Suspended, true) => "expired",
        (GrantStatus::Suspended, false) => "suspended",
        (GrantStatus::Active, false) => "active",
    }
}

fn lines(grants: &[GrantView]) -> String {
    let row = |grant: &GrantView| {
        vec![
            grant.id.to_string(),
            standing(grant).to_owned(),
            grant.agent.to_string(),
            grant.subject.to_string(),
            format!("{}/{}", grant.server, grant.tools.join(",")),
            grant.per_call.clone(),
            match &grant.total {
                Some(total) => format!("{} of {total}", grant.used),
                None => grant.used.clone(),
            },
            grant.expires_at.clone(),
        ]
    };
    let names = ["grant", "state", "agent", "for", "tools", "per call", "used", "expires"];
    table(&names, &grants.iter().map(row).collect::<Vec<_>>())
}

pub(super) fn full(grant: &GrantView) -> String {
    let intents: Vec<&str> = grant.intents.iter().map(|intent| intent.text()).collect();
    let bounds = &grant.bounds;
    let rule = |rule: &ArgumentRule| {
        let values: Vec<String> = rule.one_of.iter().map(ToString::to_string).collect();
        format!("{} is {}", rule.pointer, values.join(" or "))
    };
    let arguments: Vec<String> = bounds.arguments.iter().map(rule).collect();
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    facts(&[
        ("grant", Some(grant.id.to_string())),
        ("state", Some(standing(grant).to_owned())),
        ("tenant", Some(grant.tenant.to_string())),
        ("for", Some(format!("{} ({})", grant.subject, grant.issuer))),
        ("agent", Some(grant.agent.to_string())),
        ("tools", Some(format!("{}/{}", grant.server, grant.tools.join(", ")))),
        ("intents", Some(intents.join(", "))),
        ("purpose", some(grant.purpose.clone())),
        ("declared as", bounds.purpose_code.as_deref().map(str::to_owned)),
        ("payees", some(bounds.payees.join(", "))),
        ("payers", some(bounds.payers.join(", "))),
        ("arguments", some(arguments.join("; "))),
        ("agents between", bounds.max_depth.map(|most| format!("at most {most}"))),
        ("session", bounds.session.as_deref().map(str::to_owned)),
        ("part of", bounds.parent.map(|parent| parent.to_string())),
        ("per call", Some(grant.per_call.clone())),
        ("windows", some(grant.windows.join(", "))),
        ("total", grant.total.clone()),
        ("used", Some(format!("{} in {} calls", grant.used, grant.calls))),
        ("max calls", grant.max_calls.map(|max| max.to_string())),
        ("from", Some(grant.not_before.clone())),
        ("until", Some(grant.expires_at.clone())),
        ("came by", Some(grant.source.clone()).filter(|source| source != "page")),
        ("approved by", Some(format!("{} at {}", grant.approved_by, grant.approved_at))),
    ])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use expect_test::expect;

    fn grant() -> GrantView {
        GrantView {
            id: GrantId::from_bytes([1; 16]),
            version: 1,
            status: GrantStatus::Active,
            is_expired: false,
            state: "active".into(),
            tenant: "default".into(),
            issuer: "https://issuer.example".into(),
            subject: "ada".into(),
            agent: "planner".into(),
            server: "weather".into(),
            tools: vec!["get_forecast".into(), "get_status".into()],
            intents: vec![Intent::Read, Intent::Search],
            per_call: "0.05 USD".into(),
            total: Some("5 USD".into()),
            windows: vec!["1 USD/24h".into()],
            max_calls: None,
            purpose: String::new(),
            is_exhausted: false,
            bounds: Bounds::default(),
            agreed: None,
            not_before: "2026-11-23T00:00:00.000Z".into(),
            expires_at: "2026-11-24T00:00:00.000Z".into(),
            source: "page".into(),
            approved_by: "os:1000:ada".into(),
            approved_at: "2026-11-23T00:00:00.000Z".into(),
            used: "0.15 USD".into(),
            calls: 3,
        }
    }

    #[test]
    fn a_grant_for_people() {
        expect![[r#"
            grant           grant_01010101010101010101010101010101
            state           active
            tenant          default
            for             ada (https://issuer.example)
            agent           planner
            tools           weather/get_forecast, get_status
            intents         read, search
            per call        0.05 USD
            windows         1 USD/24h
            total           5 USD
            used            0.15 USD in 3 calls
            from            2026-11-23T00:00:00.000Z
            until           2026-11-24T00:00:00.000Z
            approved by     os:1000:ada at 2026-11-23T00:00:00.000Z"#]]
        .assert_eq(&full(&grant()));
        expect![[r#"
            GRANT                                   STATE    AGENT    FOR  TOOLS                            PER CALL  USED               EXPIRES
            grant_01010101010101010101010101010101  expired  planner  ada  weather/get_forecast,get_status  0.05 USD  0.15 USD of 5 USD  2026-11-24T00:00:00.000Z"#]]
        .assert_eq(&lines(&[GrantView { is_expired: true, ..grant() }]));
    }
}
