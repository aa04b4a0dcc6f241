//! From the solver's request to a question as `policy explain` takes it.

use cedar_policy::EntityUid;
use cedar_policy_symcc::Env;
use serde_json::{Map, Value, json};

/// The members in which it differs from a harmless question.
pub(super) fn patch(found: &Env) -> Value {
    let context = found.request.context().and_then(|context| context.to_json_value().ok());
    let context = context.unwrap_or_default();
    let at = |path: &str| context.pointer(path).cloned().unwrap_or(Value::Null);
    let mut patch = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            patch.insert(name.to_owned(), value);
        }
    };
    caller(found, &mut put);
    tool(found, &mut put);
    put("intent", name(found.request.action()));
    put("price", at("/price/micros"));
    put("price_text", at("/price/text"));
    put("payment", entity(&at("/proofs/payment")));
    put("consent", entity(&at("/proofs/consent")));
    put("remaining", at("/remaining"));
    put("source", entity(&at("/intent/source")));
    put("risk", json!({ "score": at("/risk/score"), "band": at("/risk/band") }));
    let tier = |who: &str| json!(format!("T{}", at(&format!("/trust/{who}"))));
    put(
        "trust",
        json!({
            "agent": tier("agent"), "human": tier("human"), "consent": tier("consent"),
            "server": tier("server"), "may": at("/trust/may"),
            "price_cap": at("/trust/price_cap"), "max_risk": at("/trust/max_risk"),
        }),
    );
    put(
        "session",
        json!({
            "is_tainted": at("/session/tainted"), "is_private": at("/session/private"),
            "calls_last_minute": at("/session/calls_last_minute"),
        }),
    );
    put("acr", at("/sign_in/acr"));
    put("sign_in_age_s", at("/sign_in/age_s"));
    put("fulfilled", at("/fulfilled"));
    put("now", at("/now"));
    Value::Object(patch)
}

fn caller(found: &Env, put: &mut impl FnMut(&str, Value)) {
    let attributes = attributes(found, found.request.principal());
    let at = |path: &str| attributes.pointer(path).cloned().unwrap_or(Value::Null);
    let tenant = entity(&at("/tenant"));
    let id = name(found.request.principal());
    // An agent that a policy names stands under its tenant; any other is called as may be.
    match id.as_str().and_then(|id| id.split_once('/')) {
        Some((tenant, agent)) => {
            put("agent", json!(agent));
            put("tenant", json!(tenant));
        }
        None => {
            put("agent", id);
            put("tenant", tenant);
        }
    }
    put("human", entity(&at("/acting_for")));
    put("is_human", at("/human"));
    put("chain_depth", at("/chain_depth"));
    put("assurance", at("/assurance"));
}

fn tool(found: &Env, put: &mut impl FnMut(&str, Value)) {
    let attributes = attributes(found, found.request.resource());
    let at = |path: &str| attributes.pointer(path).cloned().unwrap_or(Value::Null);
    let id = name(found.request.resource());
    match id.as_str().and_then(|id| id.split_once('/')) {
        Some((server, tool)) => {
            put("server", json!(server));
            put("tool", json!(tool));
        }
        None => put("tool", id),
    }
    put("sensitivity", at("/sensitivity"));
    put("is_reversible", at("/reversible"));
    put("is_open_world", at("/open_world"));
    put("pin", entity(&at("/definition")));
}

fn attributes(found: &Env, of: Option<&EntityUid>) -> Value {
    let entity = of.and_then(|of| found.entities.get(of));
    let json = entity.and_then(|entity| entity.to_json_value().ok()).unwrap_or_default();
    json.get("attrs").cloned().unwrap_or_default()
}

fn name(of: Option<&EntityUid>) -> Value {
    of.map_or(Value::Null, |of| json!(of.id().unescaped()))
}

/// The id of an entity in JSON, whether escaped or not.
fn entity(value: &Value) -> Value {
    let found = value.get("__entity").unwrap_or(value).get("id");
    found.cloned().unwrap_or(Value::Null)
}
