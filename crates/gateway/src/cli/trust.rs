//! `trust`: tiers that people set or behaviour lowered, and what the rules did.

use super::{
    link::Link,
    out::{Out, table},
    stop::Stop,
};
use crate::{
    admin::form::{GrantView, Items, RuleView, SetTier, TierView},
    prove::standing::Party,
};
use countersign_core::policy::Tier;
use serde::Serialize;
use std::{cmp::Reverse, collections::BTreeMap};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Trust {
    /// List tiers that differ from the bundle's.
    List,
    /// Set a tier. It ends what behaviour took away from an agent.
    Set {
        /// agent, human or server.
        #[arg(value_parser = party)]
        party: Party,
        /// `tenant/agent`, `issuer|subject`, or a server's name.
        name: String,
        /// T0 to T3, or `bundle` for what the bundle says.
        #[arg(value_parser = tier)]
        tier: Wanted,
    },
    /// What `policy report` prints.
    Report,
}

/// A tier, or none of one's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted(Option<Tier>);

fn party(text: &str) -> Result<Party, String> {
    match text {
        "agent" => Ok(Party::Agent),
        "human" => Ok(Party::Human),
        "server" => Ok(Party::Server),
        _ => Err("write agent, human or server".to_owned()),
    }
}

fn tier(text: &str) -> Result<Wanted, String> {
    if text == "bundle" {
        return Ok(Wanted(None));
    }
    let tier = Tier::from_text(text).ok_or_else(|| "write T0, T1, T2, T3 or bundle".to_owned());
    tier.map(|tier| Wanted(Some(tier)))
}

impl Trust {
    /// Does it.
    pub(super) async fn run(self, link: &Link, out: Out) -> Result<(), Stop> {
        match self {
            Self::List => out.show(&standing(link).await?, shown),
            Self::Set { party, name, tier: Wanted(tier) } => {
                let _said: SetTier = link.post("/v1/trust", &SetTier { party, name, tier }).await?;
                out.show(&standing(link).await?, shown)
            }
            Self::Report => report(link, out).await,
        }
    }
}

/// Rules that refuse, and which of them do so too often; grants that nobody uses; agents that
/// drift.
pub(super) async fn report(link: &Link, out: Out) -> Result<(), Stop> {
    let rules: Items<RuleView> = link.list("/v1/policy/report", None).await?;
    let mut rules = rules.items;
    rules.sort_by_key(|rule| Reverse(rule.refused));
    let unused: Items<GrantView> = link.list("/v1/grants?unused=true", None).await?;
    let unused_grants = unused.items.iter().map(|grant| grant.id.to_string()).collect();
    let drifting = standing(link).await?.fallen;
    out.show(&Report { rules, unused_grants, drifting }, told)
}

/// Tiers that differ from the bundle's.
#[derive(Serialize)]
struct Standing {
    set: BTreeMap<String, Tier>,
    fallen: Vec<Fallen>,
}

/// A tier that behaviour lowered.
#[derive(Serialize)]
struct Fallen {
    agent: String,
    because: String,
    tier: Tier,
    until: String,
}

/// What the rules did, grants that nobody uses, agents that drift.
#[derive(Serialize)]
struct Report {
    rules: Vec<RuleView>,
    unused_grants: Vec<String>,
    drifting: Vec<Fallen>,
}

async fn standing(link: &Link) -> Result<Standing, Stop> {
    let all: Items<TierView> = link.list("/v1/trust", None).await?;
    let mut standing = Standing { set: BTreeMap::new(), fallen: Vec::new() };
    for TierView { party, name, tier, because, until } in all.items {
        match (because, until) {
            (Some(because), Some(until)) => {
                standing.fallen.push(Fallen { agent: name, because, tier, until });
            }
            (_, _) => _ = standing.set.insert(format!("{}:{name}", party.text()), tier),
        }
    }
    Ok(standing)
}

fn shown(view: &Standing) -> String {
    let set = view.set.iter().map(|(name, tier)| vec![name.clone(), tier.text().to_owned()]);
    let set = table(&["set", "tier"], &set.collect::<Vec<_>>());
    format!("{set}\n\n{}", fallen(&view.fallen))
}

fn fallen(all: &[Fallen]) -> String {
    let row = |view: &Fallen| {
        vec![
            view.agent.clone(),
            view.tier.text().to_owned(),
            view.because.clone(),
            view.until.clone(),
        ]
    };
    table(&["fallen", "tier", "because", "until"], &all.iter().map(row).collect::<Vec<_>>())
}

fn told(report: &Report) -> String {
    let rules = report.rules.iter().map(|rule| {
        let part = format!("{} of {} ({} %)", rule.refused, rule.decisions, rule.percent);
        let often = if rule.too_often { "too often" } else { "" };
        vec![rule.policy.clone(), part, rule.since.clone(), often.to_owned()]
    });
    let rules = table(&["rule", "refused", "since", ""], &rules.collect::<Vec<_>>());
    let grants = report.unused_grants.iter().map(|grant| vec![grant.clone()]);
    let grants = table(&["never used"], &grants.collect::<Vec<_>>());
    [rules, grants, fallen(&report.drifting)].join("\n\n")
}
