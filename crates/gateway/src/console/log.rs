//! The log: its head, its records from the newest on, each with the call that it belongs to, and
//! the check of the whole published log.
//!
//! INVARIANT: a check reads files alone, one check at a time, and no longer a log than the bound.

use super::{
    Console,
    live::look,
    page::{Failed, Page, copyable, framed, heads, icon, key_field, moment, name, nothing},
    visitor::{Posted, Visitor},
};
use crate::{
    admin::{actor::Need, log},
    fetch::{form_encode, form_pairs},
    gate::Gate,
};
use axum::extract::State;
use countersign_core::{
    audit::{
        record::{Kind, Record},
        verify::{Options, Report, verify_log},
    },
    ids::CallId,
    refusal::{Code, Refusal},
};
use http::Uri;
use maud::{Markup, html};
use std::{
    fs,
    io::{self, ErrorKind, Read as _},
    path::Path,
    sync::Arc,
};

/// Records on one page.
const RECORDS: usize = 100;
/// Records that are looked at for one page.
const LOOKED_AT: u64 = 5000;
/// Records that are read at a time.
const STRETCH: u64 = 500;
/// The longest log that is checked in the page, in records; of a longer one its files are taken
/// away and checked elsewhere.
const CHECKED_MAX: u64 = 1_000_000;
/// The largest published file that is read: a bundle of 256 of the longest leaves fits.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// Findings that are shown.
const FINDINGS: usize = 20;

/// Which records; empty words hold for all.
#[derive(Clone, Debug, Default)]
struct Filter {
    call: String,
    agent: String,
    kind: String,
    before: Option<u64>,
}

impl Filter {
    fn of(uri: &Uri) -> Self {
        let mut filter = Self::default();
        for (name, value) in form_pairs(uri.query().unwrap_or("")) {
            let value = value.trim().to_owned();
            match &*name {
                "call" => filter.call = value,
                "agent" => filter.agent = value,
                "kind" => filter.kind = value,
                "before" => filter.before = value.parse().ok(),
                _ => {}
            }
        }
        filter
    }

    fn takes(&self, record: &Record) -> bool {
        let call = record.draft.call();
        let agent = call.and_then(|call| call.agent.as_deref()).unwrap_or_default();
        (self.kind.is_empty() || record.draft.kind.name() == self.kind)
            && (self.agent.is_empty() || agent == self.agent)
            && (self.call.is_empty() || call.is_some_and(|c| c.call.to_string() == self.call))
    }

    /// The address of the records before this one.
    fn older(&self, before: u64) -> String {
        let before = before.to_string();
        let words = [
            ("call", &self.call),
            ("agent", &self.agent),
            ("kind", &self.kind),
            ("before", &before),
        ];
        let said: Vec<(&str, &str)> =
            words.iter().filter(|(_, v)| !v.is_empty()).map(|(n, v)| (*n, v.as_str())).collect();
        format!("/log?{}", form_encode(&said))
    }
}

/// Records that were found, the newest first, and from where on nothing was looked at.
type Found = (Vec<Record>, u64);

/// A page of records, the newest first; `before` continues it.
pub(super) async fn show(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    uri: Uri,
) -> Result<Page, Failed> {
    page(&console, &visitor, Filter::of(&uri), None).await
}

/// Checks the whole published log, and shows what came of it.
pub(super) async fn verify(
    State(console): State<Arc<Console>>,
    posted: Posted,
) -> Result<Page, Failed> {
    let visitor = &posted.visitor;
    visitor.may(Need::See)?;
    let checked = check(&console).await?;
    page(&console, visitor, Filter::default(), Some(&checked)).await
}

async fn page(
    console: &Console,
    visitor: &Visitor,
    filter: Filter,
    checked: Option<&Checked>,
) -> Result<Page, Failed> {
    visitor.may(Need::See)?;
    let (wanted, actor) = (filter.clone(), visitor.actor().clone());
    let sees = move |record: &Record| log::concerns(&actor, record);
    let found = look(console, move |gate| find(gate, &wanted, sees)).await?;
    let (records, rest) = found;
    let key = console.gate().signer.verifier().to_string();
    let content = html! {
        div.head {
            h1 { "Log" }
            p.lead { "Every fact that was acknowledged, in a tree whose heads are signed: nothing can be changed, dropped or put in between unseen." }
        }
        dl.tiles {
            div.tile { dt { "Records" } dd { (console.gate().store.log_size()) } }
            div.tile { dt { "Published" } dd { (console.gate().store.published_size()) } }
        }
        section id="verified" {
            @if let Some(checked) = checked { (verdict(checked)) }
            form method="post" action="/log/verify" {
                (key_field(visitor))
                button type="submit" { (icon("✓")) "Verify the published log" }
            }
        }
        h2 { "Records" }
        (filter_form(&filter))
        @if records.is_empty() {
            (nothing("No records here", &html! {
                p { "Calls of your tenant write here: six records for one that ran, one or more for one that was refused." }
                @if rest > 0 { p { "Looked at down to record " (rest) "; older ones may fit." } }
            }))
        } @else { (table(&records)) }
        @if rest > 0 { p { a.button href=(filter.older(rest)) { "Older" } } }
        h2 { "Verify it yourself" }
        p { "A call's page verifies its records and exports a proof. The whole log is checked from its files with the public key alone, on a machine that you trust more than this one:" }
        (copyable(&format!("countersign audit verify --key '{key}'")))
    };
    Ok(framed(visitor, "/log", "Log", &content))
}

/// The latest records that fit, as far as a page looks back.
fn find(gate: &Gate, filter: &Filter, sees: impl Fn(&Record) -> bool) -> Result<Found, Refusal> {
    let read = |leaf: &[u8]| Record::decode(leaf).ok();
    if let Ok(call) = filter.call.parse::<CallId>() {
        let own = gate.store.call_records(call)?.into_iter().rev();
        let own = own.filter_map(|record| read(&record.leaf));
        return Ok((own.filter(|r| sees(r) && filter.takes(r)).collect(), 0));
    }
    let size = gate.store.log_size();
    let mut before = filter.before.unwrap_or(size).min(size);
    let end = before.saturating_sub(LOOKED_AT);
    let mut found = Vec::new();
    while before > end {
        let from = before.saturating_sub(STRETCH).max(end);
        let stretch = gate.store.tail(from, before.saturating_sub(from))?;
        for record in stretch.iter().rev() {
            before = record.seq;
            let record = read(&record.leaf).filter(|r| sees(r) && filter.takes(r));
            found.extend(record);
            if found.len() >= RECORDS {
                return Ok((found, before));
            }
        }
        before = from;
    }
    Ok((found, before))
}

fn filter_form(filter: &Filter) -> Markup {
    html! {
        form.filter method="get" action="/log" role="search" {
            div { label for="agent" { "Agent" } input id="agent" name="agent" value=(filter.agent); }
            div { label for="call" { "Call" } input id="call" name="call" value=(filter.call) placeholder="call_…"; }
            div {
                label for="kind" { "Kind" }
                select id="kind" name="kind" {
                    option value="" { "all" }
                    @for kind in Kind::ALL {
                        @let name = kind.name();
                        option value=(name) selected[name == filter.kind] { (name) }
                    }
                }
            }
            button type="submit" { "Show" }
        }
    }
}

fn table(records: &[Record]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Records" {
            table {
                (heads(&["#Record", "When", "Kind", "What", "Agent", "Tool", "Call"]))
                tbody { @for record in records { (row(record)) } }
            }
        }
    }
}

fn row(record: &Record) -> Markup {
    let draft = &record.draft;
    let call = draft.call();
    let action = draft.detail.get("action");
    html! {
        tr {
            td.num { (record.seq) }
            td { (moment(draft.time)) }
            th scope="row" { (draft.kind.name()) }
            td {
                @match (action, draft.outcome) {
                    (Some(action), _) => (action),
                    (None, Some(outcome)) => (outcome.name().replace('_', " ")),
                    (None, None) => "–",
                }
                @if let Some(code) = &draft.refusal { " " code { (code) } }
            }
            td {
                @match call.and_then(|c| c.agent.as_deref()) {
                    Some(agent) => (name(agent)),
                    None => "–",
                }
            }
            td {
                @match call.and_then(|call| call.tool.as_ref()) {
                    Some(tool) => { code { (tool.server) "/" (tool.name) } }
                    None => "–",
                }
            }
            td {
                @match call {
                    Some(call) => { a href={ "/live/" (call.call) } { "open" span.hidden { " call " (call.call) } } }
                    None => "–",
                }
            }
        }
    }
}

/// What came of a check.
enum Checked {
    /// The log was read.
    Read(Box<Report>),
    /// It is longer than what is checked here.
    TooLong(u64),
}

/// Checks the published files, as an outsider would, off the threads that serve.
async fn check(console: &Console) -> Result<Checked, Failed> {
    let place = Arc::clone(&console.checks).try_acquire_owned();
    let place = place.map_err(|_busy| Refusal::new(Code::Overloaded))?;
    let size = console.gate().store.published_size();
    if size > CHECKED_MAX {
        return Ok(Checked::TooLong(size));
    }
    let report = look(console, move |gate| {
        // Who hangs up leaves the check behind: the next one waits for it.
        let _place = place;
        let dir = gate.config.data_dir.join("log");
        let read = |path: &str| read_in(&dir, path);
        let report = verify_log(&read, gate.signer.verifier(), &Options::default());
        report.map_err(|_unreadable| Refusal::new(Code::InternalFault))
    });
    Ok(Checked::Read(Box::new(report.await?)))
}

fn read_in(dir: &Path, path: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match fs::File::open(dir.join(path)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn verdict(checked: &Checked) -> Markup {
    let report = match checked {
        Checked::Read(report) => report,
        Checked::TooLong(size) => {
            return html! {
                p role="status" { span.badge.wait { (icon("–")) "not checked" } " " (size) " records are more than what is checked here: run the command below." }
            };
        }
    };
    html! {
        p role="status" {
            @if report.is_sound() { span.badge.yes { (icon("✓")) "sound" } " Every record, chain and hash holds, up to the signed root." }
            @else { span.badge.no { (icon("✕")) "not sound" } " What was published is not what was signed." }
        }
        dl.facts {
            dt { "Records read" } dd { (report.records) }
            @if let Some(checkpoint) = &report.checkpoint {
                dt { "Signed tree size" } dd { (checkpoint.size) }
                dt { "Signed root" } dd { code.wrap { (checkpoint.root) } }
                @if let Some(time) = checkpoint.time { dt { "Signed" } dd { (moment(time)) } }
            }
            @if !report.findings.is_empty() {
                dt { "Found" }
                dd {
                    ul.plain {
                        @for finding in report.findings.iter().take(FINDINGS) { li { (finding) } }
                    }
                }
            }
        }
    }
}
