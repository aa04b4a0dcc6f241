//! The load generator: closed loop over raw HTTP/1.1 keep-alive connections, on one thread.
//!
//! Each connection sends the same bytes again as soon as it has the answer; one that works asks for
//! a challenge before each call, since each is good for one. Every answer is
//! looked at: one that is not a result ends the run with what it said.

use crate::{child::Child, cpu::Cpu, gateway::Shop, messages, options::Options, sample::Sample};
use anyhow::{Context as _, Result, bail};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Instant,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::{JoinSet, LocalSet},
};

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) head: &'a str,
    pub(crate) body: &'a [u8],
}

impl Answer<'_> {
    /// The status, as text.
    pub(crate) fn status(&self) -> &str {
        self.head.get(9..12).unwrap_or("")
    }

    /// A header's first value. Names are sent in lower case by what is measured here.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// Refuses what is not a tool's or a method's result.
    fn check(&self) -> Result<()> {
        let begins = self.body.get(..self.body.len().min(64)).unwrap_or_default();
        let is_result = self.status() == "200"
            && find(begins, b"\"result\":").is_some()
            && find(self.body, b"Error\":true").is_none();
        if !is_result {
            bail!("not a result: {}\n{}", self.head, String::from_utf8_lossy(self.body));
        }
        Ok(())
    }
}

/// A keep-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    used: usize,
}

impl Connection {
    pub(crate) async fn open(authority: &str) -> Result<Self> {
        let stream = TcpStream::connect(authority).await.context("connecting")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 << 10), used: 0 })
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<Answer<'_>> {
        self.buffer.drain(..self.used);
        self.stream.write_all(request).await?;
        let mut seen = 0usize;
        let head = loop {
            if let Some(at) = find(self.buffer.get(seen..).unwrap_or_default(), b"\r\n\r\n") {
                break seen + at;
            }
            seen = self.buffer.len().saturating_sub(3);
            self.more().await?;
        };
        let text = std::str::from_utf8(self.buffer.get(..head).unwrap_or_default())?;
        let length: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .with_context(|| format!("an answer without content-length: {text}"))?
            .parse()?;
        self.used = head + 4 + length;
        while self.buffer.len() < self.used {
            self.more().await?;
        }
        let (head_bytes, body) = self.buffer.split_at_checked(head + 4).context("no head")?;
        let head = std::str::from_utf8(head_bytes)?;
        Ok(Answer { head, body: body.get(..length).unwrap_or_default() })
    }

    async fn more(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the connection was closed");
        }
        Ok(())
    }
}

/// Where `needle` begins. It should begin with a rare byte.
fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut from = 0usize;
    loop {
        let rest = hay.get(from..)?;
        let at = from + rest.iter().position(|byte| *byte == first)?;
        if hay.get(at..)?.starts_with(needle) {
            return Some(at);
        }
        from = at + 1;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Warm,
    Measure,
    Done,
}

struct Shared {
    phase: Cell<Phase>,
    latencies_us: RefCell<Vec<u32>>,
}

/// What a caller sends, again and again.
#[derive(Clone, Debug)]
pub(crate) enum Script {
    /// The same bytes.
    Same(Vec<u8>),
    /// A request for a challenge, and the call that answers it, to this authority.
    Worked(String),
    /// A call that is asked for, paid for and made, each one another.
    Bought(Shop),
    /// A call that is only asked for, each one another.
    Asked(Shop),
}

/// Drives load on a process, one connection for each script, and reads its CPU time.
pub(crate) fn drive(options: &Options, child: &Child, scripts: &[Script]) -> Result<Sample> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, drive_on(options, child, scripts))
}

async fn drive_on(options: &Options, child: &Child, scripts: &[Script]) -> Result<Sample> {
    let latencies_us = RefCell::new(Vec::with_capacity(1 << 18));
    let shared = Rc::new(Shared { phase: Cell::new(Phase::Warm), latencies_us });
    let mut callers = JoinSet::new();
    for script in scripts {
        let connection = Connection::open(child.authority()?).await?;
        callers.spawn_local(call(connection, script.clone(), Rc::clone(&shared)));
    }
    let measuring = async {
        tokio::time::sleep(options.warm).await;
        let (cpu, begun) = (Cpu::of(child.id()), Instant::now());
        shared.phase.set(Phase::Measure);
        tokio::time::sleep(options.time).await;
        shared.phase.set(Phase::Done);
        (cpu, Cpu::of(child.id()), begun.elapsed())
    };
    let (before, after, time) = tokio::select! {
        measured = measuring => measured,
        Some(ended) = callers.join_next() => {
            ended??;
            bail!("a caller ended early");
        }
    };
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    let latencies_us = shared.latencies_us.take();
    let calls = latencies_us.len() as u64;
    Ok(Sample::new(latencies_us, time, after.since(&before, calls)))
}

async fn call(mut connection: Connection, script: Script, shared: Rc<Shared>) -> Result<()> {
    while shared.phase.get() != Phase::Done {
        let begun = Instant::now();
        match &script {
            Script::Same(request) => connection.exchange(request).await?.check()?,
            Script::Worked(authority) => {
                let asked = connection.exchange(&messages::challenge(authority)).await?;
                let offer: serde_json::Value = serde_json::from_slice(asked.body)?;
                let nonce = offer.get("nonce").and_then(serde_json::Value::as_str);
                let request = messages::worked(authority, nonce.context("no challenge")?);
                connection.exchange(&request).await?.check()?;
            }
            Script::Bought(shop) => {
                let request = shop.buy(&mut connection, "once").await?;
                connection.exchange(&request).await?.check()?;
            }
            Script::Asked(shop) => _ = shop.ask(&mut connection, "once").await?,
        }
        if shared.phase.get() == Phase::Measure {
            let us = u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
            shared.latencies_us.borrow_mut().push(us);
        }
    }
    Ok(())
}
