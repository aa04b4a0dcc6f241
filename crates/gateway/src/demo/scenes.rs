//! The calls of the demonstration, and how each has to come out.

use super::{
    parts::{AGENT, Money, PERSON, Parts, TENANT},
    say,
};
use crate::gate::Gate;
use anyhow::{Context as _, Result};
use countersign_client::{
    Caps, Client, ClientError, EvmWallet, KnownAsset, LightningWallet, Means, Options, Outcome,
    Secret, ToolCall, Wallet,
};
use countersign_core::{
    approval::{ApprovalStatus, Approver},
    grant::{Bounds, GrantTerms},
    ids::GrantId,
    money::{Micros, Rate, decimal},
    policy::Intent,
    quote::Rail,
};
use countersign_store::{Answer, NewGrant, Verdict};
use std::sync::Arc;

/// Who the demonstration's operator is, in grants and approvals.
const OPERATOR: &str = "demo:operator";

/// Who calls.
#[derive(Clone, Copy)]
enum Caller {
    Nobody,
    Person,
    Machine,
}

/// One step of the demonstration.
enum Step {
    /// The operator grants spending to the person and to the machine.
    Grant,
    /// The operator approves what waits.
    Approve,
    /// A call: what it shows, the tool, who calls, how it pays, and the refusal's code, or `None`
    /// when it must run.
    Call(&'static str, &'static str, Caller, Option<Rail>, Option<&'static str>),
}

/// The whole play.
fn steps() -> [Step; 14] {
    use Caller::{Machine, Nobody, Person};
    use Step::{Approve, Call, Grant};
    let (usdc, lightning) = (Some(Rail::X402), Some(Rail::L402));
    let says_no = Some;
    [
        Call("no token: identity says no", "get_forecast", Nobody, usdc, says_no("IDN-001")),
        Call("no grant: consent says no", "get_forecast", Person, usdc, says_no("CNS-001")),
        Grant,
        Call("nothing paid: payment says no", "get_forecast", Person, None, says_no("PAY-001")),
        Call(
            "a machine wants secrets: policy says no",
            "get_report",
            Machine,
            usdc,
            says_no("POL-001"),
        ),
        Call("all four align, paid in USDC (x402)", "get_forecast", Person, usdc, None),
        Call("all four align, paid over Lightning (L402)", "get_forecast", Person, lightning, None),
        Call("the budget's last cent", "get_slow", Person, usdc, None),
        Call("the budget is used up", "get_slow", Person, usdc, says_no("BUD-001")),
        Call("deleting needs a person's word", "delete_report", Person, usdc, says_no("CNS-008")),
        Approve,
        Call("approved once: now it runs", "delete_report", Person, usdc, None),
        Call("one approval, one run", "delete_report", Person, usdc, says_no("CNS-008")),
        Call("a free tool, for anybody", "status", Nobody, None, None),
    ]
}

/// Plays all steps; returns how many came out wrong.
pub(super) async fn play(parts: &Parts, gate: &Arc<Gate>) -> Result<u32> {
    let mut wrong = 0;
    let before = parts.money()?;
    show_money("Money before", before);
    say("\n  identity  consent  payment  authorization");
    for step in steps() {
        match step {
            Step::Grant => {
                grant(parts, gate, PERSON).await?;
                grant(parts, gate, AGENT).await?;
            }
            Step::Approve => approve(gate).await?,
            Step::Call(title, tool, caller, rail, expected) => {
                let token = match caller {
                    Caller::Nobody => None,
                    Caller::Person => Some(parts.person_token(600)?),
                    Caller::Machine => Some(parts.machine_token()?),
                };
                let (code, lights, detail) = call(parts, tool, token, rail).await?;
                let is_right = code.as_deref() == expected;
                let mark = if is_right { "" } else { "   <- NOT AS EXPECTED" };
                say(&format!("  {lights}  {title}{mark}\n             {detail}"));
                wrong += u32::from(!is_right);
            }
        }
    }
    let after = parts.money()?;
    show_money("\nMoney after ", after);
    wrong += u32::from(!adds_up(before, after, parts));
    Ok(wrong)
}

/// Three x402 calls of 0.01, 0.03 and 0.05 USDC, one Lightning call of 3 sat, four runs.
fn adds_up(before: Money, after: Money, parts: &Parts) -> bool {
    let usdc = after.merchant_minor.checked_sub(before.merchant_minor);
    let paid = before.payer_minor.checked_sub(after.payer_minor);
    let msat = before.wallet_msat.checked_sub(after.wallet_msat);
    let runs = ["get_forecast", "get_slow", "delete_report", "get_report"];
    let ran = runs.map(|tool| parts.server.runs.of(tool));
    let is_right =
        usdc == Some(90_000) && paid == usdc && msat == Some(3_000) && ran == [2, 1, 1, 0];
    if !is_right {
        say("The money or the runs do not add up.");
    }
    is_right
}

fn show_money(title: &str, money: Money) {
    say(&format!(
        "{title}: payer {} USDC, merchant {} USDC; wallet {} sat, merchant's node {} sat (sandbox)",
        decimal(money.payer_minor, 6),
        decimal(money.merchant_minor, 6),
        decimal(money.wallet_msat.into(), 3),
        decimal(money.node_msat.into(), 3),
    ));
}

/// Makes one call; returns its refusal's code, its lights and one line of detail.
async fn call(
    parts: &Parts,
    tool: &str,
    token: Option<String>,
    rail: Option<Rail>,
) -> Result<(Option<String>, String, String)> {
    let options = options(parts, token, rail)?;
    let arguments = r#"{"city":"Oslo","ms":10}"#;
    Ok(read(match Client::connect(&parts.url(), options).await {
        Ok(client) => client.call_tool(&ToolCall::new(tool, arguments)?).await,
        Err(error) => Err(error),
    }))
}

/// Code, four lights, and one line of detail.
fn read(outcome: Result<Outcome, ClientError>) -> (Option<String>, String, String) {
    let problem = match &outcome {
        Ok(Outcome::Refused(refused)) => Some(&refused.problem),
        Ok(Outcome::Declined(declined)) => declined.problem.as_ref(),
        Ok(Outcome::Unknown(unknown)) => unknown.problem.as_ref(),
        Err(ClientError::Refused(problem)) => Some(&**problem),
        Ok(Outcome::Ok(_) | Outcome::InputNeeded(_) | Outcome::Failed(_)) | Err(_) => None,
    };
    if let Some(problem) = problem {
        let raw = problem.raw.as_ref().map_or("{}", |raw| raw.get());
        let lights = lights(raw);
        let detail = format!("{}: {}", problem.code, problem.title);
        return (Some(problem.code.clone()), lights, detail);
    }
    match outcome {
        Ok(Outcome::Ok(done)) => {
            let paid = done.paid.as_ref().map_or("nothing".to_owned(), |paid| {
                format!(
                    "{} {} minor units on {}",
                    paid.amount.minor,
                    paid.amount.asset,
                    paid.rail.text()
                )
            });
            let receipt = if done.receipt.is_some() { "receipt signed" } else { "no receipt" };
            let detail = format!("ran; paid {paid}; {receipt}");
            (None, row(["on"; 4]), detail)
        }
        Ok(_) => (Some("?".to_owned()), row(["?"; 4]), "no answer that can be shown".to_owned()),
        Err(error) => (Some("?".to_owned()), row(["?"; 4]), error.to_string()),
    }
}

fn lights(problem: &str) -> String {
    let problem: serde_json::Value = serde_json::from_str(problem).unwrap_or_default();
    let light = |name: &str| match problem.pointer(&format!("/proofs/{name}")) {
        Some(state) => match state.as_str() {
            Some("ok" | "not_required") => "on",
            Some("missing" | "refused") => "NO",
            Some("pending") => "wait",
            _ => "-",
        },
        None => "-",
    };
    row(["identity", "consent", "payment", "authorization"].map(light))
}

fn row([identity, consent, payment, authorization]: [&str; 4]) -> String {
    format!("{identity:^8}  {consent:^7}  {payment:^7}  {authorization:^13}")
}

fn options(parts: &Parts, token: Option<String>, rail: Option<Rail>) -> Result<Options> {
    let mut options = Options::new(crate::world::system());
    options.bearer = token.map(Secret::new);
    let usdc = KnownAsset {
        code: "USDC".into(),
        caip: format!("eip155:84532/erc20:{}", super::parts::TOKEN).into(),
        rate: Some(Rate { micros: 1, per_minor: 1 }),
    };
    let btc = KnownAsset {
        code: "BTC".into(),
        caip: "lightning".into(),
        rate: Some(Rate { micros: 600, per_minor: 1000 }),
    };
    let wallets = match rail {
        None | Some(Rail::Pow | Rail::Treasury) => Vec::new(),
        Some(Rail::X402) => vec![Wallet::Evm(EvmWallet::from_private_key(&parts.payer_key)?)],
        Some(Rail::L402) => {
            vec![Wallet::Lightning(LightningWallet::new(parts.lightning.url(), None)?)]
        }
    };
    options.means = Means {
        wallets,
        assets: vec![usdc, btc],
        caps: Caps { per_call: Some(Micros(100_000)), ..Caps::default() },
        rail,
    };
    Ok(options)
}

/// The operator lets a delegator's agent spend, within limits.
async fn grant(parts: &Parts, gate: &Gate, subject: &str) -> Result<()> {
    let now = gate.world.now();
    let terms = GrantTerms {
        tenant: TENANT.into(),
        issuer: parts.issuer.url().into(),
        subject: subject.into(),
        agent: AGENT.into(),
        server: "weather".into(),
        tools: vec!["*".into()],
        intents: vec![Intent::Read, Intent::Delete],
        per_call: Micros(60_000),
        windows: Vec::new(),
        total: Some(Micros(1_000_000)),
        max_calls: Some(100),
        purpose: "demonstration".to_owned(),
        bounds: Bounds::default(),
        not_before: now,
        expires_at: now.plus_ms(3_600_000),
    };
    let id = GrantId::new(now, gate.world.random());
    let grant =
        NewGrant { id, terms, approved_by: OPERATOR.to_owned(), brought: None, agreed: None };
    gate.store.grant_create(grant).await.map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    Ok(())
}

async fn approve(gate: &Gate) -> Result<()> {
    let pending = gate.store.approvals();
    let waiting = pending.iter().find(|a| a.status == ApprovalStatus::Pending);
    let id = waiting.context("no approval waits")?.id;
    let by = Approver::local(OPERATOR);
    let answer = Answer { by, verdict: Verdict::Approve, reason: None, content: None };
    gate.store.approval_answer(id, answer).await.map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    say(&format!("             the operator approves {id}"));
    Ok(())
}
