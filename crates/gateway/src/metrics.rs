//! Figures for monitoring, in the text format of Prometheus (0.0.4), on a listener of their own.
//!
//! INVARIANT: no name of a person, agent or tool is a label, and no secret is a value: whoever can
//! reach the listener can read it.

use crate::{
    admin::{self, log::standing},
    gate::Gate,
    rails::lightning::{Alert, Figures},
    reload::Gates,
};
use anyhow::{Context as _, Result};
use axum::{Router, extract::State, routing::get};
use http::header;
use std::{
    fmt::{Display, Write as _},
    sync::Arc,
};
use tokio::{net::TcpListener, sync::watch};

/// Connections at a time.
const CONNECTIONS_MAX: usize = 16;
/// The type of the answer.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until `stop`, where a listener is configured; else waits for `stop`.
///
/// # Errors
/// The listener cannot be opened.
pub(crate) async fn serve(gates: Gates, mut stop: watch::Receiver<bool>) -> Result<()> {
    let Some(address) = gates.now().config.metrics else {
        let _stopped = stop.wait_for(|stop| *stop).await.map(drop);
        return Ok(());
    };
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for metrics"))?;
    let routes = Router::new().route("/metrics", get(show)).with_state(gates);
    admin::answer(listener, routes, CONNECTIONS_MAX, stop).await;
    Ok(())
}

async fn show(State(gate): State<Arc<Gate>>) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, TEXT)], text(&gate))
}

/// The page as it is being written.
#[derive(Default)]
struct Page(String);

impl Page {
    /// A family of figures, each with its labels.
    fn family<L: Display, V: Display>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        figures: impl IntoIterator<Item = (L, V)>,
    ) {
        let _infallible = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in figures {
            let _infallible = writeln!(self.0, "{name}{labels} {value}");
        }
    }

    /// A figure without labels.
    fn one(&mut self, family: (&str, &str, &str), value: impl Display) {
        self.family(family, [("", value)]);
    }
}

/// All figures.
fn text(gate: &Gate) -> String {
    let (mut page, now) = (Page::default(), standing(gate));
    let version = format!("{{version=\"{}\"}}", now.version);
    page.family(("countersign_info", "gauge", "The running version."), [(version, 1)]);
    page.one(("countersign_log_records", "gauge", "Records in the audit log."), now.records);
    page.one(
        ("countersign_approvals_pending", "gauge", "Approvals that wait for a person."),
        now.approvals_pending,
    );
    page.one(
        ("countersign_calls_in_doubt", "gauge", "Calls of which nobody knows the outcome."),
        now.in_doubt,
    );
    page.one(
        ("countersign_refunds_due", "gauge", "Calls whose money is owed back."),
        now.refunds_due,
    );
    lightning(gate, &mut page);
    page.0
}

fn lightning(gate: &Gate, page: &mut Page) {
    let Some(rail) = &gate.rails.l402 else { return };
    let (held, held_msat) = rail.holding();
    page.one(
        ("countersign_lightning_held_calls", "gauge", "Calls that run under money that is held."),
        held,
    );
    page.one(
        ("countersign_lightning_held_msat", "gauge", "How much that is, in millisatoshi."),
        held_msat,
    );
    let now = gate.world.now();
    let sights = rail.nodes.sights();
    let node = |name: &str| format!("{{node=\"{name}\"}}");
    let balance = |of: fn(&crate::rails::lightning::Balances) -> u64| {
        let known = sights.iter().filter_map(move |(name, sight)| {
            Some((node(name), of(&sight.as_ref()?.balances.ok()?)))
        });
        known.collect::<Vec<_>>()
    };
    let seen = sights
        .iter()
        .filter_map(|(name, sight)| Some((node(name), u8::from(sight.as_ref()?.balances.is_ok()))));
    page.family(("countersign_lightning_up", "gauge", "The node answers."), seen);
    page.family(
        ("countersign_lightning_inbound_msat", "gauge", "What the node can receive."),
        balance(|balances| balances.inbound_msat),
    );
    page.family(
        ("countersign_lightning_outbound_msat", "gauge", "What the node can send."),
        balance(|balances| balances.outbound_msat),
    );
    let ready = sights.iter().map(|(name, _)| (node(name), rail.nodes.ready(name)));
    page.family(
        ("countersign_lightning_invoices_ready", "gauge", "Invoices that were made ahead."),
        ready,
    );
    let figures: Vec<(&str, Figures)> =
        sights.iter().map(|(name, _)| (&**name, rail.takings.figures(name, now))).collect();
    payments(page, &figures);
    let alerts = sights.iter().flat_map(|(name, _)| {
        let standing = rail.alarms.standing(name);
        Alert::ALL.map(|alert| {
            let labels = format!("{{node=\"{name}\",alert=\"{}\"}}", alert.text());
            (labels, u8::from(standing.contains(&alert)))
        })
    });
    page.family(("countersign_lightning_alert", "gauge", "An alert stands."), alerts);
}

/// What becomes of invoices.
fn payments(page: &mut Page, nodes: &[(&str, Figures)]) {
    let ends = nodes.iter().flat_map(|(node, figures)| {
        let Figures { shown, paid, lapsed, returned, .. } = *figures;
        [("shown", shown), ("paid", paid), ("lapsed", lapsed), ("returned", returned)]
            .map(|(end, count)| (format!("{{node=\"{node}\",state=\"{end}\"}}"), count))
    });
    let help = "Invoices that were shown, and those of them that were paid, lapsed without, or \
                whose money was given back.";
    page.family(("countersign_lightning_invoices_total", "counter", help), ends);
    let success = nodes.iter().filter_map(|(node, figures)| {
        let percent = figures.success_percent?;
        Some((format!("{{node=\"{node}\"}}"), format!("{}.{:02}", percent / 100, percent % 100)))
    });
    let help = "The part of the invoices that ended within an hour that was paid.";
    page.family(("countersign_lightning_payment_success_ratio", "gauge", help), success);
    let name = "countersign_lightning_payment_seconds";
    let quantiles = nodes.iter().flat_map(|(node, figures)| {
        let of = |quantile: &str, ms: Option<u64>| {
            let labels = format!("{{node=\"{node}\",quantile=\"{quantile}\"}}");
            Some((labels, seconds(ms?)))
        };
        [of("0.5", figures.p50_ms), of("0.99", figures.p99_ms)].into_iter().flatten()
    });
    let help = "From an invoice to its money; quantiles within an hour.";
    page.family((name, "summary", help), quantiles);
    for (node, figures) in nodes {
        let (sum, count) = (seconds(figures.waited_ms), figures.paid);
        let _infallible = writeln!(
            page.0,
            "{name}_sum{{node=\"{node}\"}} {sum}\n{name}_count{{node=\"{node}\"}} {count}"
        );
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payments_read_as_prometheus_has_it() {
        let mut page = Page::default();
        let figures = Figures {
            shown: 5,
            paid: 3,
            lapsed: 1,
            waited_ms: 6_120,
            success_percent: Some(75),
            p50_ms: Some(2_000),
            p99_ms: Some(3_050),
            ..Figures::default()
        };
        payments(&mut page, &[("ldk", figures), ("lnd", Figures::default())]);
        expect_test::expect![[r#"
            # HELP countersign_lightning_invoices_total Invoices that were shown, and those of them that were paid, lapsed without, or whose money was given back.
            # TYPE countersign_lightning_invoices_total counter
            countersign_lightning_invoices_total{node="ldk",state="shown"} 5
            countersign_lightning_invoices_total{node="ldk",state="paid"} 3
            countersign_lightning_invoices_total{node="ldk",state="lapsed"} 1
            countersign_lightning_invoices_total{node="ldk",state="returned"} 0
            countersign_lightning_invoices_total{node="lnd",state="shown"} 0
            countersign_lightning_invoices_total{node="lnd",state="paid"} 0
            countersign_lightning_invoices_total{node="lnd",state="lapsed"} 0
            countersign_lightning_invoices_total{node="lnd",state="returned"} 0
            # HELP countersign_lightning_payment_success_ratio The part of the invoices that ended within an hour that was paid.
            # TYPE countersign_lightning_payment_success_ratio gauge
            countersign_lightning_payment_success_ratio{node="ldk"} 0.75
            # HELP countersign_lightning_payment_seconds From an invoice to its money; quantiles within an hour.
            # TYPE countersign_lightning_payment_seconds summary
            countersign_lightning_payment_seconds{node="ldk",quantile="0.5"} 2.000
            countersign_lightning_payment_seconds{node="ldk",quantile="0.99"} 3.050
            countersign_lightning_payment_seconds_sum{node="ldk"} 6.120
            countersign_lightning_payment_seconds_count{node="ldk"} 3
            countersign_lightning_payment_seconds_sum{node="lnd"} 0.000
            countersign_lightning_payment_seconds_count{node="lnd"} 0
        "#]]
        .assert_eq(&page.0);
    }
}
