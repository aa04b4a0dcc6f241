//! The API's description: OpenAPI 3.1, made of the table of routes and the forms themselves.
//!
//! Owns what an operation says of itself and how that becomes the document. Which operations there
//! are is the table's ([`super::routes`]); there is no other way to a route, so the document and the
//! router say the same.

use super::{
    BODY_BYTES_MAX, idempotency,
    page::{LIMIT, LIMIT_MAX},
    routes,
};
use crate::config::sorted;
use countersign_core::refusal::{Actor, Charged, Code, Retry};
use http::{HeaderName, HeaderValue, Method, header};
use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::LazyLock};

/// Where the document is.
pub(super) const PATH: &str = "/v1/openapi.json";

static DOCUMENT: LazyLock<String> =
    LazyLock::new(|| format!("{:#}\n", sorted(document(&routes::table().ways))));

/// The document, as it is served and printed.
#[must_use]
pub fn text() -> &'static str {
    &DOCUMENT
}

/// An OpenAPI document.
#[derive(Debug, JsonSchema)]
#[schemars(description = "An OpenAPI 3.1 document.")]
#[allow(dead_code, reason = "read for its schema alone")]
pub(super) struct Document {
    /// The version of OpenAPI.
    openapi: String,
}

/// Shows it, to everybody who may ask anything.
pub(super) async fn show() -> ([(HeaderName, HeaderValue); 1], &'static str) {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text())
}

const ABOUT: &str = "What people who run a Countersign gateway, and their programs, ask of it. \
    Each refusal is a problem (RFC 9457) with a code of one table. Changes may carry an \
    `Idempotency-Key`. Lists come in pages: while there is `next`, ask again with it as `cursor`.";

/// How a schema is made.
type Shape = fn(&mut SchemaGenerator) -> Schema;

/// One operation, as it describes itself.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    id: &'static str,
    summary: &'static str,
    status: u16,
    answer: Shape,
    body: Option<Shape>,
    example: Option<Value>,
    query: Option<Shape>,
    is_paged: bool,
    can_miss: bool,
    is_sent: bool,
    name: Option<Shape>,
    pub(super) body_bytes_max: usize,
}

/// An operation that answers with `A`.
pub(super) fn answers<A: JsonSchema>(id: &'static str, summary: &'static str) -> Operation {
    Operation {
        id,
        summary,
        status: 200,
        answer: SchemaGenerator::subschema_for::<A>,
        body: None,
        example: None,
        query: None,
        is_paged: false,
        can_miss: false,
        is_sent: false,
        name: None,
        body_bytes_max: BODY_BYTES_MAX,
    }
}

impl Operation {
    /// What its path names.
    pub(super) fn of<N: JsonSchema>(mut self) -> Self {
        self.name = Some(SchemaGenerator::subschema_for::<N>);
        self
    }

    /// What its body is, and one that could be sent.
    pub(super) fn takes<B: JsonSchema>(mut self, example: Value) -> Self {
        self.body = Some(SchemaGenerator::subschema_for::<B>);
        self.example = Some(example);
        self
    }

    /// What its query can say.
    pub(super) fn asked<Q: JsonSchema>(mut self) -> Self {
        self.query = Some(SchemaGenerator::subschema_for::<Q>);
        self
    }

    /// It is a list, in pages.
    pub(super) const fn in_pages(mut self) -> Self {
        self.is_paged = true;
        self
    }

    /// There may be none of it.
    pub(super) const fn missing(mut self) -> Self {
        self.can_miss = true;
        self
    }

    /// Its body is one of ours, as a change's is, and what it asks for may not be had.
    pub(super) const fn sent(mut self) -> Self {
        self.is_sent = true;
        self
    }

    /// It makes something.
    pub(super) const fn creates(mut self) -> Self {
        self.status = 201;
        self
    }

    /// How large its body may be.
    pub(super) const fn of_bytes(mut self, most: usize) -> Self {
        self.body_bytes_max = most;
        self
    }
}

/// One way of the table.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) is_change: bool,
    pub(super) operation: Operation,
}

/// The document of a table.
pub(super) fn document(ways: &[Way]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut answers = settings.clone().for_serialize().into_generator();
    // What is sent stands in place: the same form can be read more freely than it is written.
    let asked = settings.with(|settings| settings.inline_subschemas = true);
    let mut asked = asked.into_generator();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for way in ways {
        let method = way.method.as_str().to_ascii_lowercase();
        let described = describe(way, &mut asked, &mut answers);
        paths.entry(way.path).or_default().insert(method, described);
    }
    let mut schemas = answers.take_definitions(true);
    schemas.insert("Problem".to_owned(), problem());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Countersign admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [
            { "url": "/api", "description": "the console's listener, for programs" },
            { "url": "/", "description": "the admin socket, whose owner needs no token" },
        ],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": refusals(),
            "headers": {
                "Replayed": {
                    "description": "`true` when this is the answer to an earlier request with the \
                        same `Idempotency-Key`.",
                    "schema": { "type": "string", "enum": ["true"] },
                },
            },
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "An access token of the console's sign-in issuer for the \
                        audience `{console.public_url}/api`, of a client that `console.api_clients` \
                        lists. On the admin socket the kernel says who asks, and no token is read.",
                },
            },
        },
    })
}

fn describe(way: &Way, asked: &mut SchemaGenerator, answers: &mut SchemaGenerator) -> Value {
    let Operation { id, summary, status, body, example, .. } = &way.operation;
    let is_change = way.is_change;
    let mut responses = Map::new();
    let mut answer = json!({
        "description": "Done.",
        "content": { "application/json": { "schema": (way.operation.answer)(answers) } },
    });
    if is_change {
        let headers = json!({
            "Idempotency-Replayed": { "$ref": "#/components/headers/Replayed" },
        });
        if let Some(answer) = answer.as_object_mut() {
            answer.insert("headers".to_owned(), headers);
        }
    }
    responses.insert(status.to_string(), answer);
    for status in STATUSES.iter().filter(|(status, _)| can_answer(way, *status)) {
        let (status, _) = status;
        let to = format!("#/components/responses/Refused{status}");
        responses.insert(status.to_string(), json!({ "$ref": to }));
    }
    let mut described = json!({
        "operationId": id,
        "summary": summary,
        "parameters": parameters(way, asked),
        "responses": responses,
    });
    if let (Some(body), Some(described)) = (body, described.as_object_mut()) {
        let mut media = json!({ "schema": body(asked) });
        if let (Some(example), Some(media)) = (example, media.as_object_mut()) {
            media.insert("example".to_owned(), example.clone());
        }
        let body = json!({ "required": true, "content": { "application/json": media } });
        described.insert("requestBody".to_owned(), body);
    }
    described
}

fn parameters(way: &Way, asked: &mut SchemaGenerator) -> Vec<Value> {
    let mut all = Vec::new();
    let named = way.path.split('/').find_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    if let (Some(named), Some(shape)) = (named, way.operation.name) {
        let schema = shape(asked);
        all.push(json!({ "name": named, "in": "path", "required": true, "schema": schema }));
    }
    if let Some(query) = way.operation.query {
        all.extend(of_query(query(asked)));
    }
    if way.operation.is_paged {
        all.push(json!({
            "name": "limit", "in": "query", "description": "The most items of this page.",
            "schema": { "type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT },
        }));
        all.push(json!({
            "name": "cursor", "in": "query", "description": "`next` of the page before.",
            "schema": { "type": "string", "pattern": "^[A-Za-z0-9_-]+$" },
        }));
    }
    if way.is_change {
        all.push(json!({
            "name": "Idempotency-Key", "in": "header",
            "description": "Names this request, so that it is done once however often it is sent; \
                a fresh UUID, for one.",
            "schema": { "type": "string", "pattern": idempotency::PATTERN },
        }));
    }
    all
}

/// The members of a query's form, as parameters. What is missing is not said, so none is `null`.
fn of_query(form: Schema) -> Vec<Value> {
    let form = form.to_value();
    let members = form.get("properties").and_then(Value::as_object);
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        let members = schema.as_object_mut()?;
        let described = members.remove("description");
        members.remove("default");
        if let Some(Value::Array(kinds)) = members.get_mut("type") {
            kinds.retain(|kind| kind != "null");
            if let [kind] = kinds.as_slice() {
                let kind = kind.clone();
                members.insert("type".to_owned(), kind);
            }
        }
        if let Some(Value::Array(words)) = members.get_mut("enum") {
            words.retain(|word| !word.is_null());
        }
        let schema = one_of_those(schema);
        Some(json!({ "name": name, "in": "query", "description": described, "schema": schema }))
    };
    members.into_iter().flatten().filter_map(parameter).collect()
}

/// `anyOf` something and `null`, without the `null`.
fn one_of_those(schema: Value) -> Value {
    let any = schema.get("anyOf").and_then(Value::as_array);
    let real = any.and_then(|any| any.iter().find(|one| one.get("type") != Some(&json!("null"))));
    real.cloned().unwrap_or(schema)
}

/// What can be answered instead, and why.
const STATUSES: [(u16, &str); 11] = [
    (400, "The body is not JSON, or too deep, or has a member twice."),
    (401, "Nobody is signed in, or the token is not one for this API."),
    (403, "No role of the actor allows it."),
    (404, "There is nothing of that name that the actor may see."),
    (409, "It does not fit where the thing stands."),
    (413, "The body is larger than the limit."),
    (415, "The body is not `application/json`."),
    (422, "A member is not acceptable."),
    (429, "Too much at once; try again later."),
    (500, "The gateway broke."),
    (503, "It cannot be done right now; try again later."),
];

fn can_answer(way: &Way, status: u16) -> bool {
    let Operation { body, query, name, is_paged, can_miss, is_sent, .. } = &way.operation;
    let (is_change, is_posed) = (way.is_change, !way.is_change && body.is_some());
    let is_own = is_change || *is_sent;
    match status {
        400 => body.is_some(),
        415 => body.is_some() && is_own,
        413 => is_change || is_posed,
        404 => *can_miss || is_change || name.is_some() || query.is_some(),
        409 => is_own,
        429 => is_change,
        422 => is_own || *is_paged || query.is_some() || name.is_some(),
        _ => true,
    }
}

fn refusals() -> Map<String, Value> {
    let one = |(status, what): &(u16, &str)| {
        let schema = json!({ "$ref": "#/components/schemas/Problem" });
        let mut headers = Map::new();
        if *status == 401 {
            let challenge = json!({ "description": "`Bearer`", "schema": { "type": "string" } });
            headers.insert("WWW-Authenticate".to_owned(), challenge);
        }
        if matches!(status, 429 | 503) {
            let schema = json!({ "type": "integer", "minimum": 0 });
            let wait = json!({ "description": "Seconds to wait, where known.", "schema": schema });
            headers.insert("Retry-After".to_owned(), wait);
        }
        let response = json!({
            "description": what,
            "headers": headers,
            "content": { "application/problem+json": { "schema": schema } },
        });
        (format!("Refused{status}"), response)
    };
    STATUSES.iter().map(one).collect()
}

/// The form of every refusal: RFC 9457, with the members of [`countersign_core::refusal::Problem`].
fn problem() -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.text()).collect();
    let light = json!({ "type": "string" });
    json!({
        "type": "object",
        "description": "Why not (RFC 9457).",
        "required": ["type", "title", "status", "code", "retryable", "retry", "charged", "proofs", "next"],
        "properties": {
            "type": { "type": "string", "format": "uri" },
            "title": { "type": "string" },
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": { "type": "string", "description": "What is wrong in this request." },
            "code": { "type": "string", "enum": codes },
            "retryable": { "type": "boolean" },
            "retry": { "type": "string", "enum": words([Retry::Never, Retry::AfterAction, Retry::Later]) },
            "retry_after": { "type": "integer", "minimum": 0 },
            "charged": {
                "type": "string",
                "enum": words([Charged::No, Charged::Yes, Charged::Unknown, Charged::Unused]),
            },
            "proofs": {
                "type": "object",
                "required": ["identity", "consent", "payment", "authorization"],
                "properties": {
                    "identity": light, "consent": light, "payment": light, "authorization": light,
                },
            },
            "next": {
                "type": "object",
                "required": ["actor", "action"],
                "properties": {
                    "actor": { "type": "string", "enum": words([Actor::Client, Actor::Human, Actor::Operator]) },
                    "action": { "type": "string" },
                    "url": { "type": "string" },
                    "expires": { "type": "string", "format": "date-time" },
                },
            },
            "call_id": { "type": "string" },
            "facts": { "type": "object", "additionalProperties": { "type": "string" } },
        },
        "example": {
            "type": "urn:countersign:refusal:ADM-002",
            "code": "ADM-002", "status": 404, "title": "there is nothing of that name",
            "detail": "no such grant", "retryable": false, "retry": "never", "charged": "no",
            "proofs": {
                "identity": "not_reached", "consent": "not_reached", "payment": "not_reached",
                "authorization": "not_reached",
            },
            "next": { "actor": "client", "action": "list what there is" },
            "facts": { "what": "grant" },
        },
    })
}

fn words<T: serde::Serialize, const N: usize>(all: [T; N]) -> Vec<Value> {
    all.iter().filter_map(|word| serde_json::to_value(word).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect_file;
    use std::collections::BTreeSet;

    /// `UPDATE_EXPECT=1` writes it anew.
    #[test]
    fn the_document_is_as_published() {
        expect_file!["../../../../docs/openapi.json"].assert_eq(text());
    }

    fn refs(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match value.as_str().filter(|_| name == "$ref") {
                        Some(to) => _ = found.insert(to.to_owned()),
                        None => refs(value, found),
                    }
                }
            }
            Value::Array(list) => list.iter().for_each(|value| refs(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn what_is_referred_to_is_there_and_names_are_unique() {
        let ways = routes::table().ways;
        let document = document(&ways);
        let mut found = BTreeSet::new();
        refs(&document, &mut found);
        for to in found {
            assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
        }
        let ids: BTreeSet<&str> = ways.iter().map(|way| way.operation.id).collect();
        assert_eq!(ids.len(), ways.len());
    }

    #[test]
    fn every_way_says_what_it_names_and_how_it_refuses() {
        let document = document(&routes::table().ways);
        for way in routes::table().ways {
            let at = way.path.replace('/', "~1");
            let method = way.method.as_str().to_ascii_lowercase();
            let said = document.pointer(&format!("/paths/{at}/{method}")).unwrap();
            assert_eq!(way.path.contains('{'), way.operation.name.is_some(), "{}", way.path);
            let responses = said.pointer("/responses").unwrap().as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('4')), "{}", way.path);
            let has_key = said.to_string().contains("Idempotency-Key");
            assert_eq!(has_key, way.is_change, "{}", way.path);
        }
    }
}
