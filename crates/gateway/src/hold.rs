//! Held payments: the call runs when its money has come, and only then is the money taken.
//!
//! The payer's client knows nothing of it. It pays an invoice; its node holds the money towards
//! ours; the request that was kept with the challenge takes the path again, on current state, and
//! its success settles the invoice, which gives the client its preimage. The client's retry gets
//! the outcome that is kept. Whatever else becomes of the call, the money goes back.
//!
//! Owns the following of nodes, the sealed requests, and the end of every invoice. The path, the
//! ledger and the order of settling are the same as for any payment that is taken after the run.
//!
//! INVARIANT: a kept request is taken out of the store before it runs: it runs at most once.
//! INVARIANT: money is given back only for a call that has not run, or whose outcome is withheld.

use crate::{
    answer::Done,
    call::{self, Attempt, Original, Refused},
    conclude::Settled,
    gate::{Gate, Presented},
    mcp,
    prove::{
        evidence::HeldInvoice,
        lightning::{Begun, L402Rail},
    },
    rails::lightning::{HoldEnd, InvoiceState, Node},
    reload::Gates,
};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use countersign_core::{
    call::Call,
    digest::Digest,
    ledger::{CallState, Recovery},
    proof::{HeldPayment, Principal, hold_preimage},
    quote::Rail,
    refusal::{Charged, Code, Refusal},
    terms::DoubtRule,
    time::UnixMs,
};
use countersign_store::{InvoicePlace, OpenInvoice, SettlementReceipt, failpoint};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// Between two looks at nodes and at invoices that lapsed.
const ROUND: Duration = Duration::from_secs(5);
/// After a node gave no answer.
const PAUSE: Duration = Duration::from_secs(2);
/// Kind of the notes that keep how far a node was followed.
const CURSOR: &str = "lightning.cursor";
/// Lapsed invoices are looked up so many at a time, for so many milliseconds of each round.
const LOOKUPS: u32 = 50;
const SWEEP_MS: u64 = 2_000;
/// Open hold invoices looked up when a node is met again.
const MET_AGAIN: u32 = 1_000;
/// A held payment that is this near to going back by itself is not run.
const BLOCKS_MIN: u32 = 6;
/// A payment can still come so long after its invoice lapsed, in milliseconds (BOLT 4, `cltv`).
const LATE_MS: u64 = 3 * 3_600_000;
/// How often, and how long each time, who brings a preimage waits for the outcome: a restart of
/// ours may lie between.
const CAPTURE_LOOKS: u32 = 500;
const CAPTURE_LOOK: Duration = Duration::from_millis(20);
/// An invoice of a node that is no longer configured is forgotten so long after it lapsed, in
/// milliseconds.
const FORGET_MS: u64 = 24 * 3_600_000;
/// Requests that are larger do not wait: their invoices are plain.
const REQUEST_MAX_BYTES: usize = 64 << 10;

/// Follows every node until `stop`.
pub async fn run(gates: Gates, stop: watch::Receiver<bool>) {
    // The rails are the process's: they stay when the configuration is replaced.
    let rails = Arc::clone(&gates.now().rails);
    let Some(rail) = &rails.l402 else { return };
    let mut tasks = tokio::task::JoinSet::new();
    for node in rail.nodes.iter() {
        let (gates, node) = (gates.clone(), node.clone());
        tasks.spawn(async move { follow(&gates, &node).await });
    }
    let stocking = Arc::clone(&rails);
    tasks.spawn(async move {
        if let Some(rail) = &stocking.l402 {
            rail.nodes.keep_stocked().await;
        }
    });
    let mut ended = stop;
    let mut sweep = None;
    loop {
        rail.nodes.look().await;
        let gate = gates.now();
        rail.takings.lapse(gate.world.now());
        gate.ring(rail).await;
        gate.rebalance_by_rule(rail).await;
        sweep = gate.lapsed(rail, sweep).await;
        drop(gate);
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            _stop = async { ended.wait_for(|stop| *stop).await.map(drop) } => break,
        }
    }
    tasks.abort_all();
}

/// Follows one node, for ever. What happened while nobody followed it is looked up first.
async fn follow(gates: &Gates, node: &Node) {
    let rails = Arc::clone(&gates.now().rails);
    let Some(rail) = &rails.l402 else { return };
    let kept = gates.now().store.notes(CURSOR).unwrap_or_default();
    let mut cursor =
        kept.into_iter().find(|(key, _)| *key == *node.name).map_or_else(String::new, |(_, c)| c);
    let mut is_met = false;
    loop {
        if !is_met {
            is_met = meet(&gates.now(), node).await.is_ok();
        }
        match node.news(&cursor).await {
            Ok(news) => {
                let gate = gates.now();
                for hash in &news.accepted {
                    rail.takings.arrived(hash, gate.world.now());
                }
                for hash in &news.settled {
                    rail.takings.taken(hash, gate.world.now());
                }
                for hash in news.accepted {
                    let (gate, node) = (Arc::clone(&gate), node.clone());
                    tokio::spawn(async move { accepted(&gate, &node, hash).await });
                }
                for hash in news.settled {
                    let _faulted = gate.paid(&hash).await;
                }
                if news.cursor != cursor && !news.cursor.is_empty() {
                    cursor = news.cursor;
                    let _unkept = gate.store.note_put(CURSOR, &node.name, &cursor).await;
                }
            }
            Err(_silent) => {
                is_met = false;
                rail.nodes.lost(&node.name);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Looks up what a node holds for invoices of ours.
async fn meet(gate: &Arc<Gate>, node: &Node) -> Result<(), ()> {
    let open = gate.store.hold_invoices(&node.name, MET_AGAIN).map_err(drop)?;
    for invoice in open {
        match node.lookup(&invoice.payment_hash).await {
            Ok(InvoiceState::Accepted { .. }) => {
                let (gate, node) = (Arc::clone(gate), node.clone());
                tokio::spawn(async move { accepted(&gate, &node, invoice.payment_hash).await });
            }
            Ok(_) => {}
            Err(_silent) => return Err(()),
        }
    }
    Ok(())
}

/// The money for an invoice is held: its call runs, or the money goes back.
async fn accepted(gate: &Arc<Gate>, node: &Node, hash: [u8; 32]) {
    let Some(rail) = &gate.rails.l402 else { return };
    let Ok(Some(open)) = gate.store.open_invoice(&hash) else { return };
    // The money for plain invoices is taken as it comes.
    if open.request.is_none() {
        return;
    }
    let Ok(InvoiceState::Accepted { amount_msat, blocks_left }) = node.lookup(&hash).await else {
        return;
    };
    failpoint("held.accepted");
    let begun = rail.begin_hold(hash, amount_msat);
    if begun == Begun::Already {
        return;
    }
    let is_in_time = blocks_left.is_none_or(|blocks| blocks >= BLOCKS_MIN);
    let _asked_again_later = match gate.store.begin_held(hash).await {
        Ok(Some(first)) if begun == Begun::Now && is_in_time => {
            gate.run_held(rail, node, &first, amount_msat).await
        }
        Ok(Some(never_ran)) => gate.give_back(node, &never_ran).await,
        Ok(None) => gate.end_begun(node, &open).await,
        Err(fault) => Err(fault),
    };
    if begun == Begun::Now {
        rail.end_hold(&hash);
    }
}

/// A look at all invoices that had lapsed when it began, some at a time: it ends, however many
/// lapse meanwhile. A node that is silent keeps no other's; an invoice that has to stay open keeps
/// none behind it.
struct Sweep {
    began: UnixMs,
    after: InvoicePlace,
    /// Nodes that did not answer: theirs wait for the next one.
    silent: Vec<String>,
}

impl Sweep {
    fn at(now: UnixMs) -> Self {
        Self { began: now, after: InvoicePlace::default(), silent: Vec::new() }
    }

    /// Before which moments an invoice whose money is held lapsed, and one whose money is taken.
    const fn until(&self) -> (UnixMs, UnixMs) {
        (self.began, self.began.minus_ms(LATE_MS))
    }

    /// After a page was looked at, up to a silent node if there was one.
    fn goes_on(&mut self, page: &[OpenInvoice], silent: Option<String>) -> bool {
        if let Some(node) = silent {
            self.silent.push(node);
            return true;
        }
        self.after = page.last().map_or(self.after, OpenInvoice::place);
        u32::try_from(page.len()) == Ok(LOOKUPS)
    }
}

impl Gate {
    /// Takes the kept request's path, and ends the invoice by what became of the call.
    async fn run_held(
        self: &Arc<Self>,
        rail: &L402Rail,
        node: &Node,
        open: &OpenInvoice,
        amount_msat: u64,
    ) -> Result<(), Refusal> {
        let sealed = open.request.as_deref().unwrap_or_default();
        let attempt = match rail.sealed.open(sealed, &open.payment_hash) {
            Some((server, original)) => self.held_attempt(&server, original).await,
            None => Err(Code::InternalFault.into()),
        };
        let Ok(mut attempt) = attempt else { return self.give_back(node, open).await };
        attempt.evidence.held = Some(HeldInvoice { credential: open.credential, amount_msat });
        match call::take(Arc::clone(self), Box::new(attempt)).await {
            Ok(Done::Captured(_) | Done::Replayed(_)) => {
                self.store.close_invoice(open.payment_hash).await
            }
            // Recovery settles it: the outcome is kept.
            Err(Refused { refusal, .. }) if refusal.is_charged() == Charged::Unknown => Ok(()),
            Ok(Done::ToolError(..) | Done::ProtocolError(..)) | Err(_) => {
                self.give_back(node, open).await
            }
        }
    }

    /// The request as it came, without what was paid with then.
    async fn held_attempt(
        self: &Arc<Self>,
        server: &str,
        original: Original,
    ) -> Result<Attempt, Refusal> {
        let server = self.server(server).ok_or(Code::UnknownServer)?;
        let mut head = Request::new(()).into_parts().0;
        head.headers = original.headers;
        let mut attempt = mcp::again(self, &server, &head, &original.body).await?;
        attempt.evidence.peer = original.peer;
        (attempt.evidence.l402, attempt.evidence.x402) = (None, None);
        Ok(attempt)
    }

    /// Sends held money back and closes its invoice.
    async fn give_back(&self, node: &Node, open: &OpenInvoice) -> Result<(), Refusal> {
        failpoint("held.returning");
        match node.cancel(&open.payment_hash).await {
            Ok(HoldEnd::Gone) => {
                if let Some(rail) = &self.rails.l402 {
                    rail.takings.returned(&open.payment_hash);
                }
                self.store.close_invoice(open.payment_hash).await
            }
            // Nobody but us has the preimage: somebody settled it by hand, and owes it back.
            Ok(HoldEnd::Settled) => self.paid(&open.payment_hash).await,
            // It is asked again when the node is met again, and when the invoice has lapsed.
            Err(_silent) => Ok(()),
        }
    }

    /// The invoice of a request that was begun, whose money is still held: by where its call
    /// stands.
    async fn end_begun(&self, node: &Node, open: &OpenInvoice) -> Result<(), Refusal> {
        let call = self.store.call_under(open.credential)?;
        match call.map(|call| call.state) {
            None
            | Some(
                CallState::Released
                | CallState::Refused
                | CallState::Refunded
                | CallState::RefundDue,
            ) => self.give_back(node, open).await,
            // Recovery carries it on.
            Some(
                CallState::Reserved
                | CallState::Settling
                | CallState::Settled
                | CallState::Starting
                | CallState::Finished
                | CallState::Captured
                | CallState::InDoubt,
            ) => Ok(()),
        }
    }

    /// An invoice was paid, whether or not its credential is ever used: what is unused when it
    /// ends is owed back. Held money's invoice stays open until its call has ended: recovery asks
    /// the node by it.
    async fn paid(&self, hash: &[u8; 32]) -> Result<(), Refusal> {
        let Some(open) = self.store.open_invoice(hash)? else { return Ok(()) };
        let call = self.store.call_under(open.credential)?;
        let call = call.filter(|call| call.rail == Some(Rail::L402));
        let state = call.as_ref().map(|call| call.state);
        let is_open =
            |state: CallState| state == CallState::InDoubt || state.recovery() != Recovery::Nothing;
        if open.request.is_some() && state.is_some_and(is_open) {
            return Ok(());
        }
        if let (Some(credential), None) = (self.store.credential(open.credential)?, call) {
            let bearer = credential.minted.bearer.as_ref();
            let anonymous = Principal::anonymous();
            let tenant = bearer.map_or(&anonymous.tenant, |bearer| &bearer.principal.tenant);
            self.store.credential_paid(open.credential, tenant).await?;
        }
        self.store.close_invoice(*hash).await
    }

    /// Looks up invoices that lapsed, and closes them, for [`SWEEP_MS`]: what is left of the sweep,
    /// if it is not over.
    async fn lapsed(&self, rail: &L402Rail, sweep: Option<Sweep>) -> Option<Sweep> {
        let now = self.world.now();
        let mut sweep = sweep.unwrap_or_else(|| Sweep::at(now));
        while self.world.now().since_ms(now) < SWEEP_MS {
            let (until, but) = (sweep.until(), (&*sweep.silent, sweep.after));
            let page = self.store.lapsed_invoices(until, but, LOOKUPS).ok()?;
            let silent = self.look_up(rail, &page).await;
            if !sweep.goes_on(&page, silent) {
                return None;
            }
        }
        Some(sweep)
    }

    /// The same of some, until a node is silent or gone: gives its name.
    async fn look_up(&self, rail: &L402Rail, lapsed: &[OpenInvoice]) -> Option<String> {
        for open in lapsed {
            let node = rail.nodes.named(&open.node);
            let ended = match node {
                Some(node) => {
                    let state = node.lookup(&open.payment_hash).await;
                    let Ok(state) = state else { return Some(open.node.clone()) };
                    self.end(node, open, state).await
                }
                // The operator took it out of the configuration.
                None if open.expires_at < self.world.now().minus_ms(FORGET_MS) => {
                    self.store.close_invoice(open.payment_hash).await
                }
                None => return Some(open.node.clone()),
            };
            // It stays open, for the next sweep. A store that fails poisons itself; the server
            // ends for that elsewhere.
            let _overloaded = ended;
        }
        None
    }

    /// Ends an invoice that lapsed, by what its node says.
    async fn end(
        &self,
        node: &Node,
        open: &OpenInvoice,
        state: InvoiceState,
    ) -> Result<(), Refusal> {
        let is_hold = open.request.is_some();
        match state {
            InvoiceState::Accepted { .. } if is_hold => self.end_lapsed(node, open).await,
            // Withdrawn: a payment that was on its way could still be held for hours.
            InvoiceState::Open | InvoiceState::Expired if is_hold => {
                self.give_back(node, open).await
            }
            InvoiceState::Settled => self.paid(&open.payment_hash).await,
            InvoiceState::Open
            | InvoiceState::Expired
            | InvoiceState::Cancelled
            | InvoiceState::Missing
            | InvoiceState::Accepted { .. } => self.store.close_invoice(open.payment_hash).await,
        }
    }

    /// The money for a lapsed invoice is held: its quote is over, so a request that was not begun
    /// would be refused.
    async fn end_lapsed(&self, node: &Node, open: &OpenInvoice) -> Result<(), Refusal> {
        let rail = self.rails.l402.as_ref();
        if rail.is_some_and(|rail| rail.is_running(&open.payment_hash)) {
            return Ok(());
        }
        match self.store.begin_held(open.payment_hash).await? {
            Some(_never_ran) => self.give_back(node, open).await,
            None => self.end_begun(node, open).await,
        }
    }

    /// Takes the money that is held for a credential.
    pub(crate) async fn settle_held(&self, credential: Digest) -> Settled {
        let found = self.store.credential(credential).ok().flatten();
        let open = self.store.invoice_of(credential).ok().flatten();
        let rail = self.rails.l402.as_ref();
        let node = rail.zip(open).and_then(|(rail, open)| rail.nodes.named(&open.node));
        let (Some(found), Some(node)) = (found, node) else { return Settled::Unknown };
        match node.settle(&hold_preimage(&found.root_key)).await {
            Ok(HoldEnd::Settled) => Settled::Taken(SettlementReceipt {
                transaction: found.payment_hash.to_hex(),
                payer: None,
                raw: String::new(),
            }),
            Ok(HoldEnd::Gone) => Settled::Refused(Code::SettlementFailed),
            Err(_silent) => Settled::Unknown,
        }
    }

    /// Ends calls in doubt whose money is only held: it goes back, since nobody is charged without
    /// a result that is kept.
    ///
    /// # Errors
    /// `StoreFault`.
    pub(crate) async fn release_held_doubts(&self) -> Result<(), Refusal> {
        let Some(rail) = &self.rails.l402 else { return Ok(()) };
        for doubt in self.store.in_doubt() {
            let held = doubt.payload.as_deref().and_then(HeldPayment::key_of);
            let Some(credential) = held.filter(|_| !doubt.is_settled) else { continue };
            if let Some(open) = self.store.invoice_of(credential)? {
                let Some(node) = rail.nodes.named(&open.node) else { continue };
                match node.cancel(&open.payment_hash).await {
                    Ok(HoldEnd::Gone) => self.store.close_invoice(open.payment_hash).await?,
                    Ok(HoldEnd::Settled) | Err(_) => continue,
                }
            }
            self.store.resolve(doubt.call, DoubtRule::Refund, "gateway").await?;
        }
        Ok(())
    }

    /// A preimage is out as soon as the node takes the money, a moment before the outcome is
    /// posted: whoever comes with it waits for that.
    ///
    /// # Errors
    /// `StoreFault`.
    pub(crate) async fn await_capture(
        &self,
        call: &Call,
        principal: &Principal,
        credential: Option<&Presented>,
    ) -> Result<(), Refusal> {
        let Some(Ok(credential)) = credential else { return Ok(()) };
        if credential.uses() != 1 {
            return Ok(());
        }
        let digest = call.digest(principal);
        for _ in 0..CAPTURE_LOOKS {
            let standing = self.store.standing_for(credential.key(), digest)?;
            if standing.is_none_or(|standing| standing.state != CallState::Finished) {
                break;
            }
            tokio::time::sleep(CAPTURE_LOOK).await;
        }
        Ok(())
    }
}

/// Seals requests that wait for their money.
pub struct Sealed(LessSafeKey);

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed")
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    server: String,
    headers: Vec<(String, String)>,
    body: String,
    /// Missing in what was sealed before it was kept.
    peer: Option<IpAddr>,
}

impl Sealed {
    /// Under a key of the deployment.
    #[must_use]
    pub fn of(secret: &[u8; 32]) -> Option<Self> {
        let key = Digest::of_parts(&[b"countersign held request", secret]);
        UnboundKey::new(&CHACHA20_POLY1305, key.as_bytes()).ok().map(LessSafeKey::new).map(Self)
    }

    /// A request as it is kept, before it is sealed; `None` for one that is too large to wait.
    #[must_use]
    pub fn keepable(server: &str, original: &Original) -> Option<Vec<u8>> {
        let text = |value: &HeaderValue| value.to_str().ok().map(ToOwned::to_owned);
        let header =
            |(name, value): (&HeaderName, &HeaderValue)| Some((name.to_string(), text(value)?));
        let headers = original.headers.iter().map(header).collect::<Option<Vec<_>>>()?;
        let body = STANDARD.encode(&original.body);
        let kept = Kept { server: server.to_owned(), headers, body, peer: Some(original.peer) };
        let kept = serde_json::to_vec(&kept).ok()?;
        (kept.len() <= REQUEST_MAX_BYTES).then_some(kept)
    }

    /// A request that [`Self::keepable`] gave, bound to its invoice.
    #[must_use]
    pub fn seal(&self, kept: Vec<u8>, (hash, nonce): (&[u8; 32], [u8; 12])) -> Option<Vec<u8>> {
        let mut sealed = kept;
        let aad = Aad::from(*hash);
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .ok()?;
        Some([nonce.as_slice(), &sealed].concat())
    }

    /// The server and the request.
    #[must_use]
    pub fn open(&self, sealed: &[u8], hash: &[u8; 32]) -> Option<(String, Original)> {
        let (nonce, sealed) = sealed.split_first_chunk::<12>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(*hash), &mut sealed).ok()?;
        let kept: Kept = serde_json::from_slice(opened).ok()?;
        let mut headers = HeaderMap::new();
        for (name, value) in kept.headers {
            let mut value = HeaderValue::from_str(&value).ok()?;
            value.set_sensitive(true);
            headers.append(HeaderName::try_from(name).ok()?, value);
        }
        let body = Bytes::from(STANDARD.decode(kept.body).ok()?);
        let peer = kept.peer.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        Some((kept.server, Original { headers, body, peer }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_passes_what_stays_open_and_who_is_silent_and_ends() {
        let page = |from: u64, count: u64| -> Vec<OpenInvoice> {
            let invoice = |at| OpenInvoice {
                payment_hash: [7; 32],
                credential: Digest::from_bytes([0; 32]),
                node: "one".to_owned(),
                request: None,
                expires_at: UnixMs(at),
            };
            (from..from + count).map(invoice).collect()
        };
        let full = u64::from(LOOKUPS);
        let mut sweep = Sweep::at(UnixMs(LATE_MS + 9));
        assert_eq!(sweep.until(), (UnixMs(LATE_MS + 9), UnixMs(9)));
        assert!(sweep.goes_on(&page(1, full), Some("one".to_owned())), "the same, but for its own");
        assert_eq!(
            (&*sweep.silent, sweep.after),
            (&["one".to_owned()][..], InvoicePlace::default())
        );
        assert!(sweep.goes_on(&page(1, full), None));
        assert_eq!(sweep.after, (UnixMs(full), [7; 32]), "closed or not");
        assert!(!sweep.goes_on(&page(full + 1, full - 1), None), "the last page");
        assert!(!Sweep::at(UnixMs(0)).goes_on(&[], None));
    }

    #[test]
    fn a_kept_request_opens_for_its_invoice_alone() {
        let sealed = Sealed::of(&[7; 32]).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer secret"));
        let (body, peer) = (Bytes::from_static(b"{\"a\":1}"), Ipv4Addr::LOCALHOST.into());
        let original = Original { headers, body, peer };
        let kept = Sealed::keepable("weather", &original).unwrap();
        let kept = sealed.seal(kept, (&[1; 32], [2; 12])).unwrap();
        assert!(!kept.windows(6).any(|window| window == b"secret"));
        let (server, opened) = sealed.open(&kept, &[1; 32]).unwrap();
        assert_eq!(
            (&*server, &opened.headers, &opened.body, opened.peer),
            ("weather", &original.headers, &original.body, peer)
        );
        assert!(sealed.open(&kept, &[3; 32]).is_none(), "another invoice");
        assert!(Sealed::of(&[8; 32]).unwrap().open(&kept, &[1; 32]).is_none());
        let large = Original { headers: HeaderMap::new(), body: vec![b'x'; 64 << 10].into(), peer };
        assert!(Sealed::keepable("weather", &large).is_none());
    }
}
