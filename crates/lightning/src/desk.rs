//! The node and the journal together: what can be asked of them, and what the node tells.
//!
//! Every verb is synchronous and may wait for disk or peers: the API calls it off its own threads.
//!
//! INVARIANT: the node forgets an event only after the journal has it, and nobody sees what an
//! event changed before the node has forgotten it. A decision (settle, cancel, pay) is in the
//! journal before the node acts on it, and is acted on again at the next start.

mod channels;
mod invoices;
mod log;
mod payments;
mod refunds;

pub(crate) use invoices::{AskedInvoice, InvoiceView};
pub(crate) use payments::{AskedPayment, PaymentView};

use crate::{
    answer::{Answer, Code, no},
    book::{Book, End, Entry, Fact},
    config::{Chain, Config, Provider},
    journal::Journal,
};
use ldk_node::{
    Builder, Event, Node,
    bitcoin::Network,
    config::Config as Settings,
    lightning::ln::channelmanager::PaymentId,
    lightning_types::payment::{PaymentHash, PaymentPreimage},
    liquidity::LSPS2ServiceConfig,
};
use serde::Serialize;
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::watch;

/// A sync of the chain that is older makes the node say it is not in sync.
const SYNC_AGE_S: u64 = 300;

pub(crate) struct Desk {
    node: Node,
    journal: Mutex<Journal>,
    /// One at a time makes payments and refunds.
    sending: Mutex<()>,
    /// The number of the last fact, for those who wait.
    seen: watch::Sender<u64>,
    network: Network,
    has_jit: bool,
    has_lsps1: bool,
}

/// What the node is.
#[derive(Serialize)]
pub(crate) struct InfoView {
    node_id: String,
    network: String,
    height: u32,
    synced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    listen: Vec<String>,
    capabilities: Capabilities,
}

#[derive(Serialize)]
struct Capabilities {
    hold: bool,
    msat: bool,
    jit: bool,
    bolt12: bool,
    lsps1: bool,
}

/// What to do with an event.
enum Told {
    Keep(Fact),
    GiveBack(PaymentHash),
    Nothing,
}

impl Desk {
    /// Reads the journal, starts the node, and makes true what was decided before a crash.
    pub(crate) fn open(config: Config) -> Result<Desk, String> {
        let journal = Journal::open(&config.data_dir)?;
        let (network, has_jit) = (config.network, config.lsps2.is_some());
        let has_lsps1 = config.lsps1.is_some();
        let node = build(config)?;
        let (seen, _) = watch::channel(journal.book.last);
        let (journal, sending) = (Mutex::new(journal), Mutex::new(()));
        let desk = Desk { node, journal, sending, seen, network, has_jit, has_lsps1 };
        desk.node.start().map_err(|why| format!("the node does not start: {why}"))?;
        // All that is left from before, so that no old event meets a new decision.
        while let Some(event) = desk.node.next_event() {
            desk.take_in(event)?;
        }
        desk.resume()?;
        Ok(desk)
    }

    pub(crate) fn stop(&self) {
        // It says only that it did not run.
        let _stopped = self.node.stop();
    }

    pub(crate) fn node_id(&self) -> String {
        self.node.node_id().to_string()
    }

    /// Takes the node's events into the journal. Ends with the reason why it cannot go on.
    pub(crate) async fn pump(self: Arc<Self>) -> String {
        loop {
            let event = self.node.next_event_async().await;
            let desk = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || desk.take_in(event)).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => return why,
                Err(_) => return "an event could not be taken in".to_owned(),
            }
        }
    }

    fn take_in(&self, event: Event) -> Result<(), String> {
        let height = self.height();
        let mut journal = self.journal().map_err(|_| "the journal is broken".to_owned())?;
        match told(event, &journal.book, height) {
            Told::Keep(fact) => {
                let kept = journal.append(fact);
                kept.map_err(|why| format!("journal: {why}"))?;
            }
            // Failing it twice, or after it went back, changes nothing.
            Told::GiveBack(hash) => {
                let _tried = self.node.bolt11_payment().fail_for_hash(hash);
            }
            Told::Nothing => {}
        }
        self.node.event_handled().map_err(|why| format!("event: {why}"))?;
        self.seen.send_replace(journal.book.last);
        self.forget(&mut journal);
        Ok(())
    }

    /// Ends what was decided: the node may have lost it in a crash.
    fn resume(&self) -> Result<(), String> {
        let height = self.height();
        let journal = self.journal().map_err(|_| "the journal is broken".to_owned())?;
        for (hash, invoice) in &journal.book.invoices {
            let (Some(held), Some(hash)) = (&invoice.held, hash_of(hash)) else { continue };
            let bolt11 = self.node.bolt11_payment();
            match &invoice.end {
                End::Settling(preimage) => {
                    let preimage = bytes(preimage).ok_or("journal: a preimage cannot be read")?;
                    let preimage = PaymentPreimage(preimage);
                    let _tried = bolt11.claim_for_hash(hash, held.amount_msat, preimage);
                }
                End::Cancelled if !held.went_back(height) => {
                    let _tried = bolt11.fail_for_hash(hash);
                }
                End::None | End::Settled(_) | End::Cancelled => {}
            }
        }
        Ok(())
    }

    pub(crate) fn info(&self) -> InfoView {
        let status = self.node.status();
        let now_s = crate::world::now_ms() / 1000;
        let synced = status.latest_lightning_wallet_sync_timestamp;
        let listen = self.node.listening_addresses().unwrap_or_default();
        InfoView {
            node_id: self.node_id(),
            network: self.network.to_string(),
            height: status.current_best_block.height,
            synced: synced.is_some_and(|at_s| now_s.saturating_sub(at_s) < SYNC_AGE_S),
            alias: self.node.node_alias().map(|alias| alias.to_string()),
            listen: listen.iter().map(ToString::to_string).collect(),
            capabilities: Capabilities {
                hold: true,
                msat: true,
                jit: self.has_jit,
                bolt12: true,
                lsps1: self.has_lsps1,
            },
        }
    }

    /// Looks at the chain now.
    pub(crate) fn sync(&self) -> Answer<u32> {
        self.node.sync_wallets()?;
        Ok(self.height())
    }

    /// Events after the cursor.
    pub(crate) fn events(&self, cursor: u64, limit: usize) -> Answer<Vec<Entry>> {
        let journal = self.journal()?;
        let gone = journal.book.gone_through;
        if cursor < gone {
            return Err(crate::answer::cursor_gone(gone));
        }
        Ok(journal.book.events(cursor, limit))
    }

    /// The refund that a payment is of.
    pub(crate) fn key_of(&self, payment_id: &str) -> Option<String> {
        self.journal().ok().and_then(|journal| journal.book.key_of(payment_id).cloned())
    }

    /// Wakes at each new fact.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.seen.subscribe()
    }

    fn height(&self) -> u32 {
        self.node.status().current_best_block.height
    }

    fn journal(&self) -> Answer<MutexGuard<'_, Journal>> {
        self.journal.lock().map_err(|_| no(Code::Fault, "the journal is broken"))
    }

    fn sending(&self) -> Answer<MutexGuard<'_, ()>> {
        self.sending.lock().map_err(|_| no(Code::Fault, "sending is broken"))
    }

    fn append(&self, journal: &mut Journal, fact: Fact) -> Answer<()> {
        journal.append(fact)?;
        self.seen.send_replace(journal.book.last);
        self.forget(journal);
        Ok(())
    }

    /// Lets the node forget the invoices that nobody paid and the journal no longer has: it holds
    /// all it knows in memory.
    fn forget(&self, journal: &mut Journal) {
        for id in journal.dropped.drain(..).filter_map(|hash| bytes(&hash)).map(PaymentId) {
            // What stays costs memory, no more.
            let _tried = self.node.remove_payment(&id);
        }
    }
}

fn build(config: Config) -> Result<Node, String> {
    let mut settings = Settings { network: config.network, ..Settings::default() };
    if let Some(anchors) = settings.anchor_channels_config.as_mut() {
        anchors.per_channel_reserve_sats = config.anchor_reserve_sat;
    }
    let mut builder = Builder::from_config(settings);
    let folder = config.data_dir.to_str().ok_or("data_dir: not UTF-8")?;
    builder.set_storage_dir_path(folder.to_owned());
    builder.set_custom_logger(Arc::new(log::Stderr { least: config.log }));
    if !config.listen.is_empty() {
        builder.set_listening_addresses(config.listen).map_err(|why| why.to_string())?;
    }
    if let Some(alias) = config.alias {
        builder.set_node_alias(alias).map_err(|why| why.to_string())?;
    }
    match config.chain {
        Chain::Bitcoind { host, port, user, password } => {
            builder.set_chain_source_bitcoind_rpc(host, port, user, password);
        }
        Chain::Esplora { url } => {
            builder.set_chain_source_esplora(url, None);
        }
    }
    if let Some(Provider { node_id, address, token }) = config.lsps1 {
        builder.set_liquidity_source_lsps1(node_id, address, token);
    }
    if let Some(Provider { node_id, address, token }) = config.lsps2 {
        builder.set_liquidity_source_lsps2(node_id, address, token);
    }
    if let Some(opening) = config.lsps2_service {
        builder.set_liquidity_provider_lsps2(service(&opening));
    }
    builder.build().map_err(|why| format!("the node cannot be built: {why}"))
}

fn service(opening: &crate::config::RawOpening) -> LSPS2ServiceConfig {
    LSPS2ServiceConfig {
        require_token: None,
        advertise_service: false,
        channel_opening_fee_ppm: opening.opening_fee_ppm,
        channel_over_provisioning_ppm: 1_000_000,
        min_channel_opening_fee_msat: opening.opening_fee_min_msat,
        min_channel_lifetime: 1000,
        max_client_to_self_delay: 2016,
        min_payment_size_msat: 0,
        max_payment_size_msat: 1_000_000_000,
        client_trusts_lsp: false,
    }
}

/// What an event of the node means for the book.
fn told(event: Event, book: &Book, height: u32) -> Told {
    let fact = match event {
        Event::PaymentClaimable { payment_hash, claimable_amount_msat, claim_deadline, .. } => {
            let fact = Fact::Accepted {
                payment_hash: hex::encode(payment_hash.0),
                amount_msat: claimable_amount_msat,
                claim_deadline_height: claim_deadline,
            };
            if !book.knows(&fact) && !book.takes(&hex::encode(payment_hash.0), height) {
                return Told::GiveBack(payment_hash);
            }
            fact
        }
        Event::PaymentReceived { payment_hash, amount_msat, .. } => {
            Fact::Settled { payment_hash: hex::encode(payment_hash.0), amount_msat }
        }
        Event::PaymentSuccessful { payment_id, payment_hash, payment_preimage, fee_paid_msat } => {
            let payment_id = payment_id.unwrap_or(PaymentId(payment_hash.0));
            Fact::Paid {
                payment_id: hex::encode(payment_id.0),
                payment_hash: hex::encode(payment_hash.0),
                preimage: payment_preimage.map(|preimage| hex::encode(preimage.0)),
                fee_msat: fee_paid_msat,
            }
        }
        Event::PaymentFailed { payment_id: Some(payment_id), payment_hash, reason } => {
            Fact::Failed {
                payment_id: hex::encode(payment_id.0),
                payment_hash: payment_hash.map(|hash| hex::encode(hash.0)),
                reason: reason
                    .map_or_else(|| "unknown".to_owned(), |why| word(&format!("{why:?}"))),
            }
        }
        Event::ChannelPending { channel_id, counterparty_node_id, .. } => Fact::ChannelPending {
            channel_id: channel_id.to_string(),
            node_id: counterparty_node_id.to_string(),
        },
        Event::ChannelReady { channel_id, counterparty_node_id, .. } => Fact::ChannelReady {
            channel_id: channel_id.to_string(),
            node_id: counterparty_node_id.map(|id| id.to_string()),
        },
        Event::ChannelClosed { channel_id, counterparty_node_id, reason, .. } => {
            Fact::ChannelClosed {
                channel_id: channel_id.to_string(),
                node_id: counterparty_node_id.map(|id| id.to_string()),
                reason: reason.map(|why| why.to_string().chars().take(200).collect()),
            }
        }
        Event::PaymentFailed { payment_id: None, .. }
        | Event::PaymentForwarded { .. }
        | Event::SplicePending { .. }
        | Event::SpliceFailed { .. } => return Told::Nothing,
    };
    if book.knows(&fact) { Told::Nothing } else { Told::Keep(fact) }
}

/// `RouteNotFound` as `route_not_found`.
fn word(name: &str) -> String {
    let mut out = String::new();
    for (at, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && at > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// 32 bytes in lower-case hex.
fn bytes(text: &str) -> Option<[u8; 32]> {
    let is_lower = text.bytes().all(|byte| !byte.is_ascii_uppercase());
    hex::decode(text).ok().filter(|_| is_lower)?.try_into().ok()
}

fn hash_of(text: &str) -> Option<PaymentHash> {
    bytes(text).map(PaymentHash)
}

fn millis(since_1970: Duration) -> u64 {
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_words() {
        assert_eq!(word("RouteNotFound"), "route_not_found");
    }

    #[test]
    fn a_hash_is_32_bytes_in_lower_case() {
        assert!(bytes(&"ab".repeat(32)).is_some());
        assert!(bytes(&"AB".repeat(32)).is_none());
        assert!(bytes(&"ab".repeat(31)).is_none());
    }
}
