//! `audit`: the log, from the running gateway or from its published files.
//!
//! INVARIANT: `verify`, `prove` and `verify-proof` need the files and the public key, nothing
//! else: no database, no secret, no network.

use super::{
    Shared,
    keys::public_key,
    out::{Out, facts, note},
    serve::stop_on_signal,
    stop::Stop,
};
use crate::admin::{form::Tail, page::LIMIT_MAX};
use countersign_core::{
    audit::{
        checkpoint::VerifierKey,
        proof::{ProofBundle, ProvenCall, Target, prove_call, verify_proof},
        record::{Record, RecordDraft, Subject},
        verify::{Options, Report, verify_log},
    },
    ids::CallId,
};
use serde::Serialize;
use serde_json::value::RawValue;
use std::{
    fs,
    io::{self, ErrorKind, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// The largest published file that is read: a bundle of 256 of the longest leaves fits.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// Between two looks at a log that is followed.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Audit {
    /// Show the newest records of the running gateway's log.
    Tail {
        /// How many.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// From this index on.
        #[arg(long)]
        from: Option<u64>,
        /// Go on with what is added, until interrupted.
        #[arg(long)]
        follow: bool,
    },
    /// Verify a published log: every record, chain, hash and the signed root.
    Verify(Verify),
    /// Make the proof of one closed call from a published log.
    Prove(Prove),
    /// Verify such a proof with the public key alone.
    VerifyProof {
        /// The proof; `-` reads the standard input.
        file: PathBuf,
        /// The log's public key, or a file with it.
        #[arg(long, value_name = "FILE|KEY")]
        key: Option<String>,
    },
}

/// Which log.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// Directory of the published log; that of the configuration when absent.
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// The log's public key, or a file with it; that of the configuration when absent.
    #[arg(long, value_name = "FILE|KEY")]
    key: Option<String>,
}

/// What to hold the log to.
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    #[command(flatten)]
    source: Source,
    /// A checkpoint that was kept elsewhere: the log must continue it.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// A receipt that was kept elsewhere: the log must hold its record.
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
}

/// Which call.
#[derive(Debug, clap::Args)]
pub(super) struct Prove {
    #[command(flatten)]
    source: Source,
    /// The call.
    call: CallId,
    /// Where to write the proof; the standard output when absent.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Audit {
    /// Does it.
    pub(super) async fn run(self, shared: &Shared, out: Out) -> Result<(), Stop> {
        match self {
            Self::Tail { limit, from, follow } => tail(shared, out, limit, from, follow).await,
            Self::Verify(verify) => verify.run(shared, out),
            Self::Prove(prove) => prove.run(shared),
            Self::VerifyProof { file, key } => check_proof(shared, out, &file, key.as_deref()),
        }
    }
}

async fn tail(
    shared: &Shared,
    out: Out,
    limit: u64,
    from: Option<u64>,
    follow: bool,
) -> Result<(), Stop> {
    let link = shared.link()?;
    let from = match from {
        Some(from) => from,
        None => link.get::<Tail>("/v1/audit?limit=1").await?.size.saturating_sub(limit),
    };
    let until = from.saturating_add(limit);
    let page = |from: u64| until.saturating_sub(from).clamp(1, LIMIT_MAX.into());
    let mut found: Tail = link.get(&format!("/v1/audit?limit={}&from={from}", page(from))).await?;
    let show = |found: &Tail| {
        found.records.iter().try_for_each(|record| out.item(record, |record| line(record)))
    };
    show(&found)?;
    if found.records.is_empty() && !follow {
        note("no records");
    }
    while !found.records.is_empty() && found.next < until {
        let (limit, from) = (page(found.next), found.next);
        found = link.get(&format!("/v1/audit?limit={limit}&from={from}")).await?;
        show(&found)?;
    }
    if !follow {
        return Ok(());
    }
    let mut stop = stop_on_signal()?;
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            () = tokio::time::sleep(FOLLOW_PAUSE) => {}
        }
        found = link.get(&format!("/v1/audit?limit=1000&from={}", found.next)).await?;
        show(&found)?;
    }
}

/// A record on one line.
pub(super) fn line(record: &RawValue) -> String {
    let Ok(Record { seq, draft, .. }) = Record::decode(record.get().as_bytes()) else {
        return record.get().to_owned();
    };
    let tool = draft.call().and_then(|call| call.tool.as_ref());
    let subject = match &draft.subject {
        Subject::Call(call) => call.call.to_string(),
        Subject::Tenant(tenant) => tenant.to_string(),
        Subject::Deployment => String::new(),
    };
    let rest = [
        outcome_text(&draft),
        draft.refusal.as_ref().map(ToString::to_string),
        draft.detail.get("action").cloned(),
        tool.map(|tool| format!("{}/{}", tool.server, tool.name)),
        Some(subject).filter(|subject| !subject.is_empty()),
    ];
    let rest: Vec<String> = rest.into_iter().flatten().collect();
    format!("{seq:>6}  {}  {:<17}  {}", draft.time.rfc3339(), draft.kind.name(), rest.join("  "))
}

/// How what a record states came out, in its own word.
fn outcome_text(draft: &RecordDraft) -> Option<String> {
    draft.outcome.map(|outcome| outcome.name().to_owned())
}

impl Source {
    /// The directory and the key; the configuration is read only for what is not given.
    fn find(&self, shared: &Shared) -> Result<(PathBuf, VerifierKey), Stop> {
        let dir = match &self.log {
            Some(dir) => dir.clone(),
            None => shared.load_quietly()?.0.data_dir.join("log"),
        };
        if !dir.is_dir() {
            return Err(Stop::usage(format_args!("there is no log at `{}`", dir.display()))
                .next("name its directory with --log, or run the gateway first"));
        }
        Ok((dir, public_key(shared, self.key.as_deref())?))
    }
}

/// Reads one published file.
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

/// The text of a small file, or of the standard input for `-`.
pub(super) fn read_text(path: &Path) -> Result<String, Stop> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(FILE_BYTES_MAX).read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(Stop::usage(format_args!("cannot read `{}`: {error}", path.display()))),
    }
}

impl Verify {
    fn run(self, shared: &Shared, out: Out) -> Result<(), Stop> {
        let (dir, key) = self.source.find(shared)?;
        let kept = self.checkpoint.as_deref().map(read_text).transpose()?;
        let receipt = self.receipt.as_deref().map(read_text).transpose()?;
        let receipt = receipt.as_deref().map(super::receipt::token).transpose()?;
        let options = Options { kept: kept.as_deref(), receipt };
        let report = report(&dir, &key, &options)?;
        out.show(&report, text_of)?;
        if report.is_sound() { Ok(()) } else { Err(Stop::failed()) }
    }
}

/// Verifies the log in a directory.
pub(super) fn report(dir: &Path, key: &VerifierKey, options: &Options<'_>) -> Result<Report, Stop> {
    let read = |path: &str| read_in(dir, path);
    verify_log(&read, key, options).map_err(|error| {
        Stop::usage(format_args!("cannot read the log in `{}`: {error}", dir.display()))
    })
}

fn text_of(report: &Report) -> String {
    let calls = &report.calls;
    let mut lines = Vec::new();
    match &report.attested {
        Some(attested) if report.is_sound() => {
            let time = attested.time.map(|time| format!(" at {}", time.rfc3339()));
            lines.push(format!(
                "sound: {} records, signed{}",
                attested.size,
                time.unwrap_or_default()
            ));
            lines.push(format!("root {}", attested.root));
            lines.extend(
                attested.continues.map(|size| format!("continues the kept {size} records")),
            );
            lines.extend(attested.holds_receipt.then(|| "holds the receipt's record".to_owned()));
        }
        Some(_) | None => {
            lines.push("NOT sound:".to_owned());
            lines.extend(report.findings.iter().map(|finding| format!("  {finding}")));
            let more = report.findings_omitted;
            lines.extend((more > 0).then(|| format!("  and {more} more")));
        }
    }
    lines.push(format!(
        "calls: {} ran, {} refused, {} released, {} open",
        calls.executed, calls.refused, calls.released, calls.open
    ));
    lines.extend(report.open.iter().take(20).map(|open| {
        let how = if open.in_doubt { "in doubt" } else { "open" };
        format!("  {how}: {} since {}", open.call, open.time.rfc3339())
    }));
    lines.join("\n")
}

impl Prove {
    fn run(self, shared: &Shared) -> Result<(), Stop> {
        let (dir, key) = self.source.find(shared)?;
        let read = |path: &str| read_in(&dir, path);
        let bundle = prove_call(&read, &key, Target::Call(self.call)).map_err(|error| {
            Stop::new(countersign_client::exit::TOOL_ERROR, error).next(
                "a call that ran can be proven once it is captured and published; one that was \
                     refused is in `audit tail`, and `audit verify` checks it",
            )
        })?;
        let text = serde_json::to_string_pretty(&bundle).map_err(Stop::internal)?;
        let Some(path) = self.output else { return super::out::write(&text) };
        let written = fs::File::create(&path).and_then(|mut file| writeln!(file, "{text}"));
        written.map_err(|error| {
            Stop::usage(format_args!("cannot write `{}`: {error}", path.display()))
        })?;
        note(&format!("wrote the proof to {}", path.display()));
        Ok(())
    }
}

/// What a proof proves, for programs.
#[derive(Serialize)]
struct Proven<'a> {
    sound: bool,
    call: String,
    index: u64,
    origin: &'a str,
    size: u64,
    outcome: Option<String>,
    records: Vec<&'static str>,
}

fn check_proof(shared: &Shared, out: Out, file: &Path, key: Option<&str>) -> Result<(), Stop> {
    let text = read_text(file)?;
    let bundle: ProofBundle = serde_json::from_str(&text)
        .map_err(|error| Stop::usage(format_args!("`{}` is no proof: {error}", file.display())))?;
    let key = public_key(shared, key)?;
    let proven = verify_proof(&bundle, &key).map_err(|error| {
        Stop::new(
            countersign_client::exit::TOOL_ERROR,
            format_args!("the proof does not hold: {error}"),
        )
    })?;
    out.show(&view(&proven), |view| {
        facts(&[
            ("proven", Some(view.call.clone())),
            ("log", Some(format!("{} at {} records", view.origin, view.size))),
            ("closing record", Some(view.index.to_string())),
            ("outcome", view.outcome.clone()),
            ("records", Some(view.records.join(", "))),
        ])
    })
}

fn view(proven: &ProvenCall) -> Proven<'_> {
    let records = proven.records.iter().chain([&proven.impact]);
    Proven {
        sound: true,
        call: proven.impact.draft.call().map(|call| call.call.to_string()).unwrap_or_default(),
        index: proven.impact.seq,
        origin: &proven.checkpoint.origin,
        size: proven.checkpoint.size,
        outcome: outcome_text(&proven.impact.draft),
        records: records.map(|record| record.draft.kind.name()).collect(),
    }
}
