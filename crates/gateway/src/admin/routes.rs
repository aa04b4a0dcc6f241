//! The table of the API: each route with its handler and what it says of itself.
//!
//! INVARIANT: a route is made here and nowhere else, with its description: what the router answers
//! is in the document, and the reverse.

use super::{
    approvals, authzen, budgets, form, grants, ledger, lightning, log,
    openapi::{self, Operation, Way, answers},
    people, policies, reload,
    schema::{Hex, Id},
    settlements, tools, trust,
};
use crate::{
    liquidity::rebalance::{Advice, Offer, Rebalance},
    reload::Gates,
};
use axum::{
    Router,
    extract::DefaultBodyLimit,
    handler::Handler,
    routing::{MethodRouter, get, post},
};
use countersign_core::ids::{ApprovalId, CallId, GrantId, QuoteId};
use http::Method;
use serde_json::json;

/// Routes and what they say of themselves.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) router: Router<Gates>,
    pub(super) ways: Vec<Way>,
}

impl Table {
    /// Something to look at.
    fn look<H, T>(self, path: &'static str, handler: H, operation: Operation) -> Self
    where
        H: Handler<T, Gates>,
        T: 'static,
    {
        self.with(Method::GET, path, get(handler), operation)
    }

    /// Something that changes.
    fn change<H, T>(self, path: &'static str, handler: H, operation: Operation) -> Self
    where
        H: Handler<T, Gates>,
        T: 'static,
    {
        let limit = DefaultBodyLimit::max(operation.body_bytes_max);
        self.with(Method::POST, path, post(handler).layer(limit), operation)
    }

    /// Something to look at, asked for by a body.
    fn pose<H, T>(self, path: &'static str, handler: H, operation: Operation) -> Self
    where
        H: Handler<T, Gates>,
        T: 'static,
    {
        let mut table = self.change(path, handler, operation);
        if let Some(way) = table.ways.last_mut() {
            way.is_change = false;
        }
        table
    }

    fn with(
        mut self,
        method: Method,
        path: &'static str,
        route: MethodRouter<Gates>,
        operation: Operation,
    ) -> Self {
        self.router = self.router.route(path, route);
        let is_change = method == Method::POST;
        self.ways.push(Way { method, path, is_change, operation });
        self
    }
}

/// The whole table.
pub(super) fn table() -> Table {
    let table = Table::default()
        .look(
            openapi::PATH,
            openapi::show,
            answers::<openapi::Document>("getDocument", "This document"),
        )
        .look(
            "/v1/health",
            log::health,
            answers::<form::Health>("getHealth", "Whether calls can be taken"),
        )
        .look(
            "/v1/status",
            log::status,
            answers::<form::Status>("getStatus", "How the gateway stands"),
        )
        .change(
            "/v1/reload",
            reload::reload,
            answers::<form::ReloadView>(
                "reload",
                "Put the configuration's file in force as it is now",
            ),
        );
    let table = of_authzen(table);
    let table = of_people(of_approvers(of_consent(table)));
    let table = of_policy(of_tools(of_spending(of_lightning(of_money(table)))));
    table.look(
        "/v1/audit",
        log::tail,
        answers::<form::Tail>(
            "listRecords",
            "Records as they lie in the log; without `from`, the last ones",
        )
        .asked::<log::Stretch>(),
    )
}

fn of_authzen(table: Table) -> Table {
    let subject = json!({
        "type": "agent", "id": "default/planner",
        "properties": { "acting_for": "https://idp.example.com|ada", "human": true },
    });
    let (action, resource) =
        (json!({ "name": "call" }), json!({ "type": "tool", "id": "weather/get_forecast" }));
    let one = json!({ "subject": subject, "action": action, "resource": resource });
    let posed =
        |id, summary| answers::<authzen::Found>(id, summary).of_bytes(authzen::BODY_BYTES_MAX);
    table
        .look(
            "/.well-known/authzen-configuration",
            authzen::metadata,
            answers::<authzen::Metadata>("getAuthzen", "Where AuthZEN's API is").missing(),
        )
        .pose(
            "/access/v1/evaluation",
            authzen::evaluation,
            answers::<authzen::Decided>(
                "evaluate",
                "What policy says of one question (AuthZEN 1.0)",
            )
            .takes::<authzen::Evaluation>(one)
            .of_bytes(authzen::BODY_BYTES_MAX),
        )
        .pose(
            "/access/v1/evaluations",
            authzen::evaluations,
            answers::<authzen::Evaluated>("evaluateAll", "What policy says of several questions")
                .takes::<authzen::Batch>(json!({
                    "subject": subject, "action": action, "evaluations": [{ "resource": resource }],
                }))
                .of_bytes(authzen::BODY_BYTES_MAX),
        )
        .pose(
            "/access/v1/search/subject",
            authzen::subjects,
            posed("searchSubjects", "Who may do this").takes::<authzen::SubjectSearch>(
                json!({ "subject": { "type": "agent" }, "action": action, "resource": resource }),
            ),
        )
        .pose(
            "/access/v1/search/resource",
            authzen::resources,
            posed("searchResources", "With what somebody may do this")
                .takes::<authzen::ResourceSearch>(json!({
                    "subject": subject, "action": action, "resource": { "type": "tool" },
                })),
        )
        .pose(
            "/access/v1/search/action",
            authzen::actions,
            posed("searchActions", "What somebody may do with this")
                .takes::<authzen::ActionSearch>(
                    json!({ "subject": subject, "resource": resource }),
                ),
        )
}

fn of_consent(table: Table) -> Table {
    let grant = |id, summary| answers::<form::GrantView>(id, summary).of::<Id<GrantId>>();
    let approval = |id, summary| answers::<form::ApprovalView>(id, summary).of::<Id<ApprovalId>>();
    let reply = json!({ "reason": "for the trip" });
    table
        .look(
            "/v1/grants",
            grants::list,
            answers::<form::Items<form::GrantView>>("listGrants", "Grants, the newest first")
                .asked::<grants::Filter>()
                .in_pages(),
        )
        .change(
            "/v1/grants",
            grants::create,
            answers::<form::GrantMade>("createGrant", "Make a grant")
                .takes::<form::GrantRequest>(json!({
                    "issuer": "https://idp.example.com", "subject": "ada", "agent": "planner",
                    "server": "weather", "tools": ["get_forecast"], "intents": ["read"],
                    "per_call": "0.05 USD", "total": "5 USD", "expires": "24h",
                }))
                .creates(),
        )
        .look("/v1/grants/{id}", grants::show, grant("getGrant", "One grant"))
        .change("/v1/grants/{id}/revoke", grants::revoke, grant("revokeGrant", "End it for good"))
        .change("/v1/grants/{id}/suspend", grants::suspend, grant("suspendGrant", "Pause it"))
        .change("/v1/grants/{id}/resume", grants::resume, grant("resumeGrant", "Take it up again"))
        .look(
            "/v1/approvals",
            approvals::list,
            answers::<form::Items<form::ApprovalView>>(
                "listApprovals",
                "Requests that are open or ended a short while ago, the newest first",
            )
            .asked::<approvals::Filter>()
            .in_pages(),
        )
        .look("/v1/approvals/{id}", approvals::show, approval("getApproval", "One request"))
        .change(
            "/v1/approvals/{id}/approve",
            approvals::approve,
            approval("approve", "Say yes: this once, or by a grant")
                .takes::<form::Reply>(reply.clone()),
        )
        .change(
            "/v1/approvals/{id}/deny",
            approvals::deny,
            approval("deny", "Say no; the agent is told why").takes::<form::Reply>(reply),
        )
}

fn of_approvers(table: Table) -> Table {
    let person = json!({ "issuer": "https://idp.example.com", "subject": "ada" });
    table
        .look(
            "/v1/approvers/withdrawn",
            approvals::withdrawn,
            answers::<form::Items<form::WithdrawnView>>(
                "listWithdrawnApprovers",
                "People whose answers count no more",
            )
            .in_pages(),
        )
        .change(
            "/v1/approvers/withdraw",
            approvals::withdraw,
            answers::<form::Withdrawn>(
                "withdrawApprover",
                "Take no more answers of a person, and void those that were not used",
            )
            .takes::<form::Person>(person.clone()),
        )
        .change(
            "/v1/approvers/reinstate",
            approvals::reinstate,
            answers::<form::Person>("reinstateApprover", "Take the answers of such a person again")
                .takes::<form::Person>(person),
        )
}

fn of_people(table: Table) -> Table {
    let linked = answers::<form::LinkView>;
    let listed = |id, summary| {
        answers::<form::Items<form::LinkView>>(id, summary).asked::<people::Filter>().in_pages()
    };
    let ada = json!({ "issuer": "https://idp.example.com", "subject": "ada" });
    let with = |members: serde_json::Value| {
        let all = [&ada, &members].into_iter().filter_map(serde_json::Value::as_object);
        all.flatten().map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    table
        .look("/v1/people/keys", people::keys, listed("listKeys", "Keys that people sign with"))
        .change(
            "/v1/people/keys",
            people::add_key,
            linked("addKey", "Register a key: it signs for the person from now on")
                .takes::<form::KeyRequest>(with(json!({ "jwk": {
                    "kty": "OKP", "crv": "Ed25519",
                    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
                } })))
                .creates(),
        )
        .change(
            "/v1/people/keys/{id}/revoke",
            people::revoke_key,
            linked("revokeKey", "End a key; grants that it signed are suspended")
                .of::<people::Thumbprint>(),
        )
        .look(
            "/v1/people/wallets",
            people::wallets,
            listed("listWallets", "Wallets that are linked to people"),
        )
        .change(
            "/v1/people/wallets",
            people::link_wallet,
            linked("linkWallet", "Link a wallet by its signature")
                .takes::<form::WalletProof>(with(json!({ "message": "…", "signature": "0x00" })))
                .creates(),
        )
        .change(
            "/v1/people/wallets/ask",
            people::ask_wallet,
            answers::<form::WalletMessage>("askWallet", "The message that a wallet signs")
                .takes::<form::WalletAsk>(with(json!({
                "address": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
            }))),
        )
        .change(
            "/v1/people/wallets/{id}/unlink",
            people::unlink_wallet,
            linked("unlinkWallet", "End a wallet's link").of::<people::WalletAddress>(),
        )
}

fn of_money(table: Table) -> Table {
    let stands = |id, summary| answers::<form::Standing>(id, summary).of::<Id<CallId>>();
    table
        .look(
            "/v1/ledger/balances",
            ledger::balances,
            answers::<form::Items<form::BalanceView>>("listBalances", "Every account").in_pages(),
        )
        .look(
            "/v1/ledger/in-doubt",
            ledger::in_doubt,
            answers::<form::Items<form::DoubtView>>(
                "listDoubts",
                "Calls that started and of which nobody knows the outcome",
            )
            .in_pages(),
        )
        .change(
            "/v1/ledger/in-doubt/{id}",
            ledger::resolve,
            stands("resolveDoubt", "End a doubt")
                .takes::<form::Resolution>(json!({ "rule": "refund" })),
        )
        .look(
            "/v1/ledger/unsettled",
            settlements::list,
            answers::<form::Items<form::OpenView>>(
                "listUnsettled",
                "Payments of which nobody knows whether they moved",
            )
            .in_pages(),
        )
        .change(
            "/v1/ledger/unsettled/{id}",
            settlements::end,
            stands("endUnsettled", "End one by what you found out")
                .takes::<form::FoundOut>(json!({ "reference": "0xabc" })),
        )
        .look(
            "/v1/ledger/refunds",
            ledger::refunds,
            answers::<form::Items<form::DueView>>("listRefunds", "Money that is owed back")
                .in_pages(),
        )
        .change(
            "/v1/ledger/refunds/{id}",
            ledger::refunded,
            stands("bookRefund", "Record that it was paid back")
                .takes::<form::PaidBack>(json!({ "reference": "0xabc" })),
        )
        .look(
            "/v1/ledger/unclaimed",
            ledger::unclaimed,
            answers::<form::Items<form::UnclaimedView>>(
                "listUnclaimed",
                "Money that ended credentials left for their holders",
            )
            .in_pages(),
        )
        .change(
            "/v1/ledger/unclaimed/{id}",
            ledger::claimed,
            answers::<form::Claimed>("bookUnclaimed", "Record that the holder was paid")
                .of::<Hex>()
                .takes::<form::PaidBack>(json!({ "reference": "0xabc" })),
        )
}

fn of_lightning(table: Table) -> Table {
    let room = json!({ "via": "loop", "amount_sat": 250_000, "max_fee_sat": 2_000 });
    table
        .look(
            "/v1/lightning",
            lightning::show,
            answers::<form::LightningView>("getLightning", "How Lightning nodes stand"),
        )
        .pose(
            "/v1/lightning/quote",
            lightning::quote,
            answers::<Offer>("quoteRoom", "What room to receive costs")
                .takes::<form::RoomAsked>(room.clone())
                .sent(),
        )
        .look(
            "/v1/lightning/suggest",
            lightning::advise,
            answers::<form::Items<Advice>>("suggestRoom", "What is advised now"),
        )
        .change(
            "/v1/lightning/rebalances",
            lightning::rebalance,
            answers::<Rebalance>("rebalance", "Buy room to receive, within the configured limits")
                .takes::<form::RoomAsked>(room),
        )
}

fn of_spending(table: Table) -> Table {
    table
        .look(
            "/v1/budgets",
            budgets::list,
            answers::<form::Items<form::BudgetView>>("listBudgets", "Budgets, and what they leave")
                .asked::<budgets::For>()
                .in_pages(),
        )
        .change(
            "/v1/budgets",
            budgets::set,
            answers::<form::BudgetView>("setBudget", "Set a budget, or replace one that was set")
                .takes::<form::BudgetRequest>(json!({
                "name": "team-month", "limit": "200 USD", "window": "month@Europe/Berlin",
                "scope": { "team": "*" }, "warn": 80,
            })),
        )
        .change(
            "/v1/budgets/{name}/remove",
            budgets::remove,
            answers::<form::Removed>("removeBudget", "End a budget that was set")
                .of::<budgets::Name>(),
        )
        .look(
            "/v1/calls",
            ledger::calls,
            answers::<form::Items<form::CallLine>>("listCalls", "Calls, the newest first")
                .asked::<ledger::Filter>()
                .in_pages(),
        )
        .look(
            "/v1/calls/{id}",
            ledger::call,
            answers::<form::CallFull>("getCall", "One call with its records").of::<Id<CallId>>(),
        )
        .look(
            "/v1/quotes/{id}",
            ledger::quote,
            answers::<form::QuoteView>("getQuote", "One quote").of::<Id<QuoteId>>(),
        )
        .look(
            "/v1/credentials",
            ledger::credentials,
            answers::<form::Items<form::CredentialView>>(
                "listCredentials",
                "L402 credentials that have not ended",
            )
            .in_pages(),
        )
        .change(
            "/v1/credentials/{id}/revoke",
            ledger::revoke_credential,
            answers::<form::Revoked>("revokeCredential", "End a prepaid credential").of::<Hex>(),
        )
}

fn of_tools(table: Table) -> Table {
    table
        .look(
            "/v1/tools",
            tools::list,
            answers::<form::Items<form::ToolView>>("listTools", "What tools say of themselves")
                .asked::<tools::Filter>()
                .in_pages(),
        )
        .change(
            "/v1/tools/approve",
            tools::approve,
            answers::<form::ToolView>("approveTool", "Approve what was seen of a tool last")
                .takes::<form::ToolName>(json!({ "tool": "weather/get_forecast" })),
        )
        .look(
            "/v1/trust",
            trust::list,
            answers::<form::Items<form::TierView>>(
                "listTiers",
                "Tiers that people set or behaviour lowered",
            )
            .in_pages(),
        )
        .change(
            "/v1/trust",
            trust::set,
            answers::<form::SetTier>("setTier", "Say how far somebody is trusted")
                .takes::<form::SetTier>(
                    json!({ "party": "agent", "name": "default/planner", "tier": "T1" }),
                ),
        )
}

fn of_policy(table: Table) -> Table {
    table
        .look(
            "/v1/policy",
            policies::show,
            answers::<form::PolicyView>("getPolicy", "The policy in force, and what was so before"),
        )
        .look(
            "/v1/policy/report",
            trust::report,
            answers::<form::Items<form::RuleView>>(
                "listRefusals",
                "Rules that refused since the start",
            )
            .in_pages(),
        )
        .change(
            "/v1/policy/activate",
            policies::activate,
            answers::<form::PolicyView>("activatePolicy", "Put a bundle in force, or say why not")
                .takes::<form::BundleFiles>(json!({ "files": { "policies.cedar": "" } }))
                .of_bytes(policies::BODY_BYTES_MAX),
        )
        .change(
            "/v1/policy/rollback",
            policies::roll_back,
            answers::<form::PolicyView>("rollBackPolicy", "Put a bundle in force again")
                .takes::<form::GoBack>(json!({ "revision": 6, "reason": "7 denies refunds" })),
        )
        .look(
            "/v1/policy/shadow",
            policies::shadow,
            answers::<form::ShadowView>(
                "getShadow",
                "The shadow bundle, and what it answers otherwise",
            ),
        )
        .change(
            "/v1/policy/shadow",
            policies::set_shadow,
            answers::<form::ShadowView>("setShadow", "Let a bundle answer beside the one in force")
                .takes::<form::BundleFiles>(json!({ "files": { "policies.cedar": "" } }))
                .of_bytes(policies::BODY_BYTES_MAX),
        )
        .change(
            "/v1/policy/shadow/stop",
            policies::stop_shadow,
            answers::<form::ShadowView>("stopShadow", "End the shadow bundle"),
        )
}

#[cfg(test)]
mod tests {
    /// What the router of the API answers is made by [`super::Table`] alone.
    #[test]
    fn no_route_is_made_beside_the_table() {
        let (own, _) = include_str!("routes.rs").split_once("mod tests").unwrap();
        assert_eq!(own.matches(".route(").count(), 1);
        for beside in [include_str!("../admin.rs"), include_str!("../console/api.rs")] {
            assert!(!beside.contains(".route(") && !beside.contains(".nest"));
        }
    }
}
