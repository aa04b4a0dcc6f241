//! Commands that explain: `check`, `status`, `schema`, `refusals`.

use super::{
    link::Link,
    out::{Out, facts, note, table, write},
    stop::Stop,
};
use crate::{
    admin::{form::Status, openapi},
    config::{self, Finding},
};
use countersign_client::exit;
use countersign_core::refusal::{Actor, Code, Retry, Row};
use serde::Serialize;
use std::path::Path;

/// What `check` found.
#[derive(Serialize)]
struct Checked {
    ok: bool,
    file: String,
    problems: Vec<FindingView>,
    #[serde(skip_serializing_if = "is_zero")]
    more: usize,
    warnings: Vec<FindingView>,
    means: Vec<String>,
}

#[derive(Serialize)]
struct FindingView {
    path: String,
    line: Option<u32>,
    message: String,
    suggestion: Option<String>,
}

impl From<Finding> for FindingView {
    fn from(finding: Finding) -> Self {
        let Finding { path, line, message, suggestion } = finding;
        Self { path, line, message, suggestion }
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn views(findings: Vec<Finding>) -> Vec<FindingView> {
    findings.into_iter().map(FindingView::from).collect()
}

/// Says everything that is wrong with a configuration, or what it means.
pub(super) fn check(file: &Path, out: Out) -> Result<(), Stop> {
    match config::load(file) {
        Ok((config, warnings)) => {
            for warning in warnings.iter().filter(|_| out == Out::Text) {
                note(&format!("warning: {warning}"));
            }
            let checked = Checked {
                ok: true,
                file: file.display().to_string(),
                problems: Vec::new(),
                more: 0,
                warnings: views(warnings),
                means: config::explain(&config),
            };
            out.show(&checked, |checked| checked.means.join("\n"))
        }
        Err(errors) if out == Out::Json => {
            let checked = Checked {
                ok: false,
                file: errors.file,
                problems: views(errors.findings),
                more: errors.more,
                warnings: Vec::new(),
                means: Vec::new(),
            };
            out.show(&checked, |_| String::new())?;
            Err(Stop::silent(exit::USAGE))
        }
        Err(errors) => Err(Stop::usage(errors)),
    }
}

/// Says how the running gateway stands.
pub(super) async fn status(link: &Link, out: Out) -> Result<(), Stop> {
    let status: Status = link.get("/v1/status").await?;
    out.show(&status, |status| {
        let mut text = facts(&[
            ("version", Some(status.version.clone())),
            ("money", Some(if status.sandbox { "sandbox" } else { "real" }.to_owned())),
            ("listens on", Some(status.listen.clone())),
            ("reached at", Some(status.public_url.clone())),
            ("log key", Some(status.log_key.clone())),
            ("records", Some(format!("{} ({} published)", status.records, status.published))),
            ("policy", Some(status.policy.clone())),
            ("approvals", Some(format!("{} pending", status.approvals_pending))),
            ("in doubt", Some(status.in_doubt.to_string())),
            ("refunds due", Some(status.refunds_due.to_string())),
        ]);
        for issuer in &status.issuers {
            let how = match &issuer.problem {
                Some(problem) => problem.clone(),
                None if issuer.fetched_at.is_none() => "not asked yet".to_owned(),
                None => format!("{} keys", issuer.keys),
            };
            text.push_str(&format!("\nissuer       {}: {how}", issuer.issuer));
        }
        for node in &status.nodes {
            let how = match (&node.problem, node.inbound_msat) {
                (Some(problem), _) => problem.clone(),
                (None, Some(msat)) => format!("can receive {} sat", msat / 1000),
                (None, None) => "not asked yet".to_owned(),
            };
            text.push_str(&format!("\nnode         {}: {how}", node.name));
            if let (Some(percent), Some(p50), Some(p99)) =
                (node.success_percent, node.p50_ms, node.p99_ms)
            {
                text.push_str(&format!("; {percent} % paid, in {p50} ms (p99 {p99} ms)"));
            }
            if !node.alerts.is_empty() {
                text.push_str(&format!("\nalert        {}: {}", node.name, node.alerts.join(", ")));
            }
        }
        if status.held.calls > 0 {
            let held = &status.held;
            text.push_str(&format!("\nheld         {} calls, {} msat", held.calls, held.msat));
        }
        text
    })
}

/// Prints the JSON Schema of a configuration, or the document of the admin API.
pub(super) fn schema(api: bool) -> Result<(), Stop> {
    if api {
        return write(openapi::text().trim_end());
    }
    write(&serde_json::to_string_pretty(&config::schema()).map_err(Stop::internal)?)
}

#[derive(Serialize)]
struct RowView {
    code: &'static str,
    status: u16,
    title: &'static str,
    retry: Retry,
    actor: Actor,
    next: &'static str,
    page: String,
}

impl From<Row> for RowView {
    fn from(row: Row) -> Self {
        Self {
            code: row.text,
            status: row.status,
            title: row.title,
            retry: row.retry,
            actor: row.actor,
            next: row.next,
            page: format!("docs/refusals/{}.md", row.text),
        }
    }
}

/// Lists every refusal, or shows one.
pub(super) fn refusals(code: Option<&str>, out: Out) -> Result<(), Stop> {
    let Some(text) = code else {
        let rows: Vec<RowView> = Code::ALL.iter().map(|code| code.row().into()).collect();
        return out.show(&rows, |rows| {
            let cells = |row: &RowView| {
                vec![row.code.to_owned(), row.status.to_string(), row.title.to_owned()]
            };
            table(&["code", "http", "meaning"], &rows.iter().map(cells).collect::<Vec<_>>())
        });
    };
    let code = Code::from_text(&text.to_ascii_uppercase()).ok_or_else(|| {
        Stop::usage(format_args!("no refusal has the code `{text}`"))
            .next("list them with `countersign refusals`")
    })?;
    out.show(&RowView::from(code.row()), |row| {
        let retry = match row.retry {
            Retry::Never => "not as it stands",
            Retry::AfterAction => "after the next action",
            Retry::Later => "after a while, unchanged",
        };
        let actor = match row.actor {
            Actor::Client => "the calling program",
            Actor::Human => "the person who delegated",
            Actor::Operator => "whoever runs the gateway",
        };
        facts(&[
            ("code", Some(row.code.to_owned())),
            ("meaning", Some(row.title.to_owned())),
            ("http", Some(row.status.to_string())),
            ("retry", Some(retry.to_owned())),
            ("who acts", Some(actor.to_owned())),
            ("next", Some(row.next.to_owned())),
            ("page", Some(row.page.clone())),
        ])
    })
}
