//! What to measure and for how long.

use anyhow::{Context as _, Result, bail};
use std::{path::PathBuf, time::Duration};

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Relay,
    Free,
    Work,
    Ways,
    Minting,
    Paid,
}

/// The command line.
#[derive(Debug)]
pub(crate) struct Options {
    /// Length of one measurement.
    pub(crate) time: Duration,
    /// Load before it that is not counted.
    pub(crate) warm: Duration,
    /// Measurements of each kind, taken in turns.
    pub(crate) rounds: usize,
    /// Connections, each with one call at a time.
    pub(crate) callers: Vec<usize>,
    /// All parts when none is named.
    only: Option<Part>,
    /// A gateway binary to measure instead of this build's library.
    pub(crate) gateway: Option<PathBuf>,
    /// Where databases go. It has to be a disk for figures to mean anything.
    pub(crate) dir: PathBuf,
}

const USAGE: &str = "countersign-bench [--seconds N] [--rounds N] [--quick] \
[--only relay|free|work|ways|minting|paid] [--callers N,N,..] [--gateway PATH] [--dir DIR]";

impl Options {
    /// Reads the command line.
    pub(crate) fn parse(words: &[&str]) -> Result<Self> {
        let beside = std::env::current_exe().context("where this program is")?;
        let mut options = Self {
            time: Duration::from_secs(3),
            warm: Duration::from_millis(1_000),
            rounds: 3,
            callers: vec![16, 64, 256],
            only: None,
            gateway: None,
            dir: beside.parent().context("this program's directory")?.join("bench-data"),
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if *word == "--quick" {
                options.time = Duration::from_secs(1);
                options.warm = Duration::from_millis(400);
                options.rounds = 2;
                options.callers = vec![16, 256];
                continue;
            }
            let Some(value) = words.next() else { bail!("usage: {USAGE}") };
            options
                .set(word, value)
                .with_context(|| format!("`{word} {value}`; usage: {USAGE}"))?;
        }
        if options.rounds == 0 || options.time.is_zero() || options.callers.contains(&0) {
            bail!("nothing to measure; usage: {USAGE}");
        }
        Ok(options)
    }

    fn set(&mut self, word: &str, value: &str) -> Result<()> {
        match word {
            "--seconds" => self.time = Duration::from_secs(value.parse()?),
            "--rounds" => self.rounds = value.parse()?,
            "--callers" => {
                self.callers = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
            }
            "--only" => {
                self.only = Some(match value {
                    "relay" => Part::Relay,
                    "free" => Part::Free,
                    "work" => Part::Work,
                    "ways" => Part::Ways,
                    "minting" => Part::Minting,
                    "paid" => Part::Paid,
                    _ => bail!("there is no such part"),
                });
            }
            "--gateway" => self.gateway = Some(value.into()),
            "--dir" => self.dir = value.into(),
            _ => bail!("there is no such option"),
        }
        Ok(())
    }

    /// Whether a part is to be measured.
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }
}
