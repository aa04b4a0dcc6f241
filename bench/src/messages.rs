//! The requests that are sent, as bytes, and the answers of the light upstream.

/// An argument that brings a call to about 400 bytes.
const NOTE: &str = "a question of ordinary length, as an agent would ask it: will it rain in this \
town tomorrow, and should the walk to the harbour be put off until the afternoon?";

/// A result of about 300 bytes.
pub(crate) const RESULT: &str = r#"{"content":[{"type":"text","text":"Tomorrow: light rain in the morning, from the west, clearing before noon; 14 degrees at two in the afternoon, wind 3 to 4. The walk to the harbour is better put off until the afternoon; take a coat all the same, since showers near the coast stay possible."}],"isError":false}"#;

/// Arguments of caller number `caller`, in canonical order.
pub(crate) fn arguments(caller: usize) -> String {
    format!(r#"{{"caller":{caller},"city":"Lisbon","note":"{NOTE}","units":"metric"}}"#)
}

/// A message that is only relayed.
pub(crate) fn relayed(authority: &str, path: &str) -> Vec<u8> {
    let params = arguments(0);
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{params}}}"#);
    post(authority, path, BOTH, &[], &body)
}

/// A call of the free tool.
pub(crate) fn free(authority: &str) -> Vec<u8> {
    post(authority, PATH, BOTH, &[], &call("free", &arguments(0)))
}

/// A request for a challenge for the call that [`worked`] makes.
pub(crate) fn challenge(authority: &str) -> Vec<u8> {
    let body = format!(r#"{{"tool":"work","arguments":{}}}"#, arguments(0));
    post(authority, "/bench/mcp/pow/challenge", "application/json", &[], &body)
}

/// A call of the tool for work, with a challenge that any text solves.
pub(crate) fn worked(authority: &str, nonce: &str) -> Vec<u8> {
    let arguments = arguments(0);
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"work","arguments":{arguments},"_meta":{{"countersign/pow":"{nonce}:0"}}}}}}"#
    );
    post(authority, PATH, BOTH, &[], &body)
}

/// A call of the priced tool, under these credentials.
pub(crate) fn paid(authority: &str, caller: usize, credentials: &[String]) -> Vec<u8> {
    post(authority, PATH, BOTH, credentials, &call("paid", &arguments(caller)))
}

/// The same call as a plain HTTP client sends it that wants to be told the price in headers.
pub(crate) fn unpaid(authority: &str, caller: usize, credentials: &[String]) -> Vec<u8> {
    post(authority, PATH, "application/json", credentials, &call("paid", &arguments(caller)))
}

/// A call of an anonymous tool, as a plain HTTP client sends it that wants to be told the price in
/// headers; `number` makes it another call.
pub(crate) fn asked(authority: &str, tool: &str, number: usize) -> Vec<u8> {
    post(authority, PATH, "application/json", &[], &call(tool, &arguments(number)))
}

/// The same call, paid.
pub(crate) fn bought(authority: &str, tool: &str, number: usize, credential: String) -> Vec<u8> {
    post(authority, PATH, BOTH, &[credential], &call(tool, &arguments(number)))
}

/// The gateway's endpoint for the upstream.
pub(crate) const PATH: &str = "/bench/mcp";
/// What an MCP client must accept.
const BOTH: &str = "application/json, text/event-stream";

fn call(tool: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
    )
}

fn post(authority: &str, path: &str, accept: &str, credentials: &[String], body: &str) -> Vec<u8> {
    let credentials: String =
        credentials.iter().map(|value| format!("authorization: {value}\r\n")).collect();
    format!(
        "POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\n\
         accept: {accept}\r\nmcp-protocol-version: 2025-11-25\r\n{credentials}\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
