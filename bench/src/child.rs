//! This program again, in another role: a process whose CPU time is read alone.
//!
//! A role says where it listens on its first line, and ends when its standard input does: with
//! the process that started it, however that ends.

use anyhow::{Context as _, Result};
use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{self, Command, Stdio},
};

/// A running role.
#[derive(Debug)]
pub(crate) struct Child {
    process: process::Child,
    url: String,
}

impl Child {
    /// Starts a role that says where it listens.
    pub(crate) fn start(role: &[&str]) -> Result<Self> {
        let own = std::env::current_exe()?;
        let mut command = Command::new(own);
        command.args(role).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("cannot start {role:?}"))?;
        let stdout = process.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Self { process, url: line.trim().to_owned() })
    }

    /// Starts a program that will listen at `url`.
    pub(crate) fn start_program(program: &Path, arguments: &[&str], url: &str) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null());
        let process =
            command.spawn().with_context(|| format!("cannot start `{}`", program.display()))?;
        Ok(Self { process, url: url.to_owned() })
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> Result<&str> {
        let is_url = self.url.starts_with("http://");
        is_url.then_some(&*self.url).context("a part of the benchmark did not start")
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> Result<&str> {
        self.url()?.strip_prefix("http://").context("no URL")
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _ended = self.process.wait();
    }
}

/// Runs a role to its end; its standard output.
pub(crate) fn output(role: &[&str]) -> Result<String> {
    let own = std::env::current_exe()?;
    let mut command = Command::new(own);
    // Held open until the role ends.
    let command = command.args(role).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn().with_context(|| format!("cannot start {role:?}"))?;
    let mut text = String::new();
    process.stdout.take().context("no standard output")?.read_to_string(&mut text)?;
    let _ended = process.wait()?;
    Ok(text)
}

/// In a role: ends the process with its starter's.
pub(crate) fn end_with_starter() {
    std::thread::spawn(|| {
        let mut rest = Vec::new();
        let _closed = std::io::stdin().read_to_end(&mut rest);
        process::exit(0);
    });
}
