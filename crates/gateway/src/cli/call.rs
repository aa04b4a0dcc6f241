//! `call`: an MCP client that pays from a wallet, and keeps what is paid for and not used up.

use super::{
    Shared,
    keys::public_key,
    out::{Out, facts, note},
    progress,
    stop::Stop,
};
use crate::world;
use countersign_client::{
    Caps, Ceiling, Client, CredentialCache, EraChoice, Means, Options, Outcome, Paid, Secret,
    Solver, ToolCall, Wallet, show_amount,
};
use countersign_core::{
    audit::{checkpoint::VerifierKey, receipt::Receipt},
    money::{AssetCode, parse_decimal, parse_micros},
    quote::Rail,
    refusal::Charged,
};
use serde_json::{Value, json, value::RawValue};
use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

/// `_meta` member in which a call's intent and purpose are declared.
const INTENT_META: &str = "countersign/intent";

/// Whom to call, and as whom.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// The server's MCP URL.
    pub(super) url: String,
    /// The tool.
    pub(super) tool: String,
    /// Its arguments: a JSON object, or `@FILE` with one.
    #[arg(default_value = "{}")]
    arguments: String,
    /// Access token: `env:NAME` or `file:PATH`.
    #[arg(long, value_name = "REFERENCE")]
    bearer: Option<String>,
    /// Declare what the call does; policy decides on it.
    #[arg(long)]
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(
        countersign_core::policy::Intent::ALL.map(countersign_core::policy::Intent::text)))]
    intent: Option<String>,
    /// Declare what the call is for.
    #[arg(long)]
    purpose: Option<String>,
    /// Send `Mcp-Param-NAME: VALUE`, a header that mirrors an argument; repeat for several.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Which of MCP's two eras to speak.
    #[arg(long, value_enum, default_value_t = EraArg::Auto)]
    era: EraArg,
    /// Allow plain http to other machines, where tokens and payments can be read on the way.
    #[arg(long)]
    allow_plain_http: bool,
    /// Longest wait for the answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
}

/// An era, as typed.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum EraArg {
    /// The newest that the server speaks.
    Auto,
    /// 2026-07-28.
    Modern,
    /// `initialize`.
    Legacy,
}

/// A call, and what to pay with.
#[derive(Debug, clap::Args)]
pub(super) struct Call {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    purse: Purse,
    /// Verify the receipt with this public key of the server's log, or a file with it.
    #[arg(long, value_name = "FILE|KEY")]
    key: Option<String>,
}

/// What to pay with.
#[derive(Debug, clap::Args)]
pub(super) struct Purse {
    /// Wallet: a file of mode 0600, or `env:NAME`, or `file:PATH`; repeat for several.
    #[arg(long = "wallet", value_name = "FILE|REFERENCE")]
    wallets: Vec<String>,
    /// Pass phrase of a sealed wallet: `env:NAME` or `file:PATH`.
    #[arg(long, value_name = "REFERENCE")]
    passphrase: Option<String>,
    /// The most to pay for a call: `0.10 USD`, or in an asset, `0.05 USDC`, `100 sat`; repeat for
    /// several. Without it ten cents, and nothing over Lightning.
    #[arg(long = "max-price", value_name = "MONEY")]
    max_prices: Vec<String>,
    /// Pay on this rail only: `x402`, `l402`, or `pow`, work instead of money.
    #[arg(long, value_parser = rail)]
    rail: Option<Rail>,
    /// The most hashes to make, on average, where a server takes work instead of money; 0 for none.
    #[arg(long, value_name = "HASHES", default_value_t = Caps::default().work)]
    max_work: u64,
    /// Threads that work; as many as there are cores unless said.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Directory in which paid credentials are kept until they are used up or expire.
    #[arg(long, value_name = "DIR")]
    credentials: Option<PathBuf>,
}

fn rail(text: &str) -> Result<Rail, &'static str> {
    match text {
        "x402" => Ok(Rail::X402),
        "l402" => Ok(Rail::L402),
        "pow" => Ok(Rail::Pow),
        _ => Err("expected `x402`, `l402` or `pow`"),
    }
}

fn header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Target {
    /// How to connect, without anything to pay with.
    pub(super) fn options(&self) -> Result<Options, Stop> {
        let mut options = Options::new(world::system());
        if let Some(reference) = &self.bearer {
            options.bearer = Some(secret("--bearer", reference)?);
        }
        options.era = match self.era {
            EraArg::Auto => EraChoice::Auto,
            EraArg::Modern => EraChoice::Modern,
            EraArg::Legacy => EraChoice::Legacy,
        };
        options.allow_plain_http = self.allow_plain_http;
        options.exchange_timeout_ms = self.timeout.saturating_mul(1000);
        Ok(options)
    }

    /// The call to send.
    pub(super) fn call(&self) -> Result<ToolCall, Stop> {
        let arguments = match self.arguments.strip_prefix('@') {
            Some(file) => super::audit::read_text(Path::new(file))?,
            None => self.arguments.clone(),
        };
        let mut call = ToolCall::new(&self.tool, arguments.trim()).map_err(|_| {
            Stop::usage("the arguments are not a JSON object with each member once")
                .next(r#"write them as '{"city":"Oslo"}'"#)
        })?;
        let mut declared = serde_json::Map::new();
        let parts = [("intent", &self.intent), ("purpose", &self.purpose)];
        for (name, value) in parts {
            declared.extend(value.as_ref().map(|value| (name.to_owned(), value.as_str().into())));
        }
        if !declared.is_empty() {
            let meta = json!({ INTENT_META: declared }).to_string();
            call.meta = Some(RawValue::from_string(meta).map_err(Stop::internal)?);
        }
        call.mirrored = self.headers.clone();
        Ok(call)
    }
}

pub(super) fn secret(flag: &str, reference: &str) -> Result<Secret, Stop> {
    Secret::from_reference(reference).map_err(|error| {
        Stop::usage(format_args!("{flag}: {error}")).next("give `env:NAME` or `file:PATH`")
    })
}

impl Call {
    /// Calls, pays if it must and may, and shows what came of it.
    pub(super) async fn run(self, shared: &Shared, out: Out) -> Result<(), Stop> {
        let mut options = self.target.options()?;
        options.means = self.purse.means()?;
        options.credentials = self.purse.cache(options.world.now())?;
        options.solver = self.purse.solver();
        let call = self.target.call()?;
        // Before anything is paid: what is wrong with it is known now.
        let key = self.key.as_deref().map(|key| public_key(shared, Some(key))).transpose()?;
        let client = Client::connect(&self.target.url, options).await?;
        let outcome = client.call_tool(&call).await?;
        out.show(&as_json(&outcome), |_| as_text(&outcome))?;
        match outcome.exit_code() {
            0 => match key.and_then(|key| receipt_checked(&key, &outcome)) {
                Some(checked) => checked.map(|said| note(&said)),
                None => Ok(()),
            },
            exit => Err(Stop::silent(exit)),
        }
    }
}

/// What the key says of a result's receipt; `None` where there is no result.
fn receipt_checked(key: &VerifierKey, outcome: &Outcome) -> Option<Result<String, Stop>> {
    let (Outcome::Ok(done) | Outcome::InputNeeded(done)) = outcome else { return None };
    let token = done.receipt.as_deref().map(RawValue::get);
    let token = token.and_then(|raw| serde_json::from_str::<String>(raw).ok());
    Some(match token.map(|token| Receipt::verify(&token, key)) {
        Some(Ok(receipt)) => Ok(format!("the receipt of {} is verified", receipt.call)),
        Some(Err(error)) => Err(Stop::new(countersign_client::exit::TOOL_ERROR, error)),
        None => Err(Stop::new(
            countersign_client::exit::TOOL_ERROR,
            "the result came without a receipt",
        )),
    })
}

impl Purse {
    /// Wallets and caps.
    pub(super) fn means(&self) -> Result<Means, Stop> {
        let passphrase =
            self.passphrase.as_deref().map(|r| secret("--passphrase", r)).transpose()?;
        let mut means = Means { rail: self.rail, ..Means::default() };
        for wallet in &self.wallets {
            let is_reference = wallet.starts_with("env:") || wallet.starts_with("file:");
            let found = if is_reference {
                Wallet::from_reference(wallet, passphrase.as_ref())
            } else {
                Wallet::load(Path::new(wallet), passphrase.as_ref())
            };
            means.wallets.extend(found.map_err(Stop::usage)?);
        }
        if !self.max_prices.is_empty() {
            means.caps = caps(&self.max_prices)?;
        }
        means.caps.work = self.max_work;
        Ok(means)
    }

    /// Who works, and shows how far it is.
    pub(super) fn solver(&self) -> Solver {
        Solver { threads: self.threads, observer: progress::work_bar() }
    }

    /// Where credentials are kept; in memory where there is no home for them.
    pub(super) fn cache(
        &self,
        now: countersign_core::time::UnixMs,
    ) -> Result<CredentialCache, Stop> {
        let home = || Some(state_directory()?.join("credentials"));
        match self.credentials.clone().or_else(home) {
            Some(dir) => Ok(CredentialCache::open(&dir, now)?),
            None => Ok(CredentialCache::in_memory()),
        }
    }
}

/// Where this user's state is kept: `$XDG_STATE_HOME/countersign`, else below the home.
pub(super) fn state_directory() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let base = state.filter(|path| path.is_absolute()).or(home)?;
    Some(base.join("countersign"))
}

/// Caps as typed: in the reference currency, or in minor units of an asset.
fn caps(texts: &[String]) -> Result<Caps, Stop> {
    let Ceiling { micros, per_asset } = ceiling("--max-price", texts)?;
    Ok(Caps { per_call: micros, per_asset, ..Caps::default() })
}

/// A ceiling as typed.
pub(super) fn ceiling(flag: &str, texts: &[String]) -> Result<Ceiling, Stop> {
    let mut ceiling = Ceiling::default();
    for text in texts {
        let wrong = || {
            Stop::usage(format_args!("{flag}: `{text}` is not an amount"))
                .next("write it as `0.10 USD`, `0.05 USDC` or `100 sat`")
        };
        if let Ok(micros) = parse_micros(text) {
            ceiling.micros = Some(micros);
            continue;
        }
        let (number, unit) = text.split_once(' ').ok_or_else(wrong)?;
        let (asset, places) = match unit {
            "sat" => ("BTC", 3),
            "msat" => ("BTC", 0),
            "BTC" => ("BTC", 11),
            "USDC" => ("USDC", 6),
            _ => return Err(wrong()),
        };
        let minor = parse_decimal(number, places).map_err(|_| wrong())?;
        ceiling.per_asset.insert(AssetCode::from(asset), minor);
    }
    Ok(ceiling)
}

fn paid_text(paid: &Paid) -> String {
    let when = if paid.earlier { " (in an earlier call)" } else { "" };
    let reference = &paid.reference;
    if !paid.is_money() {
        return format!("work instead of money{when}, reference {reference}");
    }
    let amount = show_amount(&paid.amount);
    format!("{amount} over {} to {}{when}, reference {reference}", paid.rail.text(), paid.payee)
}

fn paid_json(paid: &Paid) -> Value {
    json!({
        "rail": paid.rail.text(),
        "amount": show_amount(&paid.amount),
        "asset": paid.amount.asset,
        "minor": paid.amount.minor.to_string(),
        "payee": paid.payee,
        "reference": paid.reference,
        "earlier": paid.earlier,
    })
}

/// An outcome for programs. What the server sent is embedded as it came.
pub(super) fn as_json(outcome: &Outcome) -> Value {
    let raw = |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).unwrap_or(Value::Null);
    let problem = |problem: &countersign_client::Problem| match &problem.raw {
        Some(problem) => raw(problem),
        None => json!({ "code": problem.code, "title": problem.title, "status": problem.status }),
    };
    let mut value = match outcome {
        Outcome::Ok(done) | Outcome::InputNeeded(done) => json!({
            "outcome": if matches!(outcome, Outcome::Ok(_)) { "ok" } else { "input_needed" },
            "result": raw(&done.result),
            "is_error": done.is_error,
            "receipt": done.receipt.as_deref().map(raw),
            "payment_response": done.payment_response.as_deref().map(raw),
        }),
        Outcome::Refused(refused) => json!({
            "outcome": "refused",
            "problem": problem(&refused.problem),
            "charged": refused.charged,
        }),
        Outcome::Declined(declined) => json!({
            "outcome": "declined",
            "offers": declined.offers.iter().map(|offer| json!({
                "rail": offer.rail.text(),
                "amount": offer.amount.as_ref().map(show_amount),
                "reason": offer.reason.to_string(),
            })).collect::<Vec<_>>(),
            "problem": declined.problem.as_ref().map(problem),
            "message": declined.message,
        }),
        Outcome::Unknown(doubt) => json!({
            "outcome": "unknown",
            "problem": doubt.problem.as_ref().map(problem),
            "cause": doubt.cause.map(|cause| cause.to_string()),
        }),
        Outcome::Failed(failed) => json!({
            "outcome": "failed",
            "code": failed.code,
            "message": failed.message,
            "data": failed.data.as_deref().map(raw),
        }),
    };
    if let Some(members) = value.as_object_mut() {
        members.insert("paid".to_owned(), paid(outcome).map_or(Value::Null, paid_json));
        members.insert("exit".to_owned(), outcome.exit_code().into());
    }
    value
}

/// What was paid, or may have been: not what was signed and then not taken.
fn paid(outcome: &Outcome) -> Option<&Paid> {
    let is_untaken = matches!(outcome, Outcome::Refused(no) if no.charged == Some(Charged::No));
    outcome.paid().filter(|_| !is_untaken)
}

/// An outcome for people.
fn as_text(outcome: &Outcome) -> String {
    let mut lines = match outcome {
        Outcome::Ok(done) => content(&done.result),
        Outcome::InputNeeded(done) => {
            vec!["the server asks for more before it goes on:".to_owned(), done.result.to_string()]
        }
        Outcome::Refused(refused) => refusal_lines(&refused.problem, refused.charged),
        Outcome::Declined(declined) => {
            let mut lines = vec!["payment is asked for, and was not made:".to_owned()];
            lines.extend(declined.offers.iter().map(|offer| {
                let amount = offer.amount.as_ref().map(show_amount);
                let amount = amount.unwrap_or_else(|| "an unknown amount".to_owned());
                let amount = if offer.rail == Rail::Pow { "work".to_owned() } else { amount };
                format!("  {amount} over {}: {}", offer.rail.text(), offer.reason)
            }));
            lines.extend(declined.message.clone());
            lines
        }
        Outcome::Unknown(doubt) => {
            let cause = doubt.cause.map(|cause| cause.to_string());
            let cause = cause.or_else(|| doubt.problem.as_ref().map(ToString::to_string));
            vec![
                format!("money may have moved: {}", cause.unwrap_or_default()),
                "repeat the very same call: the same payment is presented, none is made".to_owned(),
            ]
        }
        Outcome::Failed(failed) => vec![format!("failed: {} {}", failed.code, failed.message)],
    };
    lines.extend(paid(outcome).map(|paid| format!("paid: {}", paid_text(paid))));
    if let Outcome::Ok(done) = outcome
        && let Some(receipt) = done.receipt.as_deref()
    {
        lines.push(format!("receipt: {}", receipt.get().trim_matches('"')));
    }
    lines.join("\n")
}

/// A refusal for people: why, what it cost, and what to do about it.
pub(super) fn refusal_lines(
    problem: &countersign_client::Problem,
    charged: Option<Charged>,
) -> Vec<String> {
    let charged = match charged {
        Some(Charged::No) => "you were not charged",
        Some(Charged::Yes) => "you were charged",
        Some(Charged::Unused) => "your payment is unused and stays valid",
        Some(Charged::Unknown) => "money may have moved: do not pay again",
        None => "nothing was paid",
    };
    let mut lines = vec![format!("refused: {problem}"), charged.to_owned()];
    lines.extend(facts_of(problem));
    lines
}

/// The texts of a result; the whole of it where there are none.
fn content(result: &RawValue) -> Vec<String> {
    let value: Value = serde_json::from_str(result.get()).unwrap_or(Value::Null);
    let blocks = value.get("content").and_then(Value::as_array);
    let texts = blocks.into_iter().flatten().map(|block| match block.get("text") {
        Some(Value::String(text)) => text.clone(),
        _ => block.to_string(),
    });
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() { vec![result.get().to_owned()] } else { texts }
}

/// The facts of our own problem details: what to approve, and how.
fn facts_of(problem: &countersign_client::Problem) -> Option<String> {
    let value: Value = serde_json::from_str(problem.raw.as_deref()?.get()).ok()?;
    let members = value.get("facts")?.as_object()?;
    let rows: Vec<(&str, Option<String>)> =
        members.iter().map(|(name, value)| (&**name, value.as_str().map(str::to_owned))).collect();
    Some(facts(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_client::{DeclineReason, Declined, OfferSummary};
    use countersign_core::money::{Amount, Micros};
    use expect_test::expect;

    #[test]
    fn caps_are_in_money_that_people_write() {
        let read =
            |texts: &[&str]| caps(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
        let both = read(&["0.10 USD", "100 sat"]).unwrap();
        assert_eq!(both.per_call, Some(Micros(100_000)));
        assert_eq!(both.per_asset.get(&"BTC".into()), Some(&100_000));
        let usdc = read(&["0.05 USDC"]).unwrap();
        assert_eq!((usdc.per_call, usdc.per_asset.get(&"USDC".into())), (None, Some(&50_000)));
        for text in ["", "free", "1 EUR", "-1 USD", "1.0000001 USDC"] {
            assert_eq!(read(&[text]).unwrap_err().exit(), 2, "{text}");
        }
    }

    #[test]
    fn what_was_not_paid_is_said_with_its_reason() {
        let offer = |rail, asset: &str, minor| OfferSummary {
            rail,
            amount: Some(Amount { asset: asset.into(), minor }),
            reason: DeclineReason::OverCap,
        };
        let outcome = Outcome::Declined(Box::new(Declined {
            offers: vec![offer(Rail::X402, "USDC", 10_000), offer(Rail::L402, "BTC", 3_000)],
            problem: None,
            message: None,
        }));
        expect![[r#"
            payment is asked for, and was not made:
              0.01 USDC over x402: the price is above the cap, or no cap is set for it
              3 sat over l402: the price is above the cap, or no cap is set for it"#]]
        .assert_eq(&as_text(&outcome));
        let reason = "the price is above the cap, or no cap is set for it";
        let offer =
            |rail: &str, amount: &str| json!({ "rail": rail, "amount": amount, "reason": reason });
        let expected = json!({
            "outcome": "declined",
            "offers": [offer("x402", "0.01 USDC"), offer("l402", "3 sat")],
            "problem": null,
            "message": null,
            "paid": null,
            "exit": 14,
        });
        assert_eq!(as_json(&outcome), expected);
    }
}
