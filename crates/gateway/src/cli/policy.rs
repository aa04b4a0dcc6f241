//! `policy`: the life of a bundle, from its check to its activation.
//!
//! What looks at files works offline; `show`, `report`, `activate` and `rollback` ask the running
//! gateway.

mod fmt;
mod prove;
mod shadow;
mod simulate;

use super::{
    Shared,
    keys::read_public,
    link::Link,
    out::{Out, facts, note, table},
    stop::Stop,
    trust,
};
use crate::{
    admin::form::{BundleFiles, GoBack, PolicyView},
    keys::write_new,
    prove::policy::{
        Bundle, BundleError, Clauses, Engine, Explanation, answer_text, open, run_trials,
    },
    world,
};
use countersign_core::{
    audit::checkpoint::{SignerKey, VerifierKey},
    policy::Reason,
    time::UnixMs,
    wire::json::{self, Limits},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Policy {
    /// Take a bundle through every check that activation makes, but that of its revision.
    Check {
        /// The bundle's directory.
        dir: PathBuf,
        /// Public key of its signer, or a file with it; without it no signature is asked for.
        #[arg(long, value_name = "FILE|KEY")]
        key: Option<String>,
    },
    /// Check schema, policies and data alone: no manifest, no tests.
    Lint {
        /// The bundle's directory.
        dir: PathBuf,
    },
    /// Write the policies in the one form that Cedar's formatter gives them.
    Fmt {
        /// The bundle's directory.
        dir: PathBuf,
        /// Write nothing; fail if they are not in that form.
        #[arg(long)]
        check: bool,
    },
    /// Run a bundle's own tests.
    Test {
        /// The bundle's directory.
        dir: PathBuf,
        /// Name the policies that decided no test, and fail if there are any.
        #[arg(long)]
        cov: bool,
    },
    /// Decide a question, and say why: what decided, and which permit came nearest.
    Explain {
        /// The bundle's directory.
        dir: PathBuf,
        /// How the question differs from a harmless one, as in the bundle's tests: a JSON object,
        /// or `@FILE` with one.
        #[arg(default_value = "{}")]
        question: String,
    },
    /// Put recorded decisions to a bundle, and tabulate what it answers otherwise.
    Simulate(simulate::Simulate),
    /// Prove invariants for every request there can be, or show one that refutes them.
    Prove(prove::Prove),
    /// A bundle that answers beside the one in force, and decides nothing.
    #[command(subcommand)]
    Shadow(shadow::Shadow),
    /// Show what differs between two bundles: policies by id, other files by name.
    Diff {
        /// The one bundle's directory.
        old: PathBuf,
        /// The other's.
        new: PathBuf,
    },
    /// Make a key pair for signing bundles.
    Key {
        /// Its name; the public key starts with it.
        #[arg(long)]
        name: String,
        /// Where the secret goes; the file must not exist.
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Write the manifest: revision, validity, and the SHA-256 of each file.
    Bundle {
        /// The bundle's directory.
        dir: PathBuf,
        /// Its revision: above all that were in force before.
        #[arg(long)]
        revision: u64,
        /// Not to be used before this moment, in milliseconds since 1970.
        #[arg(long, value_name = "MS")]
        not_before_ms: Option<u64>,
        /// Not to be used from this moment on, in milliseconds since 1970: then calls are denied.
        #[arg(long, value_name = "MS")]
        not_after_ms: Option<u64>,
    },
    /// Sign the manifest.
    Sign {
        /// The bundle's directory.
        dir: PathBuf,
        /// File with the secret key, of mode 0600.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Show what is in force, and what is kept to go back to.
    Show,
    /// Rules that refuse, and which of them do so too often; grants that nobody uses; agents that
    /// drift.
    Report,
    /// Put a bundle in force.
    Activate {
        /// The bundle's directory.
        dir: PathBuf,
    },
    /// Put a bundle in force again that was so before.
    Rollback {
        /// Its revision.
        revision: u64,
        /// Why; it is recorded.
        #[arg(long)]
        reason: String,
    },
}

/// A bundle as the offline commands show it.
#[derive(Serialize)]
struct Checked {
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<u64>,
    tests: usize,
    says: Vec<String>,
}

#[derive(Serialize)]
struct Tried {
    file: String,
    name: String,
    decided_by: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

impl Policy {
    /// Does it.
    pub(super) async fn run(self, shared: &Shared, out: Out) -> Result<(), Stop> {
        match self {
            Self::Check { dir, key } => check(&dir, key.as_deref(), out),
            Self::Lint { dir } => lint(&dir, out),
            Self::Fmt { dir, check } => fmt::fmt(&dir, check, out),
            Self::Test { dir, cov } => test(&dir, cov, out),
            Self::Explain { dir, question } => explain(&dir, &question, out),
            Self::Simulate(simulate) => simulate.run(shared, out).await,
            Self::Shadow(shadow) => shadow.run(shared, out).await,
            Self::Prove(prove) => prove.run(out).await,
            Self::Diff { old, new } => diff(&old, &new, out),
            Self::Key { name, output } => make_key(&name, &output, out),
            Self::Bundle { dir, revision, not_before_ms, not_after_ms } => {
                let mut bundle = read(&dir)?;
                let validity = (not_before_ms.map(UnixMs), not_after_ms.map(UnixMs));
                bundle.seal(revision, validity.0, validity.1).map_err(refused)?;
                bundle.write_seal(&dir).map_err(refused)?;
                sealed(&bundle, out)
            }
            Self::Sign { dir, key } => {
                let mut bundle = read(&dir)?;
                bundle.sign(&secret_key(&key)?).map_err(refused)?;
                bundle.write_seal(&dir).map_err(refused)?;
                sealed(&bundle, out)
            }
            Self::Show => shown(out, &shared.link()?.get("/v1/policy").await?),
            Self::Report => trust::report(&shared.link()?, out).await,
            Self::Activate { dir } => activate(&shared.link()?, &dir, out).await,
            Self::Rollback { revision, reason } => {
                let back = GoBack { revision, reason };
                shown(out, &shared.link()?.post("/v1/policy/rollback", &back).await?)
            }
        }
    }
}

fn check(dir: &Path, key: Option<&str>, out: Out) -> Result<(), Stop> {
    let bundle = read(dir)?;
    let key: Option<VerifierKey> = key.map(read_public).transpose()?;
    let engine = open(&bundle, key.as_ref(), world::system().now()).map_err(refused)?;
    checked(&bundle, &engine, out)
}

fn lint(dir: &Path, out: Out) -> Result<(), Stop> {
    let bundle = read(dir)?;
    let engine = Engine::of(&bundle).map_err(|error| refused(error.into()))?;
    checked(&bundle, &engine, out)
}

fn checked(bundle: &Bundle, engine: &Engine, out: Out) -> Result<(), Stop> {
    let checked = Checked {
        digest: engine.bundle_digest().to_hex(),
        revision: bundle.revision(),
        tests: bundle.tests().count(),
        says: engine.describe(),
    };
    out.show(&checked, |checked| {
        let facts = facts(&[
            ("digest", Some(checked.digest.clone())),
            ("revision", checked.revision.map(|revision| revision.to_string())),
            ("test files", Some(checked.tests.to_string())),
        ]);
        format!("{facts}\n{}", checked.says.join("\n"))
    })
}

fn test(dir: &Path, cov: bool, out: Out) -> Result<(), Stop> {
    let bundle = read(dir)?;
    let engine = Engine::of(&bundle).map_err(|error| refused(error.into()))?;
    let trials = run_trials(&bundle, &engine).map_err(BundleError::Trials).map_err(refused)?;
    let failed = trials.iter().any(|trial| trial.failure.is_some());
    let decided: BTreeSet<String> = trials.iter().flat_map(|t| t.decided_by.clone()).collect();
    for trial in trials {
        let (file, name, failure) = (trial.file, trial.name, trial.failure);
        let tried = Tried { file, name, decided_by: trial.decided_by, failure };
        out.item(&tried, |tried| {
            let verdict =
                tried.failure.as_ref().map_or("ok".to_owned(), |f| format!("FAILED: {f}"));
            format!("{} `{}` ({}): {verdict}", tried.file, tried.name, tried.decided_by.join(", "))
        })?;
    }
    let untried = engine.rule_ids().filter(|id| cov && !decided.contains(*id));
    let untried: Vec<&str> = untried.collect();
    if !untried.is_empty() {
        out.item(&serde_json::json!({ "decided_no_test": untried }), |_| {
            format!("decided no test: {}", untried.join(", "))
        })?;
    }
    if failed || !untried.is_empty() { Err(Stop::failed()) } else { Ok(()) }
}

#[derive(Serialize)]
struct Explained {
    answer: String,
    reasons: Vec<Reason>,
    decided: Vec<Clauses>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<Clauses>,
}

fn explain(dir: &Path, question: &str, out: Out) -> Result<(), Stop> {
    let engine = Engine::of(&read(dir)?).map_err(|error| refused(error.into()))?;
    let text = match question.strip_prefix('@') {
        Some(file) => fs::read_to_string(file)
            .map_err(|error| Stop::usage(format_args!("cannot read `{file}`: {error}")))?,
        None => question.to_owned(),
    };
    json::check(text.as_bytes(), &Limits::REQUEST)
        .map_err(|error| Stop::usage(format_args!("the question: {error}")))?;
    let patch = serde_json::from_str(&text)
        .map_err(|error| Stop::usage(format_args!("the question is no JSON: {error}")))?;
    let question = Engine::patched_question(&patch).map_err(Stop::usage)?;
    let Explanation { decision, decided, nearest } = engine.explain(&question);
    let answer = answer_text(&decision.answer);
    let explained = Explained { answer, reasons: decision.reasons, decided, nearest };
    out.show(&explained, |explained| {
        let mut lines = vec![explained.answer.clone()];
        let reasons = explained.reasons.iter();
        lines.extend(reasons.map(|reason| format!("  {} by `{}`", reason.code, reason.policy)));
        explained.decided.iter().for_each(|rule| lines.extend(told("because", rule)));
        explained.nearest.iter().for_each(|rule| lines.extend(told("nearest permit", rule)));
        lines.join("\n")
    })
}

fn told(what: &str, rule: &Clauses) -> Vec<String> {
    let mut lines = vec![format!("{what} `{}`", rule.policy)];
    for clause in &rule.clauses {
        lines.push(format!("  {}", clause.text.replace('\n', " ")));
        lines.extend(clause.values.iter().map(|(name, value)| format!("    {name} = {value}")));
    }
    lines
}

/// Names that one bundle has and the other has not, or not so.
#[derive(Default, Serialize)]
struct Differences {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
}

fn diff(old: &Path, new: &Path, out: Out) -> Result<(), Stop> {
    let parts = |dir: &Path| -> Result<BTreeMap<String, String>, Stop> {
        let bundle = read(dir)?;
        let engine = Engine::of(&bundle).map_err(|error| refused(error.into()))?;
        let mut parts = engine.policy_texts();
        parts.extend(
            bundle.to_files().into_iter().filter(|(name, _)| !name.starts_with("policies.")),
        );
        Ok(parts)
    };
    let (old, new) = (parts(old)?, parts(new)?);
    let missing = |from: &BTreeMap<String, String>, others: &BTreeMap<String, String>| {
        from.keys().filter(|name| !others.contains_key(*name)).cloned().collect()
    };
    let is_changed =
        |name: &&String| new.get(*name).is_some_and(|text| old.get(*name) != Some(text));
    let differences = Differences {
        added: missing(&new, &old),
        removed: missing(&old, &new),
        changed: old.keys().filter(is_changed).cloned().collect(),
    };
    out.show(&differences, |found| {
        let listed = |sign: &str, names: &[String]| {
            names.iter().map(|name| format!("{sign} {name}")).collect::<Vec<_>>()
        };
        let all =
            [listed("+", &found.added), listed("-", &found.removed), listed("~", &found.changed)];
        let lines = all.concat();
        if lines.is_empty() { "the same".to_owned() } else { lines.join("\n") }
    })
}

fn make_key(name: &str, output: &Path, out: Out) -> Result<(), Stop> {
    let key = SignerKey::from_seed(name, &world::system().random()).map_err(Stop::usage)?;
    write_new(output, &key.to_secret_string()).map_err(|error| {
        Stop::usage(format_args!("cannot write `{}`: {error}", output.display()))
    })?;
    let public = key.verifier().to_string();
    note(&format!("the secret is in `{}`: keep it off the gateway's machine", output.display()));
    out.show(&serde_json::json!({ "key": public }), |_| format!("policy.key  {public}"))
}

fn secret_key(file: &Path) -> Result<SignerKey, Stop> {
    let shown = file.display();
    let cannot = |error| Stop::usage(format_args!("cannot read `{shown}`: {error}"));
    let mode = fs::metadata(file).map_err(cannot)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Stop::usage(format_args!("`{shown}` is open to others"))
            .next(format!("chmod 600 {shown}")));
    }
    let text = fs::read_to_string(file).map_err(cannot)?;
    text.trim().parse().map_err(|error| {
        Stop::usage(format_args!("`{shown}` holds no signing key: {error}"))
            .next("make one with `countersign policy key`")
    })
}

fn sealed(bundle: &Bundle, out: Out) -> Result<(), Stop> {
    let manifest = bundle.manifest().ok_or_else(|| refused(BundleError::NoManifest))?;
    out.show(manifest, |manifest| {
        format!("revision {} of {} files, {}", manifest.revision, manifest.files.len(), {
            if bundle.is_signed() { "signed" } else { "not signed" }
        })
    })
}

async fn activate(link: &Link, dir: &Path, out: Out) -> Result<(), Stop> {
    let files = read(dir)?.to_files();
    shown(out, &link.post("/v1/policy/activate", &BundleFiles { files }).await?)
}

fn shown(out: Out, view: &PolicyView) -> Result<(), Stop> {
    out.show(view, |view| {
        let facts = facts(&[
            ("digest", Some(view.digest.clone())),
            ("revision", view.revision.map(|revision| revision.to_string())),
            ("valid until", view.valid_until.clone()),
            ("signer", view.key.clone()),
        ]);
        let rows: Vec<Vec<String>> = view
            .kept
            .iter()
            .map(|kept| {
                let state = if kept.is_in_force { "in force" } else { "" };
                vec![
                    kept.revision.to_string(),
                    state.to_owned(),
                    kept.activated_at.clone(),
                    kept.activated_by.clone(),
                    kept.digest.clone(),
                ]
            })
            .collect();
        let kept = table(&["revision", "", "activated", "by", "digest"], &rows);
        format!("{facts}\n{}\n\n{kept}", view.says.join("\n"))
    })
}

fn read(dir: &Path) -> Result<Bundle, Stop> {
    Bundle::read(dir).map_err(refused)
}

/// A bundle that is not accepted: the check found something.
fn refused(error: BundleError) -> Stop {
    let is_read = matches!(error, BundleError::Unreadable(_));
    let exit = if is_read {
        countersign_client::exit::USAGE
    } else {
        countersign_client::exit::TOOL_ERROR
    };
    Stop::new(exit, &error).next(error.next())
}
