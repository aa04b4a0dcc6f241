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
    audit::receipt::Receipt,
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
    /// A call: what it shows, the tool, who calls, how it pays, the refusal's code, or `None` when
    /// it must run, and the four lights.
    Call(&'static str, &'static str, Caller, Option<Rail>, Option<&'static str>, Lights),
}

/// How the four proofs stand: identity, consent, payment, authorization.
type Lights = [&'static str; 4];
const ON: &str = "on";
const NO: &str = "NO";
const WAIT: &str = "wait";
/// Not needed for this call.
const FREE: &str = "free";
const UNSEEN: &str = "-";
const ALL: Lights = [ON; 4];

/// The whole play.
fn steps() -> [Step; 14] {
    use Caller::{Machine, Nobody, Person};
    use Step::{Approve, Call, Grant};
    let (usdc, lightning) = (Some(Rail::X402), Some(Rail::L402));
    let by_identity = (Some("IDN-001"), [NO, UNSEEN, UNSEEN, UNSEEN]);
    let by_consent = (Some("CNS-001"), [ON, NO, UNSEEN, UNSEEN]);
    let by_payment = (Some("PAY-001"), [ON, ON, NO, ON]);
    let by_policy = (Some("POL-001"), [ON, ON, UNSEEN, NO]);
    let by_budget = (Some("BUD-001"), [ON, ON, UNSEEN, NO]);
    let waits = (Some("CNS-008"), [ON, ON, UNSEEN, WAIT]);
    let runs = (None, ALL);
    let call =
        |title, tool, caller, rail, (code, lights)| Call(title, tool, caller, rail, code, lights);
    [
        call("no token: identity says no", "get_forecast", Nobody, usdc, by_identity),
        call("no grant: consent says no", "get_forecast", Person, usdc, by_consent),
        Grant,
        call("nothing paid: payment says no", "get_forecast", Person, None, by_payment),
        call("a machine wants secrets: policy says no", "get_report", Machine, usdc, by_policy),
        call("all four align, paid in USDC (x402)", "get_forecast", Person, usdc, runs),
        call("all four align, paid over Lightning (L402)", "get_forecast", Person, lightning, runs),
        call("the budget's last cent", "get_slow", Person, usdc, runs),
        call("the budget is used up", "get_slow", Person, usdc, by_budget),
        call("deleting needs a person's word", "delete_report", Person, usdc, waits),
        Approve,
        call("approved once: now it runs", "delete_report", Person, usdc, runs),
        call("one approval, one run", "delete_report", Person, usdc, waits),
        call("a free tool, for anybody", "status", Nobody, None, (None, [FREE, FREE, FREE, ON])),
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
            Step::Call(title, tool, caller, rail, code, lights) => {
                let token = match caller {
                    Caller::Nobody => None,
                    Caller::Person => Some(parts.person_token(600)?),
                    Caller::Machine => Some(parts.machine_token()?),
                };
                let shown = call((parts, gate), tool, token, rail).await?;
                let is_right = shown.code.as_deref() == code && shown.lights == lights;
                let mark = if is_right { "" } else { "   <- NOT AS EXPECTED" };
                let [identity, consent, payment, authorization] = shown.lights;
                say(&format!(
                    "  {identity:^8}  {consent:^7}  {payment:^7}  {authorization:^13}  \
                     {title}{mark}\n             {}",
                    shown.detail
                ));
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

/// What came of a call.
struct Shown {
    /// The refusal's; none when it ran.
    code: Option<String>,
    lights: Lights,
    /// One line.
    detail: String,
}

/// Makes one call.
async fn call(
    (parts, gate): (&Parts, &Gate),
    tool: &str,
    token: Option<String>,
    rail: Option<Rail>,
) -> Result<Shown> {
    let options = options(parts, token, rail)?;
    let arguments = r#"{"city":"Oslo","ms":10}"#;
    let outcome = match Client::connect(&parts.url(), options).await {
        Ok(client) => client.call_tool(&ToolCall::new(tool, arguments)?).await,
        Err(error) => Err(error),
    };
    let problem = match &outcome {
        Ok(Outcome::Refused(refused)) => Some(&refused.problem),
        Ok(Outcome::Declined(declined)) => declined.problem.as_ref(),
        Ok(Outcome::Unknown(unknown)) => unknown.problem.as_ref(),
        Err(ClientError::Refused(problem)) => Some(&**problem),
        Ok(Outcome::Ok(_) | Outcome::InputNeeded(_) | Outcome::Failed(_)) | Err(_) => None,
    };
    if let Some(problem) = problem {
        let raw = problem.raw.as_ref().map_or("{}", |raw| raw.get());
        let detail = format!("{}: {}", problem.code, problem.title);
        return Ok(Shown { code: Some(problem.code.clone()), lights: lights(raw), detail });
    }
    let receipt = match &outcome {
        Ok(Outcome::Ok(done)) => done.receipt.as_deref(),
        Ok(_) | Err(_) => None,
    };
    let Some(receipt) = receipt else {
        let detail = outcome.err().map(|error| error.to_string());
        let detail = detail.unwrap_or_else(|| "no answer that can be shown".to_owned());
        return Ok(Shown { code: Some("?".to_owned()), lights: [UNSEEN; 4], detail });
    };
    ran(gate, receipt.get().trim_matches('"'))
}

/// What the signed receipt and the call's records say of a call that ran.
fn ran(gate: &Gate, receipt: &str) -> Result<Shown> {
    let receipt = Receipt::verify(receipt, gate.signer.verifier());
    let receipt = receipt.map_err(|error| anyhow::anyhow!("the receipt: {error}"))?;
    let records = gate.store.call_records(receipt.call);
    let records = records.map_err(|refusal| anyhow::anyhow!("{refusal}"))?;
    let proofs = records
        .iter()
        .filter_map(|record| Some(str::from_utf8(&record.leaf).ok()?.to_owned()))
        .rfind(|leaf| leaf.contains("\"proofs\":{"));
    let paid = match receipt.amount.minor {
        0 => "nothing".to_owned(),
        _ => format!("{} on {}", gate.config.assets.show(&receipt.amount), receipt.rail),
    };
    let [identity, consent, payment, authorization] = proofs.as_deref().map_or([UNSEEN; 4], lights);
    // Decided on while the money was promised; the receipt names what was taken.
    let payment = if receipt.payment_ref.is_some() { ON } else { payment };
    let lights = [identity, consent, payment, authorization];
    Ok(Shown { code: None, lights, detail: format!("ran; paid {paid}; receipt signed") })
}

/// The lights of problem details, or of a record.
fn lights(json: &str) -> Lights {
    let json: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let light = |name: &str| {
        let state = json.pointer(&format!("/proofs/{name}"));
        let state = state.map(|state| state.get("state").unwrap_or(state));
        match state.and_then(|state| state.as_str()) {
            Some("ok" | "proven") => ON,
            Some("not_required") => FREE,
            Some("missing" | "refused") => NO,
            Some("pending") => WAIT,
            _ => UNSEEN,
        }
    };
    ["identity", "consent", "payment", "authorization"].map(light)
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
