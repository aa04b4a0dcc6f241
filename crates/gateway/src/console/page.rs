//! What every page is made of: the frame, the small parts that repeat, and what is shown when
//! something cannot be had.

use super::{
    Console, assets, role_words,
    sign_in::{append, go},
    visitor::{Posted, Visitor, cookie, expired},
};
use crate::admin::{actor::Need, denied::Denied};
use axum::{
    extract::State,
    response::{Html, IntoResponse, Response},
};
use countersign_core::{
    refusal::{Code, Refusal},
    time::UnixMs,
};
use http::{HeaderMap, StatusCode, Uri};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::sync::Arc;

/// The pages that the navigation leads to.
const TABS: [(&str, &str, Need); 10] = [
    ("/", "Inbox", Need::Known),
    ("/live", "Live", Need::See),
    ("/grants", "Grants", Need::See),
    ("/spend", "Spend", Need::See),
    ("/settlements", "Settlements", Need::See),
    ("/log", "Log", Need::See),
    ("/policy", "Policy", Need::See),
    ("/tools", "Tools", Need::See),
    ("/connect", "Connect", Need::Known),
    ("/me", "Yours", Need::Known),
];

/// A page.
#[derive(Debug)]
pub(super) struct Page(pub(super) Markup);

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        Html(self.0.into_string()).into_response()
    }
}

/// A page inside the frame. `tab` is the path of its entry in the navigation.
pub(super) fn framed(visitor: &Visitor, tab: &str, title: &str, content: &Markup) -> Page {
    let actor = visitor.actor();
    let who = html! {
        nav aria-label="Pages" {
            ul {
                @for (path, name, need) in TABS {
                    @if actor.can(need) {
                        li { a href=(path) aria-current=[(path == tab).then_some("page")] { (name) } }
                    }
                }
            }
        }
        div.who {
            span.name { (actor.name()) }
            span.roles { (role_words(actor.roles())) }
            form method="post" action="/sign-out" {
                (key_field(visitor))
                button.quiet type="submit" { "Sign out" }
            }
        }
    };
    document(title, &who, content)
}

/// A whole document.
fn document(title: &str, head: &Markup, content: &Markup) -> Page {
    // No inline styles, no eval, no requests to others.
    let htmx = r#"{"includeIndicatorStyles":false,"allowEval":false,"allowScriptTags":false,"selfRequestsOnly":true,"historyCacheSize":0}"#;
    Page(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="htmx-config" content=(htmx);
                title { (title) " · Countersign" }
                link rel="icon" type="image/svg+xml" href=(assets::url("icon.svg"));
                link rel="stylesheet" href=(assets::url("uPlot.min.css"));
                link rel="stylesheet" href=(assets::url("console.css"));
                script defer src=(assets::url("htmx.min.js")) {}
                script defer src=(assets::url("sse.min.js")) {}
                script defer src=(assets::url("uPlot.iife.min.js")) {}
                script defer src=(assets::url("console.js")) {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header.top {
                    a.brand href="/" { (mark()) span { "Countersign" } }
                    (head)
                }
                main id="main" tabindex="-1" { (content) }
            }
        }
    })
}

fn mark() -> Markup {
    html! { img.mark src=(assets::url("icon.svg")) alt="" width="24" height="24"; }
}

/// The field that every form carries.
pub(super) fn key_field(visitor: &Visitor) -> Markup {
    html! { input type="hidden" name="form_key" value=(visitor.session.form_key); }
}

/// A moment, machine readable; scripts show it in the reader's own zone.
pub(super) fn moment(at: UnixMs) -> Markup {
    let text = at.rfc3339();
    let short = text.get(..19).unwrap_or(&text).replace('T', " ");
    html! { time datetime=(text) title=(text) { (short) " UTC" } }
}

/// How long until a moment, in words.
pub(super) fn until(at: UnixMs, now: UnixMs) -> String {
    let seconds = at.since_ms(now) / 1000;
    match seconds {
        0 => "over".to_owned(),
        1..60 => format!("{seconds} s left"),
        60..7200 => format!("{} min left", seconds / 60),
        7200..172_800 => format!("{} h left", seconds / 3600),
        _ => format!("{} days left", seconds / 86_400),
    }
}

/// The head of a table; `#` before a name marks a column of numbers.
pub(super) fn heads(names: &[&str]) -> Markup {
    html! {
        thead { tr {
            @for name in names {
                @match name.strip_prefix('#') {
                    Some(name) => { th.num scope="col" { (name) } }
                    None => { th scope="col" { (name) } }
                }
            }
        } }
    }
}

/// Something there is nothing of yet, and what would bring it.
pub(super) fn nothing(title: &str, teach: &Markup) -> Markup {
    html! { div.empty { h2 { (title) } (teach) } }
}

/// Text to copy.
pub(super) fn copyable(text: &str) -> Markup {
    html! {
        div.copy {
            pre tabindex="0" { code { (text) } }
            button.quiet type="button" data-copy { "Copy" }
        }
    }
}

/// A name that came from outside: whatever direction it is written in, it turns nothing around it.
pub(super) fn name(text: &str) -> Markup {
    html! { bdi { (text) } }
}

/// What shows that a name is not the one that it looks like: letters beyond ASCII spelt, and the
/// host of a URL by itself.
pub(super) fn likeness(text: &str) -> Markup {
    let is_plain = text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    let url: Option<Uri> = text.parse().ok();
    let host = url.as_ref().filter(|url| url.scheme().is_some()).and_then(Uri::host);
    html! {
        @if !is_plain { " " span.small { "spelt " code.wrap { (spelt(text)) } } }
        @if let Some(host) = host { " " span.small { "at host " strong { (host) } } }
    }
}

fn spelt(text: &str) -> String {
    let one = |c: char| match c.is_ascii_graphic() || c == ' ' {
        true => c.to_string(),
        false => c.escape_unicode().to_string(),
    };
    text.chars().map(one).collect()
}

/// An icon beside a word, never instead of one.
pub(super) fn icon(shape: &'static str) -> Markup {
    PreEscaped(format!("<span class=\"icon\" aria-hidden=\"true\">{shape}</span>"))
}

/// What could not be done.
#[derive(Debug)]
pub(super) struct Failed(Denied);

impl From<Denied> for Failed {
    fn from(denied: Denied) -> Self {
        Self(denied)
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.into())
    }
}

impl From<Code> for Failed {
    fn from(code: Code) -> Self {
        Self(code.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let row = self.0.refusal().code().row();
        let rule = self.0.refusal().facts().iter().find(|fact| fact.name == "rule");
        let detail = self.0.detail().or_else(|| rule.map(|fact| fact.value.clone()));
        let content = html! {
            div.empty {
                h1 { (sentence(row.title)) }
                @if let Some(detail) = detail { p { (sentence(&detail)) "." } }
                p { "Next: " (row.next) "." }
                p.small { code { (row.text) } }
                p {
                    a.button href="/" { "Go to the inbox" }
                    @if matches!(row.text, "ADM-004" | "ADM-005" | "ADM-007") {
                        " " a.button href="/sign-in" { "Sign in" }
                    }
                }
            }
        };
        let mut response = document(row.title, &html! {}, &content).into_response();
        *response.status_mut() =
            StatusCode::from_u16(row.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response
    }
}

/// With a capital letter.
pub(super) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// Ends the session.
pub(super) async fn sign_out(
    State(console): State<Arc<Console>>,
    headers: HeaderMap,
    _posted: Posted,
) -> Response {
    if let Some(secret) = cookie(&headers, super::COOKIE) {
        console.sessions.end(secret);
    }
    let mut response = go("/signed-out");
    append(&mut response, &expired(super::COOKIE));
    response
}

/// After the end of a session.
pub(super) async fn signed_out() -> Page {
    let content = html! {
        div.empty {
            h1 { "You are signed out" }
            p { "This browser's session is over. Your issuer may still know you: sign out there too on a machine that others use." }
            p { a.button href="/sign-in" { "Sign in again" } }
        }
    };
    document("Signed out", &html! {}, &content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_not_what_it_looks_like_is_told() {
        let shown = |text: &str| likeness(text).into_string();
        assert_eq!(shown("travel-agent"), "");
        assert!(shown("trаvel-agent").contains("tr\\u{430}vel-agent"), "a Cyrillic letter");
        assert!(shown("a\u{202e}b").contains("a\\u{202e}b"), "a turn of direction");
        assert!(shown("a\u{200b}b").contains("a\\u{200b}b"), "a space without width");
        let host = shown("https://planner.example.evil.test/planner.example");
        assert!(host.contains("<strong>planner.example.evil.test</strong>"), "{host}");
        let user = shown("https://planner.example@evil.test/");
        assert!(user.contains("<strong>evil.test</strong>"), "{user}");
        assert_eq!(name("<b>").into_string(), "<bdi>&lt;b&gt;</bdi>");
    }
}
