//! An upstream tool is not reached without a hold: nothing else will do, nor is there a way past.

use countersign_core::{call::Call, proof::Permit};
use countersign_gateway::upstream::{NoCall, Relay, Upstream};
use countersign_store::Settling;

async fn without(upstream: &Upstream, call: &Call, relay: &Relay<'_>) {
    let _ran = upstream.run(call, relay, (None, None)).await;
}

async fn with_a_permit(upstream: &Upstream, permit: &Permit, call: &Call, relay: &Relay<'_>) {
    let _ran = upstream.run(permit, call, relay, (None, None)).await;
}

async fn unsettled(upstream: &Upstream, settling: &Settling, call: &Call, relay: &Relay<'_>) {
    let _ran = upstream.run(settling, call, relay, (None, None)).await;
}

async fn as_another_message(upstream: &Upstream, relay: &Relay<'_>) {
    let _answer = upstream.relay(NoCall(()), relay).await;
}

fn past_it(upstream: Upstream) {
    let _clients = upstream.clients;
}

fn main() {}
