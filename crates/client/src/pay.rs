//! A tool call that pays: ask, choose, pay once, present once.
//!
//! Owns the sequence. One call makes at most one payment; what is sent again is always that same
//! payment; an answer that asks for money a second time ends the call.
//!
//! INVARIANT: a payment is kept before it is made or sent, and dropped only by an answer that
//! says what became of it.

use crate::{
    cache::{Entry, Paid, Place, Proof, Scope},
    challenge::{Challenge, Channel, NoChallenge, WorkOffer},
    client::{Client, Outgoing, ToolCall, merged},
    courier::Courier,
    error::{ClientError, TransportError},
    lightning::PayError,
    means::{Choice, DeclineReason, L402Choice, OfferSummary, X402Choice, show_amount},
    outcome::{Completed, Declined, Failed, InDoubt, Outcome, Refused},
    problem::Problem,
    purchase::{Bought, wallet_doubt},
    secret::Secret,
    spend::{NotSpent, SpendOutcome},
    verdict::{self, Verdict},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_core::{
    digest::Digest,
    quote::{Offer, Rail},
    refusal::Charged,
    time::UnixMs,
    wire::{
        eip712::{Signature, TransferAuthorization},
        json::{self, Limits, quote},
        l402, pow, x402,
    },
};
use http::{HeaderName, header};
use serde_json::value::RawValue;
use std::time::Duration;

/// What came of presenting a payment, over all its sendings.
struct Delivery {
    answer: Result<Verdict, TransportError>,
    /// An earlier sending may have reached the server.
    is_repeat: bool,
}

/// What became of a credential from an earlier call.
enum Replay {
    /// The call has ended.
    Ended(Outcome),
    /// The credential is gone; the server asks anew.
    Asked(Box<Verdict>),
    /// The credential is gone; nothing was asked yet.
    Gone,
}

impl Client {
    /// Calls a tool; pays for it if it must and may. Let it run to its end: a call that is dropped
    /// half way holds its credential back from others for ten minutes.
    ///
    /// # Errors
    /// See [`ClientError`]: nothing was paid by this call. Everything that concerns money is an
    /// [`Outcome`].
    pub async fn call_tool(&self, call: &ToolCall) -> Result<Outcome, ClientError> {
        let scope = self.scope(call)?;
        loop {
            // Each time that it is made anew, another call has bought what it may present.
            if let Some(outcome) = self.call_once(call, &scope).await? {
                return Ok(outcome);
            }
        }
    }

    /// Makes a call; `None` when what it was about to buy was bought meanwhile.
    async fn call_once(
        &self,
        call: &ToolCall,
        scope: &Scope,
    ) -> Result<Option<Outcome>, ClientError> {
        self.options.credentials.bought(&scope.tool).await;
        let asked = match self.options.credentials.take(scope, self.options.world.now()) {
            None => self.ask(call).await?,
            Some(entry) => match self.replay(call, entry).await? {
                Replay::Ended(outcome) => return Ok(Some(outcome)),
                Replay::Asked(verdict) => *verdict,
                Replay::Gone => self.ask(call).await?,
            },
        };
        let (challenge, problem) = match asked {
            Verdict::Pay { challenge, problem } => (challenge, problem),
            other @ (Verdict::Done(_)
            | Verdict::InputNeeded(_)
            | Verdict::Refused(_)
            | Verdict::Failed(_)) => return Ok(Some(ended(other))),
        };
        let challenge = match challenge {
            Ok(challenge) => challenge,
            Err(fault) => return Ok(Some(declined(unreadable(fault), problem, None))),
        };
        if !begins_paying(call) {
            return Ok(Some(declined(Vec::new(), problem, None)));
        }
        let choice = match self.choose(&challenge) {
            Ok(choice) => choice,
            Err(offers) => return Ok(Some(declined(offers, problem, challenge.message.clone()))),
        };
        if let Some(passage) = &call.passage {
            let doing = match choice.price() {
                Some(price) => format!("paying {}", show_amount(&price.amount)),
                None => "working".to_owned(),
            };
            passage.tell(&doing).await;
        }
        match choice {
            Choice::X402(choice) => self.pay_x402(call, scope, &choice).await.map(Some),
            Choice::L402(choice) => {
                let said = (problem, challenge.message.clone());
                self.pay_l402(call, scope, &choice, said).await
            }
            Choice::Work(offer, channel) => {
                let Some(entry) = self.do_work(call, scope, offer, channel).await else {
                    let reason = DeclineReason::WorkUnfinished;
                    let offers = vec![Choice::Work(offer, channel).declined(reason)];
                    return Ok(Some(declined(offers, problem, challenge.message.clone())));
                };
                self.keep(&entry).await?;
                let delivery = self.deliver(call, &entry).await;
                Ok(Some(self.conclude(&entry, delivery).await))
            }
        }
    }

    /// The offer to pay, where this host may be paid.
    pub(crate) fn choose<'a>(
        &'a self,
        challenge: &'a Challenge,
    ) -> Result<Choice<'a>, Vec<OfferSummary>> {
        let choice = self.options.means.choose(challenge, self.options.world.now())?;
        if choice.price().is_some() && !self.options.spending.allows(self.host()) {
            return Err(vec![choice.declined(DeclineReason::HostNotAllowed)]);
        }
        Ok(choice)
    }

    /// The work that an offer asks for; `None` when it was not done in time.
    pub(crate) async fn do_work(
        &self,
        call: &ToolCall,
        scope: &Scope,
        offer: &WorkOffer,
        channel: Channel,
    ) -> Option<Entry> {
        let within = offer.expires_at.since_ms(self.options.world.now());
        let within = Duration::from_millis(within);
        let solution = self.options.solver.solve(&offer.nonce, offer.target, within).await?;
        let nonce = offer.nonce.clone();
        let Offer { amount, micros, payee, .. } = Offer::work();
        Some(Entry {
            version: 1,
            key: scope.call,
            server: self.server(),
            tool: call.name.clone(),
            expires_at: offer.expires_at,
            uses_left: Some(1),
            channel,
            paid: Paid {
                rail: Rail::Pow,
                amount,
                micros: Some(micros),
                payee,
                reference: Digest::of(nonce.as_bytes()).to_hex(),
                earlier: false,
            },
            proof: Proof::Work { nonce, solution },
        })
    }

    /// The names of this call's credential.
    pub(crate) fn scope(&self, call: &ToolCall) -> Result<Scope, ClientError> {
        let arguments = call.arguments.get().as_bytes();
        let arguments =
            json::canonical(arguments, &Limits::REQUEST).map_err(|_| ClientError::BadInput)?;
        let bearer = self.bearer(call);
        let signed_in = || self.endpoint.access.principal(&self.endpoint.uri);
        let (server, principal) =
            (self.server(), self.options.principal(bearer.as_ref(), signed_in));
        let parts = [server.as_bytes(), call.name.as_bytes(), principal.as_bytes()];
        let tool = Digest::of_parts(&parts);
        Ok(Scope { call: Digest::of_parts(&[tool.as_bytes(), &arguments]), tool })
    }

    /// The token that the call is made with.
    pub(crate) fn bearer(&self, call: &ToolCall) -> Option<Secret> {
        let courier = call.passage.as_ref().and_then(|passage| passage.courier.as_ref());
        courier.map_or_else(|| self.endpoint.access.bearer(), Courier::bearer)
    }

    /// Origin and path.
    pub(crate) fn server(&self) -> String {
        let uri = &self.endpoint.uri;
        let scheme = uri.scheme_str().unwrap_or_default();
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        format!("{scheme}://{}{}", authority.to_ascii_lowercase(), uri.path())
    }

    /// Whom to pay: the name of the server's machine.
    fn host(&self) -> &str {
        self.endpoint.uri.host().unwrap_or_default()
    }

    /// Counts a payment before it is made; why not, where it may not be.
    pub(crate) async fn reserve(
        &self,
        call: &ToolCall,
        paid: &Paid,
    ) -> Result<Option<OfferSummary>, ClientError> {
        let (at, now) = ((self.host(), &*call.name), self.options.world.now());
        match self.options.spending.reserve(at, paid, now).await {
            Ok(()) => Ok(None),
            Err(NotSpent::Over) => {
                let (rail, amount) = (paid.rail, Some(paid.amount.clone()));
                Ok(Some(OfferSummary { rail, amount, reason: DeclineReason::OverCeiling }))
            }
            Err(NotSpent::Log(error)) => Err(error),
        }
    }

    /// Writes down how a payment stands.
    pub(crate) async fn note(&self, entry: &Entry, outcome: SpendOutcome, receipt: Option<String>) {
        if !entry.paid.is_money() {
            return;
        }
        let (at, now) = ((self.host(), &*entry.tool), self.options.world.now());
        self.options.spending.note(at, &entry.paid, (outcome, receipt), now).await;
    }

    /// The call without a payment.
    async fn ask(&self, call: &ToolCall) -> Result<Verdict, ClientError> {
        self.send_call(call, None).await
    }

    async fn send_call(
        &self,
        call: &ToolCall,
        payment: Option<(&Proof, Channel)>,
    ) -> Result<Verdict, ClientError> {
        let members = call.members.as_ref().map_or("{}", |members| members.get());
        let (name, arguments) = (quote(&call.name), call.arguments.get());
        let params = merged(members, &[("name", &name), ("arguments", arguments)])?;
        let (mut own_meta, mut secret_headers) = (Vec::new(), Vec::new());
        match payment {
            None => {}
            Some((proof, Channel::Meta)) => own_meta.extend(meta_of(proof)),
            Some((proof, Channel::Header)) => secret_headers.extend(header_of(proof)),
        }
        let own_meta: Vec<(&str, &str)> = own_meta.iter().map(|(k, v)| (*k, &**v)).collect();
        let outgoing = Outgoing {
            method: "tools/call",
            name: Some(&call.name),
            params: &params,
            meta: call.meta.as_deref(),
            own_meta: &own_meta,
            mirrored: &call.mirrored,
            secret_headers: &secret_headers,
            passage: call.passage.as_deref(),
        };
        Ok(verdict::read(self.send(&outgoing).await?))
    }

    /// Presents what an earlier call left.
    async fn replay(&self, call: &ToolCall, mut entry: Entry) -> Result<Replay, ClientError> {
        entry.paid.earlier = true;
        if !begins_paying(call) {
            self.options.credentials.release(&entry.key);
            return Ok(Replay::Ended(declined(Vec::new(), None, None)));
        }
        if let Proof::Invoice { token, invoice } = &entry.proof {
            let _turn = self.options.credentials.buying(entry.key).await;
            match self.pay_again(token, invoice).await {
                Ok(preimage) => {
                    let preimage = Digest::from_bytes(preimage);
                    entry.proof = Proof::L402 { token: token.clone(), preimage };
                    let _ = self.keep(&entry).await;
                }
                Err(PayError::Refused) => {
                    self.options.credentials.forget(&entry).await?;
                    return Ok(Replay::Gone);
                }
                Err(PayError::Unknown) => {
                    self.options.credentials.release(&entry.key);
                    return Ok(Replay::Ended(wallet_doubt(entry.paid)));
                }
            }
        }
        let delivery = self.deliver(call, &entry).await;
        let is_l402 = entry.paid.rail == Rail::L402;
        match delivery.answer {
            Ok(Verdict::Pay { challenge, problem }) if !delivery.is_repeat => {
                let charged = problem.as_ref().and_then(|problem| problem.charged);
                // A signed payment that was not taken may be made anew only if the server says
                // that it took nothing; a spent credential says so by being asked for another.
                let is_over = charged == Some(Charged::No) || is_l402 && charged.is_none();
                if is_over {
                    if charged == Some(Charged::No) && !is_l402 {
                        self.note(&entry, SpendOutcome::NotCharged, None).await;
                    }
                    self.options.credentials.forget(&entry).await?;
                    let asked = Verdict::Pay { challenge, problem };
                    return Ok(Replay::Asked(Box::new(asked)));
                }
                let answer = Ok(Verdict::Pay { challenge, problem });
                let delivery = Delivery { answer, is_repeat: false };
                Ok(Replay::Ended(self.conclude(&entry, delivery).await))
            }
            Ok(Verdict::Refused(problem)) if is_l402 && is_bad_credential(&problem) => {
                self.options.credentials.forget(&entry).await?;
                Ok(Replay::Gone)
            }
            answer => {
                let delivery = Delivery { answer, is_repeat: delivery.is_repeat };
                Ok(Replay::Ended(self.conclude(&entry, delivery).await))
            }
        }
    }

    async fn pay_x402(
        &self,
        call: &ToolCall,
        scope: &Scope,
        choice: &X402Choice<'_>,
    ) -> Result<Outcome, ClientError> {
        let (now, nonce) = (self.options.world.now(), self.options.world.random::<32>());
        let transfer = TransferAuthorization {
            from: choice.wallet.address(),
            to: choice.terms.pay_to,
            value: choice.offer.amount,
            valid_after_s: 0,
            valid_before_s: now.seconds().saturating_add(choice.window_s),
            nonce,
        };
        let signature = choice.wallet.sign(&transfer, &choice.domain);
        let signature = Signature::from_bytes(&signature).map_err(|_| ClientError::BadInput)?;
        let payload = x402::PaymentPayload {
            resource: Some(choice.required.resource.clone()),
            accepted: choice.offer.clone(),
            payload: x402::ExactEvm { authorization: transfer, signature },
            extensions: choice.required.extensions.clone(),
        };
        let paid = Paid {
            rail: Rail::X402,
            amount: choice.price.amount.clone(),
            micros: choice.price.micros,
            payee: choice.terms.pay_to.to_string(),
            reference: hex::encode(nonce),
            earlier: false,
        };
        let entry = Entry {
            version: 1,
            key: scope.call,
            server: self.server(),
            tool: call.name.clone(),
            expires_at: UnixMs::from_seconds(transfer.valid_before_s),
            uses_left: Some(1),
            channel: choice.channel,
            paid,
            proof: Proof::X402 { payload: payload.to_json() },
        };
        if let Some(offer) = self.reserve(call, &entry.paid).await? {
            return Ok(declined(vec![offer], None, None));
        }
        self.keep(&entry).await?;
        let delivery = self.deliver(call, &entry).await;
        if matches!(delivery.answer, Err(TransportError::Unreachable)) && !delivery.is_repeat {
            // The signature has left for nowhere.
            self.note(&entry, SpendOutcome::NotCharged, None).await;
            self.options.credentials.forget(&entry).await?;
            return Err(ClientError::Transport(TransportError::Unreachable));
        }
        Ok(self.conclude(&entry, delivery).await)
    }

    /// Buys a credential and presents it; `None` when another call has bought one meanwhile.
    async fn pay_l402(
        &self,
        call: &ToolCall,
        scope: &Scope,
        choice: &L402Choice<'_>,
        (problem, message): (Option<Problem>, Option<String>),
    ) -> Result<Option<Outcome>, ClientError> {
        let cache = &self.options.credentials;
        // One for several calls is bought once, however many wait for it.
        let turn = match choice.payable.is_for_several() {
            true => Some(cache.buying(scope.tool).await),
            false => None,
        };
        let place = match &turn {
            None => Place::Empty,
            Some(None) => Place::InDoubt,
            Some(Some(_ours)) => cache.place(&scope.tool, self.options.world.now()),
        };
        match place {
            Place::Ready => return Ok(None),
            Place::InDoubt => {
                let offers = vec![choice.declined(DeclineReason::UnderWay)];
                return Ok(Some(declined(offers, problem, message)));
            }
            Place::Empty | Place::LastUse => {}
        }
        let bought = self.buy(call, scope, choice).await?;
        drop(turn);
        match bought {
            Bought::Paid(entry) => {
                let delivery = self.deliver(call, &entry).await;
                Ok(Some(self.conclude(&entry, delivery).await))
            }
            Bought::Not(offer) => Ok(Some(declined(vec![offer], problem, message))),
            Bought::Unknown(paid) => Ok(Some(wallet_doubt(paid))),
        }
    }

    pub(crate) async fn keep(&self, entry: &Entry) -> Result<(), ClientError> {
        self.options.credentials.keep(entry.clone(), self.options.world.now()).await
    }

    /// Presents a payment; sends the same one again while its answer is lost or unknown.
    async fn deliver(&self, call: &ToolCall, entry: &Entry) -> Delivery {
        let mut pause_ms = self.options.resend_pause_ms;
        let mut is_repeat = false;
        let mut sendings_left = self.options.resends;
        loop {
            let sent = self.send_call(call, Some((&entry.proof, entry.channel))).await;
            let answer = match sent {
                Ok(verdict) => Ok(verdict),
                Err(ClientError::Transport(error)) => Err(error),
                Err(ClientError::Refused(problem)) => Ok(Verdict::Refused(*problem)),
                // What cannot be put into a request has not been sent.
                Err(_) => Err(TransportError::Unreachable),
            };
            let wait_ms = match &answer {
                Ok(Verdict::Refused(problem)) if problem.asks_to_repeat() => {
                    problem.retry_after_s.map(|seconds| seconds.saturating_mul(1000))
                }
                Err(TransportError::TooLarge | TransportError::NotMcp) | Ok(_) => {
                    return Delivery { answer, is_repeat };
                }
                Err(
                    TransportError::Lost | TransportError::TimedOut | TransportError::Unreachable,
                ) => None,
            };
            let wait_ms = wait_ms.unwrap_or(0).max(pause_ms);
            let resumes_at = self.options.world.now().plus_ms(wait_ms);
            if sendings_left == 0 || resumes_at >= entry.expires_at {
                return Delivery { answer, is_repeat };
            }
            // A refusal leaves nothing behind; only a lost answer may hide a run.
            is_repeat |= matches!(&answer, Err(TransportError::Lost | TransportError::TimedOut));
            sendings_left = sendings_left.saturating_sub(1);
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            pause_ms = pause_ms.saturating_mul(2);
        }
    }

    /// The outcome of a call whose payment was presented, written down.
    async fn conclude(&self, entry: &Entry, delivery: Delivery) -> Outcome {
        let outcome = self.concluded(entry, delivery).await;
        let (stands, receipt) = match &outcome {
            Outcome::Ok(done) => {
                (SpendOutcome::Answered, done.receipt.as_deref().and_then(call_of))
            }
            Outcome::InputNeeded(_) => (SpendOutcome::Unused, None),
            // An invoice is paid before it is presented: a refusal gives nothing back.
            Outcome::Refused(refused) => match (refused.charged, entry.paid.rail) {
                (Some(Charged::No), Rail::L402) => (SpendOutcome::Unused, None),
                (charged, _) => (charged.unwrap_or(Charged::Unknown).into(), None),
            },
            Outcome::Declined(_) | Outcome::Unknown(_) | Outcome::Failed(_) => {
                (SpendOutcome::Unknown, None)
            }
        };
        self.note(entry, stands, receipt).await;
        outcome
    }

    /// The outcome, and what becomes of the credential.
    async fn concluded(&self, entry: &Entry, delivery: Delivery) -> Outcome {
        let Delivery { answer, is_repeat } = delivery;
        let paid = entry.paid.clone();
        let cache = &self.options.credentials;
        let doubt = |problem, cause| {
            cache.release(&entry.key);
            Outcome::Unknown(Box::new(InDoubt { paid: paid.clone(), problem, cause }))
        };
        let problem = match answer {
            Err(cause) => return doubt(None, Some(cause)),
            Ok(Verdict::Done(done)) => {
                // The answer is worth more than the count: a stale one is refused by the server.
                let is_last_use = cache.used(entry).await.unwrap_or(false);
                return Outcome::Ok(Box::new(Completed { paid: Some(paid), is_last_use, ..done }));
            }
            Ok(Verdict::InputNeeded(asked)) => {
                cache.release(&entry.key);
                return Outcome::InputNeeded(Box::new(Completed { paid: Some(paid), ..asked }));
            }
            Ok(Verdict::Failed(error)) => {
                // Work is spent by the attempt, whatever came of it.
                match entry.paid.is_money() {
                    true => cache.release(&entry.key),
                    false => drop(cache.forget(entry).await),
                }
                return failed(error, Some(paid));
            }
            Ok(Verdict::Pay { problem, .. }) => problem.unwrap_or_else(|| {
                Problem::of_status(402, "the payment was answered with another challenge")
            }),
            Ok(Verdict::Refused(problem)) => problem,
        };
        let charged = charged(&problem, entry, is_repeat);
        if charged == Charged::Unknown {
            return doubt(Some(problem), None);
        }
        let is_spent = match entry.paid.rail {
            Rail::X402 => matches!(charged, Charged::No | Charged::Yes),
            Rail::L402 => problem.refuses_credential() && charged != Charged::Unused,
            Rail::Pow | Rail::Treasury => true,
        };
        if is_spent {
            let _ = cache.forget(entry).await;
        } else {
            cache.release(&entry.key);
        }
        let refused = Refused { problem, paid: Some(paid), charged: Some(charged) };
        Outcome::Refused(Box::new(refused))
    }
}

/// From here on the call runs to its end; `false` when its client has withdrawn it before.
pub(crate) fn begins_paying(call: &ToolCall) -> bool {
    call.passage.as_ref().is_none_or(|passage| passage.begins_paying())
}

/// Whether a refusal took the payment. What the server does not say: a signed transfer may have
/// been settled; a preimage is ours to present again, unless an answer was lost before.
fn charged(problem: &Problem, entry: &Entry, is_repeat: bool) -> Charged {
    match (problem.charged, entry.paid.rail) {
        (Some(charged), _) => charged,
        (None, Rail::X402 | Rail::Treasury) => Charged::Unknown,
        (None, Rail::Pow) => Charged::No,
        (None, Rail::L402) if is_repeat => Charged::Unknown,
        (None, Rail::L402) if problem.refuses_credential() => Charged::Yes,
        (None, Rail::L402) => Charged::Unused,
    }
}

/// The call that a receipt is for. Its signature is not checked here: this is for the log.
fn call_of(receipt: &RawValue) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Payload {
        call: String,
    }
    let token: String = serde_json::from_str(receipt.get()).ok()?;
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Payload>(&payload).ok().map(|payload| payload.call)
}

/// A 401 that is about the credential, not about the caller.
fn is_bad_credential(problem: &Problem) -> bool {
    let is_bare_401 = problem.code.is_empty() && problem.status == Some(401);
    problem.refuses_credential() || is_bare_401 && problem.url.is_none()
}

/// The `_meta` entry of a payment.
pub(crate) fn meta_of(proof: &Proof) -> Option<(&'static str, String)> {
    match proof {
        Proof::Invoice { .. } => None,
        Proof::L402 { token, preimage } => {
            Some((l402::META_PAYMENT, l402::mcp_proof(token, preimage.as_bytes())))
        }
        Proof::X402 { payload } => Some((x402::META_PAYMENT, payload.clone())),
        Proof::Work { nonce, solution } => {
            Some((pow::META, quote(&pow::Presented::text(nonce, solution))))
        }
    }
}

/// The header of a payment.
pub(crate) fn header_of(proof: &Proof) -> Option<(HeaderName, String)> {
    match proof {
        Proof::Invoice { .. } => None,
        Proof::L402 { token, preimage } => {
            Some((header::AUTHORIZATION, l402::authorization(token, preimage.as_bytes())))
        }
        Proof::X402 { payload } => {
            let name = HeaderName::from_bytes(x402::PAYMENT_SIGNATURE.as_bytes()).ok()?;
            let payload = x402::PaymentPayload::parse(payload.as_bytes()).ok()?;
            Some((name, payload.to_header()))
        }
        Proof::Work { nonce, solution } => {
            let name = HeaderName::from_bytes(pow::SOLUTION.as_bytes()).ok()?;
            Some((name, pow::Presented::text(nonce, solution)))
        }
    }
}

/// The outcome of an answer to a call without a payment.
fn ended(verdict: Verdict) -> Outcome {
    match verdict {
        Verdict::Done(done) => Outcome::Ok(Box::new(done)),
        Verdict::InputNeeded(asked) => Outcome::InputNeeded(Box::new(asked)),
        Verdict::Refused(problem) => {
            let charged = problem.charged;
            Outcome::Refused(Box::new(Refused { problem, paid: None, charged }))
        }
        Verdict::Failed(error) => failed(error, None),
        Verdict::Pay { problem, .. } => declined(Vec::new(), problem, None),
    }
}

fn failed(error: crate::rpc::RpcError, paid: Option<Paid>) -> Outcome {
    let crate::rpc::RpcError { code, message, data, .. } = error;
    Outcome::Failed(Box::new(Failed { code, message, data, paid }))
}

pub(crate) fn declined(
    offers: Vec<OfferSummary>,
    problem: Option<Problem>,
    message: Option<String>,
) -> Outcome {
    Outcome::Declined(Box::new(Declined { offers, problem, message }))
}

/// A challenge that contradicts itself has no offers to name.
pub(crate) fn unreadable(fault: NoChallenge) -> Vec<OfferSummary> {
    match fault {
        NoChallenge::Absent => Vec::new(),
        NoChallenge::Contradictory => vec![OfferSummary {
            rail: Rail::X402,
            amount: None,
            reason: DeclineReason::Contradictory,
        }],
    }
}
