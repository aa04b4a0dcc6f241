//! What a call presents, had before the call is made: the work for it, or a credential for several
//! calls of its tool.
//!
//! Nothing else can be had ahead. A credential for one call, and a transfer that is signed (x402),
//! are bound to that call: what would be paid is lost if it is never made, or made otherwise.
//!
//! INVARIANT: of each tool one credential is bought at a time, and none while there is another:
//! the next one is bought ahead only once the last use of this one was made.

use crate::{
    cache::{Paid, Place, Scope},
    challenge::{Challenge, Channel, NoChallenge, WorkOffer},
    client::{Client, ToolCall},
    error::{ClientError, TransportError},
    http::parse_url,
    lightning::Payable,
    means::{Choice, DeclineReason},
    outcome::{Outcome, Refused},
    pay::{begins_paying, declined, unreadable},
    problem::Problem,
    purchase::{Bought, wallet_doubt},
    rpc::{Answer, AnswerBody, object, read_body},
    spend::SpendOutcome,
    verdict::{self, Verdict},
};
use countersign_core::{
    money::{Amount, AssetCode},
    quote::Rail,
    refusal::Code,
    time::UnixMs,
    wire::json::quote,
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// What a call would still have to pay.
#[derive(Clone, Debug)]
pub enum Quoted {
    /// Nothing: it would run as it is.
    NothingDue,
    /// One of these.
    Asked(Vec<QuotedOffer>),
    /// The call would be refused.
    Refused(Box<Problem>),
}

/// A way to pay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotedOffer {
    /// Its rail; of work there is no amount of money.
    pub rail: Rail,
    /// What it asks, if that could be read; the asset is as the server wrote it when unknown.
    pub amount: Option<Amount>,
}

/// What came of preparing for a call.
#[derive(Clone, Debug)]
pub enum Prepared {
    /// The call presents this; `earlier` where it was there before.
    Ready(Box<Paid>),
    /// There is nothing to be had ahead for it.
    Nothing,
    /// It was not had, for the reason with which the call would end; never [`Outcome::Ok`].
    Not(Box<Outcome>),
}

/// What a gateway says of a call that was not made.
enum Told {
    NothingDue,
    Pay { challenge: Result<Box<Challenge>, NoChallenge>, problem: Problem },
    Refused(Problem),
}

#[derive(Deserialize)]
struct Due {
    due: bool,
}

impl Client {
    /// What a call would still have to pay, asked of a Countersign gateway without making it:
    /// nothing runs, and nothing is paid. `None` when the server has no endpoint for that. What is
    /// kept for the call is not presented. To ask about a call that costs opens a quote there.
    ///
    /// # Errors
    /// [`ClientError::Transport`], [`ClientError::BadInput`].
    pub async fn quote(&self, call: &ToolCall) -> Result<Option<Quoted>, ClientError> {
        let now = self.options.world.now();
        Ok(self.ask_quote(call).await?.map(|told| match told {
            Told::NothingDue => Quoted::NothingDue,
            Told::Pay { challenge: Ok(challenge), .. } => Quoted::Asked(offers_of(&challenge, now)),
            Told::Pay { challenge: Err(_), problem } | Told::Refused(problem) => {
                Quoted::Refused(Box::new(problem))
            }
        }))
    }

    /// Has ready what a call presents that is to be made soon: does the work for it, where the
    /// server takes work and it is within the caps; else buys a credential over Lightning, where
    /// that is good for several calls of the tool, as the call itself would: within the caps, the
    /// allowed hosts and the limits, counted and kept before it is paid. What is not presented in
    /// time is lost: work within two minutes, a credential when it ends. Let it run to its end.
    ///
    /// # Errors
    /// [`ClientError::Transport`], [`ClientError::Cache`], [`ClientError::BadInput`].
    pub async fn prepare(&self, call: &ToolCall) -> Result<Prepared, ClientError> {
        let scope = self.scope(call)?;
        if let Some(ready) = self.ready(&scope) {
            return Ok(ready);
        }
        // What a call brings back changes what it is.
        if call.members.is_some() {
            return Ok(Prepared::Nothing);
        }
        match self.work_offer(call).await? {
            Some(offer) if self.options.means.work(&offer).is_ok() => {
                self.work_ahead(call, &scope, &offer).await
            }
            Some(_) | None => self.buy_ahead(call, &scope).await,
        }
    }

    /// What is there already.
    fn ready(&self, scope: &Scope) -> Option<Prepared> {
        let cache = &self.options.credentials;
        let mut entry = cache.take(scope, self.options.world.now())?;
        cache.release(&entry.key);
        entry.paid.earlier = true;
        Some(Prepared::Ready(Box::new(entry.paid)))
    }

    async fn work_ahead(
        &self,
        call: &ToolCall,
        scope: &Scope,
        offer: &WorkOffer,
    ) -> Result<Prepared, ClientError> {
        let Some(entry) = self.do_work(call, scope, offer, Channel::Meta).await else {
            let offer = Choice::Work(offer, Channel::Meta).declined(DeclineReason::WorkUnfinished);
            return Ok(Prepared::Not(Box::new(declined(vec![offer], None, None))));
        };
        self.keep(&entry).await?;
        self.options.credentials.release(&entry.key);
        Ok(Prepared::Ready(Box::new(entry.paid)))
    }

    /// Buys what the next calls of this tool present, whatever their arguments.
    pub(crate) async fn buy_ahead(
        &self,
        call: &ToolCall,
        scope: &Scope,
    ) -> Result<Prepared, ClientError> {
        let cache = &self.options.credentials;
        if self.options.means.lightning().is_none() {
            return Ok(Prepared::Nothing);
        }
        // Calls of this tool wait until it is bought, instead of buying another.
        let Some(_turn) = cache.buying(scope.tool).await else { return Ok(Prepared::Nothing) };
        if let Some(ready) = self.ready(scope) {
            return Ok(ready);
        }
        if cache.place(&scope.tool, self.options.world.now()) != Place::Empty {
            return Ok(Prepared::Nothing);
        }
        let not = |outcome: Outcome| Ok(Prepared::Not(Box::new(outcome)));
        let (challenge, problem) = match self.ask_quote(call).await? {
            None | Some(Told::NothingDue) => return Ok(Prepared::Nothing),
            Some(Told::Refused(problem)) => {
                let charged = problem.charged;
                return not(Outcome::Refused(Box::new(Refused { problem, paid: None, charged })));
            }
            Some(Told::Pay { challenge, problem }) => (challenge, Some(problem)),
        };
        let challenge = match challenge {
            Ok(challenge) => challenge,
            Err(fault) => return not(declined(unreadable(fault), problem, None)),
        };
        let choice = match self.choose(&challenge) {
            Ok(Choice::L402(choice)) if choice.payable.is_for_several() => choice,
            Ok(_) => return Ok(Prepared::Nothing),
            Err(offers) => return not(declined(offers, problem, None)),
        };
        if !begins_paying(call) {
            return Ok(Prepared::Nothing);
        }
        match self.buy(call, scope, &choice).await? {
            Bought::Paid(entry) => {
                cache.release(&entry.key);
                self.note(&entry, SpendOutcome::Unused, None).await;
                Ok(Prepared::Ready(Box::new(entry.paid)))
            }
            Bought::Not(offer) => not(declined(vec![offer], problem, None)),
            Bought::Unknown(paid) => not(wallet_doubt(paid)),
        }
    }

    /// What the server would have worked for a call; `None` when it says anything else.
    async fn work_offer(&self, call: &ToolCall) -> Result<Option<WorkOffer>, ClientError> {
        let answer = self.ask_beside("pow/challenge", &[], call).await?;
        Ok(match &answer.body {
            AnswerBody::Object(raw) if answer.status < 300 => WorkOffer::read(raw),
            AnswerBody::Object(_)
            | AnswerBody::Result(_)
            | AnswerBody::Error(_)
            | AnswerBody::Other => None,
        })
    }

    /// What a gateway says of a call; `None` when the server is none, or has no such endpoint.
    /// What it asks is presented in `_meta`, as MCP has it.
    async fn ask_quote(&self, call: &ToolCall) -> Result<Option<Told>, ClientError> {
        let meta = call.meta.as_deref().map_or("{}", RawValue::get);
        let answer = self.ask_beside("quote", &[("_meta", meta)], call).await?;
        if let (AnswerBody::Object(raw), 200) = (&answer.body, answer.status) {
            let due = serde_json::from_str::<Due>(raw.get());
            return Ok(due.is_ok_and(|due| !due.due).then_some(Told::NothingDue));
        }
        // Whoever else answers 402 there does not speak of this call.
        let is_ours = |problem: &Problem| {
            let elsewhere = [Code::UnknownServer, Code::MethodNotAllowed];
            problem.known.is_some_and(|code| !elsewhere.contains(&code))
        };
        Ok(match verdict::read(answer) {
            Verdict::Pay { challenge, problem: Some(problem) } if is_ours(&problem) => {
                let challenge = challenge.map(|mut challenge| {
                    challenge.l402.iter_mut().for_each(|(_, channel)| *channel = Channel::Meta);
                    Box::new(challenge)
                });
                Some(Told::Pay { challenge, problem })
            }
            Verdict::Refused(problem) if is_ours(&problem) => Some(Told::Refused(problem)),
            Verdict::Pay { .. }
            | Verdict::Refused(_)
            | Verdict::Done(_)
            | Verdict::InputNeeded(_)
            | Verdict::Failed(_) => None,
        })
    }

    /// Asks an endpoint beside the server's own about a call.
    async fn ask_beside(
        &self,
        endpoint: &str,
        more: &[(&str, &str)],
        call: &ToolCall,
    ) -> Result<Answer, ClientError> {
        let url = format!("{}/{endpoint}", self.server());
        let uri = parse_url(&url, self.options.allow_plain_http)?;
        let name = quote(&call.name);
        let mut asked = vec![("tool", &*name), ("arguments", call.arguments.get())];
        asked.extend_from_slice(more);
        let (http, headers) = (&self.endpoint.http, self.endpoint.headers()?);
        let answered = async {
            let response = http.post(&uri, headers, object(&asked)).await?;
            let (head, body) = response.into_parts();
            let body = read_body("", &http.read(body).await?);
            Ok::<_, TransportError>(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body,
            })
        };
        Ok(http.in_time(answered).await?)
    }
}

/// Every offer of a challenge.
fn offers_of(challenge: &Challenge, now: UnixMs) -> Vec<QuotedOffer> {
    let x402 = challenge.x402.iter().flat_map(|(required, _)| &required.accepts).map(|offer| {
        let amount = Amount { asset: AssetCode::from(&*offer.asset), minor: offer.amount };
        QuotedOffer { rail: Rail::X402, amount: Some(amount) }
    });
    let l402 = challenge.l402.iter().map(|(offer, _)| {
        let payable = Payable::check(&offer.token, &offer.invoice, None, now).ok();
        let amount = payable
            .map(|p| Amount { asset: AssetCode::from("BTC"), minor: u128::from(p.amount_msat) });
        QuotedOffer { rail: Rail::L402, amount }
    });
    let work = challenge.work.iter().map(|_| QuotedOffer { rail: Rail::Pow, amount: None });
    x402.chain(l402).chain(work).collect()
}
