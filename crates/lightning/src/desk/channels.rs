//! Channels, peers, on-chain addresses, and inbound channels that are bought.

use super::Desk;
use crate::answer::{Answer, Code, no};
use ldk_node::{
    ChannelDetails, UserChannelId,
    bitcoin::secp256k1::PublicKey,
    lightning::ln::msgs::SocketAddress,
    lightning_liquidity::lsps1::msgs::{LSPS1OrderId, LSPS1PaymentState},
    liquidity::LSPS1OrderStatus,
};
use serde::{Deserialize, Serialize};
use std::str::FromStr as _;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedPeer {
    node_id: String,
    address: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedChannel {
    node_id: String,
    address: String,
    capacity_sat: u64,
    push_msat: Option<u64>,
    #[serde(default)]
    announce: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AskedOrder {
    inbound_sat: u64,
    #[serde(default)]
    outbound_sat: u64,
    expiry_blocks: u32,
    #[serde(default)]
    announce: bool,
}

#[derive(Serialize)]
pub(crate) struct BalancesView {
    inbound_msat: u64,
    outbound_msat: u64,
    onchain_sat: u64,
    onchain_spendable_sat: u64,
    channels: Vec<ChannelView>,
}

#[derive(Serialize)]
struct ChannelView {
    id: String,
    channel_id: String,
    node_id: String,
    capacity_sat: u64,
    inbound_msat: u64,
    outbound_msat: u64,
    ready: bool,
    usable: bool,
    outbound: bool,
    announced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmations: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    funding: Option<String>,
}

#[derive(Serialize)]
pub(crate) struct OrderView {
    id: String,
    state: &'static str,
    inbound_sat: u64,
    outbound_sat: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    fee_sat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_sat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bolt11: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
}

impl Desk {
    pub(crate) fn balances(&self) -> BalancesView {
        let channels = self.node.list_channels();
        let sum = |part: fn(&ChannelDetails) -> u64| {
            let usable = channels.iter().filter(|channel| channel.is_usable);
            usable.map(part).fold(0, u64::saturating_add)
        };
        let onchain = self.node.list_balances();
        BalancesView {
            inbound_msat: sum(|channel| channel.inbound_capacity_msat),
            outbound_msat: sum(|channel| channel.outbound_capacity_msat),
            onchain_sat: onchain.total_onchain_balance_sats,
            onchain_spendable_sat: onchain.spendable_onchain_balance_sats,
            channels: channels.iter().map(channel_view).collect(),
        }
    }

    pub(crate) fn address(&self) -> Answer<String> {
        Ok(self.node.onchain_payment().new_address()?.to_string())
    }

    pub(crate) fn connect(&self, asked: &AskedPeer) -> Answer<()> {
        let (node_id, address) = peer(&asked.node_id, &asked.address)?;
        Ok(self.node.connect(node_id, address, true)?)
    }

    pub(crate) fn open_channel(&self, asked: &AskedChannel) -> Answer<String> {
        let (node_id, address) = peer(&asked.node_id, &asked.address)?;
        let (capacity_sat, push_msat) = (asked.capacity_sat, asked.push_msat);
        let id = if asked.announce {
            self.node.open_announced_channel(node_id, address, capacity_sat, push_msat, None)?
        } else {
            self.node.open_channel(node_id, address, capacity_sat, push_msat, None)?
        };
        Ok(name(&id))
    }

    pub(crate) fn close_channel(&self, id: &str, force: bool) -> Answer<()> {
        let channels = self.node.list_channels();
        let channel = channels.iter().find(|channel| name(&channel.user_channel_id) == id);
        let channel = channel.ok_or_else(|| no(Code::NotFound, "no channel has this id"))?;
        let (id, with) = (&channel.user_channel_id, channel.counterparty_node_id);
        if force {
            Ok(self.node.force_close_channel(id, with, None)?)
        } else {
            Ok(self.node.close_channel(id, with)?)
        }
    }

    pub(crate) fn order(&self, asked: &AskedOrder) -> Answer<OrderView> {
        let lsps1 = self.node.lsps1_liquidity();
        let (inbound_sat, outbound_sat) = (asked.inbound_sat, asked.outbound_sat);
        let order = lsps1.request_channel(
            inbound_sat,
            outbound_sat,
            asked.expiry_blocks,
            asked.announce,
        )?;
        Ok(order_view(&order))
    }

    pub(crate) fn ordered(&self, id: String) -> Answer<OrderView> {
        let order = self.node.lsps1_liquidity().check_order_status(LSPS1OrderId(id))?;
        Ok(order_view(&order))
    }
}

fn peer(node_id: &str, address: &str) -> Answer<(PublicKey, SocketAddress)> {
    let node_id = PublicKey::from_str(node_id)
        .map_err(|_| no(Code::BadRequest, "`node_id`: not a node's public key"))?;
    let address = SocketAddress::from_str(address)
        .map_err(|_| no(Code::BadRequest, "`address`: not HOST:PORT"))?;
    Ok((node_id, address))
}

fn name(id: &UserChannelId) -> String {
    format!("{:032x}", id.0)
}

fn channel_view(channel: &ChannelDetails) -> ChannelView {
    ChannelView {
        id: name(&channel.user_channel_id),
        channel_id: channel.channel_id.to_string(),
        node_id: channel.counterparty_node_id.to_string(),
        capacity_sat: channel.channel_value_sats,
        inbound_msat: channel.inbound_capacity_msat,
        outbound_msat: channel.outbound_capacity_msat,
        ready: channel.is_channel_ready,
        usable: channel.is_usable,
        outbound: channel.is_outbound,
        announced: channel.is_announced,
        confirmations: channel.confirmations,
        funding: channel.funding_txo.map(|outpoint| outpoint.to_string()),
    }
}

/// An order is also the quote: nothing happens before it is paid.
fn order_view(order: &LSPS1OrderStatus) -> OrderView {
    let (bolt11, onchain) = (&order.payment_options.bolt11, &order.payment_options.onchain);
    let state = bolt11.as_ref().map(|by| &by.state).or(onchain.as_ref().map(|by| &by.state));
    let expires =
        bolt11.as_ref().map(|by| by.expires_at).or(onchain.as_ref().map(|b| b.expires_at));
    OrderView {
        id: order.order_id.0.clone(),
        state: match (&order.channel_state, state) {
            (Some(_), _) => "opened",
            (None, Some(LSPS1PaymentState::Paid)) => "paid",
            (None, Some(LSPS1PaymentState::Refunded)) => "refunded",
            (None, Some(LSPS1PaymentState::ExpectPayment) | None) => "unpaid",
        },
        inbound_sat: order.order_params.lsp_balance_sat,
        outbound_sat: order.order_params.client_balance_sat,
        fee_sat: bolt11
            .as_ref()
            .map(|by| by.fee_total_sat)
            .or(onchain.as_ref().map(|by| by.fee_total_sat)),
        total_sat: bolt11
            .as_ref()
            .map(|by| by.order_total_sat)
            .or(onchain.as_ref().map(|by| by.order_total_sat)),
        bolt11: bolt11.as_ref().map(|by| by.invoice.to_string()),
        address: onchain.as_ref().map(|by| by.address.to_string()),
        expires_at_ms: expires.and_then(|at| u64::try_from(at.0.timestamp_millis()).ok()),
        channel: order.channel_state.as_ref().map(|channel| channel.funding_outpoint.to_string()),
    }
}
