//! From the reservation to the end: settling, running, capturing, and recording what was refused.

use crate::{
    answer::{self, Done},
    buy::Inquired,
    call::{Attempt, Refused},
    gate::Gate,
    oblige,
    prove::{Known, patience::is_counted, payment},
    rails::x402::{Attempt as Try, AuthorizationState, SettleOutcome, SignedPayment},
    session::Session,
    upstream::{Failure, Ran, Relay},
};
use bytes::Bytes;
use countersign_client::Voucher;
use countersign_core::{
    call::{Call, Era},
    digest::Digest,
    policy::Obligation,
    proof::{HeldPayment, Identity, Settlement},
    refusal::{Charged, Code, Family, Refusal},
    terms::Flow,
};
use countersign_store::{
    Evidence as StoredEvidence, FailCause, Finished, Hold, Outcome, SettlementReceipt, Settling,
    Take, failpoint,
};
use http::HeaderMap;
use serde_json::value::RawValue;
use std::{borrow::Cow, sync::Arc};

/// What the records of a call carry of its request: commitments are made of it.
#[must_use]
pub fn evidence(call: &Call) -> StoredEvidence {
    StoredEvidence {
        attempt: 1,
        trace: call.traceparent.as_deref().map(Into::into),
        arguments: call.arguments.as_str().into(),
        definition: None,
    }
}

impl Gate {
    /// Moves the money that moves before the side effect: the payer's to us, or the treasury's to
    /// the server behind, with what then shows that it is paid.
    ///
    /// # Errors
    /// As [`Gate::settle_upfront`] and [`Gate::buy`].
    pub(crate) async fn settle_before(
        &self,
        settling: Settling,
        attempt: &Attempt,
        asked: Option<Inquired>,
    ) -> Result<(Hold, Option<Voucher>), Refusal> {
        if settling.permit().quote().of_treasury().is_some() {
            let (hold, voucher) = self.buy(settling, attempt, asked).await?;
            return Ok((hold, Some(voucher)));
        }
        Ok((self.settle_upfront(settling).await?, None))
    }

    /// Takes the payer's money before the side effect.
    ///
    /// # Errors
    /// [`Code::SettlementFailed`] and its kin, nothing taken; [`Code::SettlementUnknown`];
    /// what the re-check found, money to be given back.
    pub async fn settle_upfront(&self, settling: Settling) -> Result<Hold, Refusal> {
        failpoint("settling");
        // A call that is carried on keeps its first attempt's id: something may be on its way.
        let is_first = settling.call() == settling.permit().call();
        let attempt = if is_first { Try::First } else { Try::Again };
        let settled = self.settle(settling.payload(), attempt).await;
        failpoint("settled");
        match settled {
            Settled::Taken(receipt) => self.store.settled(settling, receipt).await,
            Settled::Refused(code) => {
                let call = settling.call();
                self.store.settle_failed(settling, code).await?;
                Err(Refusal::new(code).call(call))
            }
            Settled::Unknown => Err(self.store.settle_unknown(settling).await),
        }
    }

    /// Asks the rail to take the money of a stored payload.
    pub(crate) async fn settle(&self, payload: Option<&str>, attempt: Try) -> Settled {
        if let Some(credential) = payload.and_then(HeldPayment::key_of) {
            return self.settle_held(credential).await;
        }
        let signed = payload.and_then(SignedPayment::from_stored);
        let (Some(rail), Some(signed)) = (&self.rails.x402, signed) else {
            return Settled::Unknown;
        };
        match rail.facilitator.settle(&signed, attempt).await {
            SettleOutcome::Settled { transaction } => Settled::taken(&signed, transaction),
            SettleOutcome::Failed(decline) => Settled::Refused(decline.code()),
            SettleOutcome::Unknown => Settled::Unknown,
        }
    }

    /// What became of a payment whose call will not run. Takes the money only where nobody but
    /// the facilitator can say whether it moved, and asking is settling again.
    pub(crate) async fn ask_or_settle(&self, payload: Option<&str>) -> Settled {
        let signed = payload.and_then(SignedPayment::from_stored);
        let (Some(rail), Some(signed)) = (&self.rails.x402, signed) else {
            return Settled::Unknown;
        };
        match rail.facilitator.lookup(&signed).await {
            Some(AuthorizationState::Used { transaction }) => Settled::taken(&signed, transaction),
            Some(AuthorizationState::Dead(decline)) => Settled::Refused(decline.code()),
            Some(AuthorizationState::Unused | AuthorizationState::Unknown) => Settled::Unknown,
            None => self.settle(payload, Try::Again).await,
        }
    }

    /// The caller's legacy session, when the call names one.
    ///
    /// # Errors
    /// [`Code::UnknownSession`] for one that is not there, or is somebody else's.
    pub fn session(
        &self,
        attempt: &Attempt,
        identity: &Identity,
    ) -> Result<Option<Arc<Session>>, Refusal> {
        let Some(id) = &attempt.session else { return Ok(None) };
        let upstream = self.upstream(&attempt.call.terms.tool.server)?;
        let found = upstream.sessions.find(id, identity.key());
        found.map(Some).ok_or_else(|| Code::UnknownSession.into())
    }

    /// Runs the tool.
    pub(crate) async fn run(
        &self,
        hold: &Hold,
        attempt: &Attempt,
        voucher: Option<&Voucher>,
    ) -> Result<Ran, Failure> {
        let call = &attempt.call;
        if call.terms.top_up {
            return Ok(Ran::Result(topped_up(call.era)));
        }
        let server = &call.terms.tool.server;
        let Ok(upstream) = self.upstream(server) else { return Err(Failure::NotExecuted) };
        let identity = hold.permit().identity();
        let Ok(session) = self.session(attempt, identity) else {
            return Err(Failure::NotExecuted);
        };
        let obligations = hold.permit().authorization().obligations();
        let Ok((headers, message)) = self.outgoing(obligations, attempt) else {
            return Err(Failure::NotExecuted);
        };
        let relay = Relay {
            method: http::Method::POST,
            headers: &headers,
            body: message,
            session: session.as_ref(),
            caller: Some(identity.key()),
        };
        // What comes before the answer could carry what the obligations keep back.
        let is_obliged = obligations.iter().any(Obligation::is_about_result);
        let progress = attempt.progress.as_ref().filter(|_| !is_obliged);
        upstream.run(hold, call, &relay, (progress, voucher)).await
    }

    /// The message that the server gets, and its headers: without what the obligations mask.
    ///
    /// # Errors
    /// As [`oblige::masked`].
    pub(crate) fn outgoing<'a>(
        &self,
        obligations: &[Obligation],
        attempt: &'a Attempt,
    ) -> Result<(Cow<'a, HeaderMap>, Bytes), Code> {
        let call = &attempt.call;
        Ok(match oblige::masked(obligations, &call.params)? {
            Some(params) => {
                let schema = self.definitions.mirrored(&call.terms.tool);
                let headers = oblige::mirrors_of(&params, &schema, &attempt.headers);
                (Cow::Owned(headers), oblige::message(call, &params))
            }
            None => (Cow::Borrowed(&attempt.headers), attempt.message.clone()),
        })
    }

    /// Ends a call that ran, or did not.
    ///
    /// # Errors
    /// What became of it, with whether it was charged.
    pub(crate) async fn conclude(
        &self,
        hold: Hold,
        ran: Result<Ran, Failure>,
    ) -> Result<Done, Refusal> {
        let ran = match ran {
            Ok(ran) => ran,
            Err(failure) => return Err(Box::pin(self.fail(hold, failure)).await),
        };
        let ran = match ran {
            Ran::Bought(heard) => return Box::pin(self.conclude_bought(hold, *heard)).await,
            Ran::Result(result) => Ok(result),
            Ran::Error(error) => Err(error),
        };
        let obligations = hold.permit().authorization().obligations();
        let obliged = match &ran {
            Ok(result) => oblige::result(obligations, result),
            Err(error) => oblige::error(obligations, error),
        };
        let Ok(answer) = obliged.map(|answer| answer::in_its_own_name(&answer)) else {
            let call = hold.call();
            let charged = Box::pin(self.store.fail(hold, FailCause::ToolError)).await?;
            return Err(Refusal::new(Code::UnknownObligation).charged(charged).call(call));
        };
        match ran.map(|_| Says::of(&answer)) {
            Ok(Says::Answer) => self.capture(hold, answer).await,
            Ok(says) => {
                let charged = Box::pin(self.store.fail(hold, says.cause())).await?;
                Ok(Done::ToolError(answer, charged))
            }
            Err(_) => {
                let charged = Box::pin(self.store.fail(hold, FailCause::ToolError)).await?;
                Ok(Done::ProtocolError(answer, charged))
            }
        }
    }

    async fn capture(&self, hold: Hold, result: String) -> Result<Done, Refusal> {
        let outcome = Outcome {
            digest: Digest::of(result.as_bytes()),
            result: result.into_bytes(),
            is_error: false,
            take: Take::All,
        };
        if hold.permit().payment().settlement() != Settlement::Due(Flow::Authorization) {
            return self.store.capture(hold, outcome).await.map(Done::Captured);
        }
        let finished = self.store.finish(hold, outcome).await?;
        failpoint("finished");
        Box::pin(self.settle_finished(finished, Try::First)).await
    }

    /// Takes the payer's money after the run; a failure withholds the result.
    ///
    /// # Errors
    /// [`Code::ResultWithheld`]; [`Code::SettlementUnknown`].
    pub(crate) async fn settle_finished(
        &self,
        finished: Finished,
        attempt: Try,
    ) -> Result<Done, Refusal> {
        let settled = self.settle(finished.payload(), attempt).await;
        failpoint("settled");
        match settled {
            Settled::Taken(receipt) => {
                self.store.capture_settled(finished, receipt).await.map(Done::Captured)
            }
            Settled::Refused(code) => {
                let call = finished.call();
                self.store.withhold(finished, code).await?;
                Err(Refusal::new(Code::ResultWithheld).with("cause", code).call(call))
            }
            Settled::Unknown => Err(self.store.settle_unknown_finished(finished).await),
        }
    }

    async fn fail(&self, hold: Hold, failure: Failure) -> Refusal {
        let call = hold.call();
        let (cause, code) = match failure {
            Failure::NotExecuted | Failure::Refused(_) => {
                (FailCause::NotExecuted, Code::UpstreamUnreachable)
            }
            Failure::Timeout => (FailCause::InDoubt, Code::UpstreamTimeout),
            Failure::Broken => (FailCause::InDoubt, Code::UpstreamBroken),
            Failure::TooLarge => (FailCause::InDoubt, Code::ResultTooLarge),
        };
        match self.store.fail(hold, cause).await {
            Ok(charged) => Refusal::new(code).charged(charged).call(call),
            Err(refusal) => refusal.charged(Charged::Unknown).call(call),
        }
    }

    /// Records a refused call, and adds the ways to pay where money is what is missing.
    pub(crate) async fn refuse(
        &self,
        attempt: &Attempt,
        mut known: Known,
        refusal: Refusal,
    ) -> Refused {
        let call = &attempt.call;
        let refusal = self.borne_call(attempt, &known, refusal);
        let lights = known.lights_after(&refusal);
        let refusal = refusal.lights(lights).call(call.id);
        let Some(principal) = known.principal.take() else {
            self.store.count_refusal(refusal.code());
            return Refused { refusal, challenge: None };
        };
        // A prepaid credential that was good is still good: nothing here has used it.
        let is_unused = self.has_uses(&known);
        let refusal = match refusal.is_charged() {
            Charged::No if is_unused => refusal.charged(Charged::Unused),
            Charged::No | Charged::Yes | Charged::Unknown | Charged::Unused => refusal,
        };
        // What was refused after its reservation has its records; the next attempt is asked anew.
        let is_reserved = known.is_permitted && !matches!(self.store.call(call.id), Ok(None));
        let is_ours = known.quote.as_ref().is_some_and(|quote| quote.of_treasury().is_some());
        let is_asking = attempt.asks_for_payment(refusal.code()) && !is_reserved && !is_ours;
        let refusal = match known.quote.clone().filter(|_| is_asking) {
            None => refusal,
            Some(quote) => match self.challenge(attempt, &known, quote, &refusal).await {
                Ok(challenge) => return Refused { refusal, challenge: Some(Box::new(challenge)) },
                // No challenge, no record yet: it is made under the code that is answered.
                Err(cause) => {
                    let charged = refusal.is_charged();
                    cause.lights(refusal.proofs()).charged(charged).call(call.id)
                }
            },
        };
        if is_reserved {
            return Refused { refusal, challenge: None };
        }
        if is_counted(refusal.code()) {
            self.store.count_refusal(refusal.code());
            return Refused { refusal, challenge: None };
        }
        let stored = payment::attempt(call, &principal, known.decided);
        match self.store.refuse(&stored, known.quote.as_ref(), &refusal).await {
            Ok(()) => Refused { refusal, challenge: None },
            Err(fault) => Refused {
                refusal: fault.lights(lights).charged(refusal.is_charged()).call(call.id),
                challenge: None,
            },
        }
    }
}

/// A fault of ours after the run leaves open what the ledger holds: the caller must not read
/// "not charged" into it.
pub(crate) fn truthful(refusal: Refusal) -> Refusal {
    let is_fault = refusal.code().row().family == Family::Fault;
    match refusal.is_charged() {
        Charged::No if is_fault => refusal.charged(Charged::Unknown),
        Charged::No | Charged::Yes | Charged::Unknown | Charged::Unused => refusal,
    }
}

/// The answer of a tool of ours: the ledger does what it says.
fn topped_up(era: Era) -> String {
    let text = "Your credit is topped up. Calls are paid from it when they carry \
                `countersign/credit` in `_meta`, or `Countersign-Credit`: a name of your own for \
                each payment.";
    let mut result = serde_json::json!({ "content": [{ "type": "text", "text": text }] });
    if let (Era::Modern, Some(members)) = (era, result.as_object_mut()) {
        members.insert("resultType".to_owned(), "complete".into());
    }
    result.to_string()
}

/// What became of the payer's money.
#[derive(Debug)]
pub(crate) enum Settled {
    Taken(SettlementReceipt),
    Refused(Code),
    Unknown,
}

impl Settled {
    fn taken(signed: &SignedPayment, transaction: String) -> Self {
        Self::Taken(SettlementReceipt {
            raw: signed.receipt(&transaction).to_json(),
            payer: Some(signed.payer().to_string()),
            transaction,
        })
    }
}

impl Attempt {
    /// Whether a new payment would mend the refusal, and somebody is there to be asked.
    fn asks_for_payment(&self, code: Code) -> bool {
        self.evidence.held.is_none() && code.row().status == 402 && code != Code::ResultWithheld
    }
}

/// What a result says of itself. Only the members' own values count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// It is the tool's answer.
    Answer,
    /// The tool failed (`isError`).
    Failed,
    /// It only asks its caller something (2026-07-28, `resultType`).
    Question,
}

impl Says {
    pub(crate) fn of(result: &str) -> Self {
        #[derive(serde::Deserialize)]
        struct Head<'a> {
            #[serde(rename = "isError", borrow, default)]
            is_error: Option<&'a RawValue>,
            #[serde(rename = "resultType", borrow, default)]
            kind: Option<&'a RawValue>,
        }
        let Ok(head) = serde_json::from_str::<Head<'_>>(result) else { return Self::Answer };
        if head.is_error.is_some_and(|is_error| is_error.get() == "true") {
            return Self::Failed;
        }
        let kind = head.kind.and_then(|kind| serde_json::from_str::<Cow<'_, str>>(kind.get()).ok());
        if kind.is_some_and(|kind| kind == "input_required") {
            Self::Question
        } else {
            Self::Answer
        }
    }

    /// Why the call is not captured, where it is none that is. An intermediate result costs
    /// nothing; its approval was for this run.
    pub(crate) const fn cause(self) -> FailCause {
        match self {
            Self::Question => FailCause::Unfinished,
            Self::Failed | Self::Answer => FailCause::ToolError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_says_what_it_is_by_its_own_members_alone() {
        for (result, says) in [
            (r#"{"content":[]}"#, Says::Answer),
            (r#"{"isError":false,"resultType":"complete"}"#, Says::Answer),
            (r#"{"isError":true}"#, Says::Failed),
            (r#"{"isError":true,"resultType":"input_required"}"#, Says::Failed),
            (r#"{"resultType":"input\u005frequired"}"#, Says::Question),
            (r#"{"isError":"true","resultType":"input_required"}"#, Says::Question),
            (r#"{"content":[{"isError":true,"resultType":"input_required"}]}"#, Says::Answer),
            (r#"{"isError":1}"#, Says::Answer),
            (r#"{"isError":null,"resultType":7}"#, Says::Answer),
            ("[]", Says::Answer),
        ] {
            assert_eq!(Says::of(result), says, "{result}");
        }
    }
}
