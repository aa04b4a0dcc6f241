//! Scripts and styles, in the binary. Those of others are as their npm packages hold them; see
//! `assets/NOTICE.md`.

use super::page::Failed;
use axum::{
    extract::Path,
    response::{IntoResponse, Response},
};
use countersign_core::{
    digest::Digest,
    refusal::{Code, Refusal},
};
use http::{HeaderValue, header};
use std::sync::LazyLock;

/// Name, type, content.
const FILES: [(&str, &str, &str); 7] = [
    ("console.css", "text/css; charset=utf-8", include_str!("assets/console.css")),
    ("console.js", "text/javascript; charset=utf-8", include_str!("assets/console.js")),
    ("htmx.min.js", "text/javascript; charset=utf-8", include_str!("assets/htmx.min.js")),
    ("sse.min.js", "text/javascript; charset=utf-8", include_str!("assets/sse.min.js")),
    (
        "uPlot.iife.min.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/uPlot.iife.min.js"),
    ),
    ("uPlot.min.css", "text/css; charset=utf-8", include_str!("assets/uPlot.min.css")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// Changes with any of them: pages ask for this version, so browsers may keep it for good.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let all: Vec<&[u8]> = FILES.iter().map(|(_, _, content)| content.as_bytes()).collect();
    Digest::of_parts(&all).to_hex().chars().take(12).collect()
});

/// Where pages find a file.
pub(super) fn url(name: &str) -> String {
    format!("/assets/{name}?v={}", *VERSION)
}

/// Answers with a file.
pub(super) async fn serve(Path(name): Path<String>) -> Response {
    let Some((_, kind, content)) = FILES.iter().find(|(known, ..)| *known == name) else {
        let refusal = Refusal::new(Code::AdminNotFound).with("what", "file");
        return Failed::from(refusal).into_response();
    };
    let mut response = (*content).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let keep = HeaderValue::from_static("public, max-age=31536000, immutable");
    headers.insert(header::CACHE_CONTROL, keep);
    response
}
