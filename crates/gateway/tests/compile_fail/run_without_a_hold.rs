//! An upstream tool is not run without a hold: nothing else will do, nor is there a way past. It is
//! asked for its price under an inquiry alone, which nobody makes but its own rules.

use countersign_core::{
    call::Call,
    proof::{Identity, Inquiry, Permit},
};
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

async fn asked_by_anybody(upstream: &Upstream, who: &Identity, call: &Call, relay: &Relay<'_>) {
    let _reply = upstream.inquire(who, call, relay).await;
    let _reply = upstream.inquire(&Inquiry(()), call, relay).await;
}

fn past_it(upstream: Upstream) {
    let _clients = upstream.clients;
}

fn main() {}
