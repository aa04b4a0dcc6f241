//! `policy simulate`: recorded decisions, put to another bundle.
//!
//! Asks nothing of anybody but for the records: the question is read back from each, and the
//! answer is compared with the one on record. What is not in the record is not guessed: such
//! decisions are counted by what is missing.

use super::{read, refused};
use crate::{
    admin::form::{ChangeView, Tail},
    cli::{
        Shared,
        audit::read_text,
        out::{Out, facts, note, table},
        stop::Stop,
    },
    keys,
    prove::policy::{Delta, Engine},
};
use countersign_core::{
    audit::record::{Kind, Record},
    policy::{Names, NotRecorded, Recorded},
};
use serde::Serialize;
use std::{collections::BTreeMap, path::PathBuf};

/// Records in one answer of the gateway.
const PAGE: u64 = 1000;

/// What to put to which bundle.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Simulate {
    /// The bundle's directory.
    dir: PathBuf,
    /// Records as `audit tail` prints them, one a line; `-` reads the standard input. Without it
    /// the running gateway's whole log is read.
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
    /// From this index of the log on.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// The key of the pseudonyms, for policies that name people; that of the configuration when
    /// absent.
    #[arg(long, value_name = "FILE")]
    pseudonym_key: Option<PathBuf>,
}

#[derive(Serialize)]
struct Simulated {
    digest: String,
    records: u64,
    #[serde(flatten)]
    delta: Delta,
    /// Decisions that could not be put again, by what is missing.
    not_replayed: BTreeMap<String, u64>,
}

/// What was seen so far.
struct Replay {
    engine: Engine,
    names: Names,
    simulated: Simulated,
}

impl Simulate {
    /// Does it.
    pub(super) async fn run(self, shared: &Shared, out: Out) -> Result<(), Stop> {
        // Its time of validity is not that of the records.
        let bundle = read(&self.dir)?.unsealed();
        let engine = Engine::of(&bundle).map_err(|error| refused(error.into()))?;
        let key = self.key(shared, &engine)?;
        let digest = engine.bundle_digest().to_hex();
        let names = engine.names(key.as_ref());
        let not_replayed = BTreeMap::new();
        let simulated = Simulated { digest, records: 0, delta: Delta::default(), not_replayed };
        let mut replay = Replay { engine, names, simulated };
        match &self.records {
            Some(file) => {
                let text = read_text(file)?;
                for line in text.lines().filter(|line| !line.trim().is_empty()) {
                    replay.take(line, self.from)?;
                }
            }
            None => self.replay_log(shared, &mut replay).await?,
        }
        out.show(&replay.simulated, told)
    }

    async fn replay_log(&self, shared: &Shared, replay: &mut Replay) -> Result<(), Stop> {
        let link = shared.link()?;
        let mut from = self.from;
        loop {
            let page: Tail = link.get(&format!("/v1/audit?limit={PAGE}&from={from}")).await?;
            page.records.iter().try_for_each(|record| replay.take(record.get(), 0))?;
            if page.records.is_empty() || page.next <= from {
                return Ok(());
            }
            from = page.next;
        }
    }

    /// The key of the pseudonyms; `None` where no policy names a person, or there is none.
    fn key(&self, shared: &Shared, engine: &Engine) -> Result<Option<[u8; 32]>, Stop> {
        if !engine.names_people() {
            return Ok(None);
        }
        let path = match &self.pseudonym_key {
            Some(path) => path.clone(),
            None => match shared.load_quietly() {
                Ok((config, _)) => keys::pseudonym_path(&config.data_dir),
                Err(_) => PathBuf::new(),
            },
        };
        if self.pseudonym_key.is_none() && !path.is_file() {
            note("policies name people: without --pseudonym-key their rules match nobody here");
            return Ok(None);
        }
        Ok(Some(keys::pseudonym(&path)?))
    }
}

impl Replay {
    fn take(&mut self, line: &str, from: u64) -> Result<(), Stop> {
        let record = Record::decode(line.trim().as_bytes()).map_err(|error| {
            Stop::usage(format_args!("a line is no record: {error}"))
                .next("give what `countersign audit tail --limit 1000` prints")
        })?;
        if record.seq < from {
            return Ok(());
        }
        let simulated = &mut self.simulated;
        simulated.records = simulated.records.saturating_add(1);
        if record.draft.kind != Kind::Decision {
            return Ok(());
        }
        let call = record.draft.call().map(|call| call.call);
        match (Recorded::read(&record.draft, &self.names), call) {
            (Ok(recorded), Some(call)) => {
                simulated.delta.count(self.engine.compare(recorded), call)
            }
            (Err(missing), _) => simulated.count(missing),
            (Ok(_), None) => simulated.count(NotRecorded::NotAsked),
        }
        Ok(())
    }
}

impl Simulated {
    fn count(&mut self, missing: NotRecorded) {
        let count = self.not_replayed.entry(missing.to_string()).or_default();
        *count = count.saturating_add(1);
    }
}

fn told(found: &Simulated) -> String {
    let rows: Vec<ChangeView> = found.delta.rows.iter().cloned().map(Into::into).collect();
    let facts = facts(&[
        ("digest", Some(found.digest.clone())),
        ("records", Some(found.records.to_string())),
        ("decisions", Some(found.delta.compared.to_string())),
        ("otherwise", Some(found.delta.changed.to_string())),
    ]);
    let missing =
        found.not_replayed.iter().map(|(why, count)| format!("not put again: {count}, {why}"));
    let missing: Vec<String> = missing.collect();
    let parts = [facts, missing.join("\n"), changes(&rows, found.delta.beyond)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// Changes in a table; none, none.
pub(super) fn changes(changes: &[ChangeView], beyond: u64) -> String {
    if changes.is_empty() {
        return String::new();
    }
    let row = |row: &ChangeView| {
        let calls = row.calls.iter().rev().take(2).cloned();
        vec![
            row.count.to_string(),
            row.from.clone(),
            row.to.clone(),
            row.policies.join(", "),
            row.tool.clone(),
            row.tenant.clone(),
            calls.collect::<Vec<_>>().join(" "),
        ]
    };
    let rows: Vec<Vec<String>> = changes.iter().map(row).collect();
    let table = table(&["calls", "from", "to", "policies", "tool", "tenant", "such as"], &rows);
    match beyond {
        0 => table,
        more => format!("{table}\nand {more} more"),
    }
}
