//! An outside provider of risk: points that it adds to our own.
//!
//! INVARIANT: it only raises. Silence, lateness and nonsense add points of their own, so that
//! keeping it from answering gains nothing; nothing that it says takes a point away.
//! INVARIANT: what it may cost is bounded: 50 milliseconds, the size of an answer, questions under
//! way, and how often one that does not answer is asked.
//!
//! It sees what an external policy service sees: no argument, no token, no payment.

use super::pdp;
use crate::{
    config::RiskProvider,
    fetch::{Fetch, FetchRules, Reply},
};
use countersign_core::{
    policy::{Question, SCORE_MAX, Tables},
    time::UnixMs,
    wire::json::{self, Limits},
};
use serde::Deserialize;
use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};
use tokio::sync::Semaphore;

/// How long an answer may take, in milliseconds.
const TIMEOUT_MS: u64 = 50;
/// Points for a call about which it said nothing usable.
const SILENCE: u8 = 10;
/// Questions under way; more are not asked.
const UNDER_WAY_MAX: usize = 256;
/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4 << 10;
/// Failures in a row after which it is left alone, and for how long, in milliseconds.
const FAILURES_MAX: u32 = 5;
const REST_MS: u64 = 2_000;

/// One provider.
#[derive(Debug)]
pub struct Provider {
    fetch: Fetch,
    url: String,
    authorization: Option<Arc<str>>,
    places: Semaphore,
    failures: AtomicU32,
    rests_until_ms: AtomicU64,
}

/// Its answer. Other members mean nothing here.
#[derive(Deserialize)]
struct Answer {
    points: u64,
}

impl Provider {
    /// The provider of a configuration.
    #[must_use]
    pub fn new(config: &RiskProvider) -> Self {
        let fetch = Fetch::new(FetchRules {
            allow_private: config.allow_private_network,
            max_bytes: ANSWER_BYTES_MAX,
            timeout_ms: TIMEOUT_MS,
        });
        Self {
            fetch,
            url: config.url.to_string(),
            authorization: config.authorization.as_ref().map(|value| value.expose().into()),
            places: Semaphore::new(UNDER_WAY_MAX),
            failures: AtomicU32::new(0),
            rests_until_ms: AtomicU64::new(0),
        }
    }

    /// Raises the question's risk by what the provider says of it.
    pub async fn raise(&self, question: &mut Question, tables: &Tables) {
        let points = self.points(question).await.unwrap_or(SILENCE);
        let risk = std::mem::take(&mut question.risk);
        question.risk = tables.risk.raised(risk, points);
    }

    /// What it says; `None` for nothing usable.
    async fn points(&self, question: &Question) -> Option<u8> {
        if question.now.0 < self.rests_until_ms.load(Ordering::Relaxed) {
            return None;
        }
        let _place = self.places.try_acquire().ok()?;
        let id = question.id.to_string();
        let mut headers = vec![("x-request-id", id.as_str()), ("cache-control", "no-cache")];
        headers.extend(self.authorization.as_deref().map(|value| ("authorization", value)));
        let body = pdp::request(question).to_string();
        let reply = self.fetch.post(&self.url, "application/json", &headers, body).await;
        let points = reply.ok().and_then(|reply| read(&reply));
        self.remember(points.is_some(), question.now);
        points
    }

    fn remember(&self, has_answered: bool, now: UnixMs) {
        if has_answered {
            self.failures.store(0, Ordering::Relaxed);
        } else if self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1) >= FAILURES_MAX {
            self.rests_until_ms.store(now.plus_ms(REST_MS).0, Ordering::Relaxed);
        }
    }
}

/// Whole points, at most as many as there are; anything else is no answer.
fn read(reply: &Reply) -> Option<u8> {
    if reply.status != 200 || reply.content_type.as_deref() != Some("application/json") {
        return None;
    }
    json::check(&reply.body, &Limits::PROOF).ok()?;
    let Answer { points } = serde_json::from_slice(&reply.body).ok()?;
    Some(u8::try_from(points).unwrap_or(SCORE_MAX).min(SCORE_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prove::policy::Engine;
    use bytes::Bytes;
    use http::HeaderMap;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    fn said(body: &str) -> Option<u8> {
        read(&Reply {
            status: 200,
            content_type: Some("application/json".to_owned()),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        })
    }

    #[test]
    fn only_whole_points_are_an_answer_and_none_is_negative() {
        assert_eq!(said(r#"{"points":0}"#), Some(0));
        assert_eq!(said(r#"{"points":7,"why":"x"}"#), Some(7));
        for huge in ["101", "255", "256", "18446744073709551615"] {
            assert_eq!(said(&format!(r#"{{"points":{huge}}}"#)), Some(SCORE_MAX), "{huge}");
        }
        let nonsense = ["-1", "1.5", "1e30", "18446744073709551616", "null", "\"5\"", "[]", "true"];
        for points in nonsense {
            assert_eq!(said(&format!(r#"{{"points":{points}}}"#)), None, "{points}");
        }
        for body in ["", "{}", "5", r#"{"points":90,"points":0}"#] {
            assert_eq!(said(body), None, "{body}");
        }
    }

    fn provider(port: u16) -> Provider {
        Provider::new(&RiskProvider {
            url: format!("http://127.0.0.1:{port}/risk").parse().unwrap(),
            authorization: None,
            allow_private_network: true,
        })
    }

    /// Answers every request with `body`, or never; what it was asked goes to `asked`.
    async fn service(
        body: Option<&'static str>,
    ) -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, asked) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 16 << 10];
                let mut length = 0;
                while !String::from_utf8_lossy(&request[..length]).ends_with("}}") {
                    length += stream.read(&mut request[length..]).await.unwrap();
                }
                request.truncate(length);
                let _ = sender.send(String::from_utf8(request).unwrap());
                if let Some(body) = body {
                    let length = body.len();
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
                    );
                    stream.write_all(head.as_bytes()).await.unwrap();
                }
                kept.push(stream);
            }
        });
        (port, asked)
    }

    async fn raised(provider: &Provider, now: UnixMs) -> (u8, u8) {
        let engine = Engine::builtin().unwrap();
        let mut question = Question { now, ..Engine::sample_question() };
        question = question.by(engine.tables());
        let before = question.risk.score;
        provider.raise(&mut question, engine.tables()).await;
        // The numbers of a bundle that counts anew keep what the provider added.
        assert_eq!(question.clone().by(engine.tables()).risk.score, question.risk.score);
        (before, question.risk.score)
    }

    #[tokio::test]
    async fn what_it_says_is_added_and_what_it_cannot_say_is_silence() {
        for (body, more) in [
            (r#"{"points":25}"#, 25),
            (r#"{"points":0}"#, 0),
            (r#"{"points":-50}"#, SILENCE),
            (r#"{"points":1e300}"#, SILENCE),
        ] {
            let (port, mut asked) = service(Some(body)).await;
            let (before, after) = raised(&provider(port), UnixMs(1)).await;
            assert_eq!(after, before + more, "{body}");
            let asked = asked.recv().await.unwrap();
            assert!(asked.contains("x-request-id") && asked.contains("call_digest"), "{asked}");
        }
        let (port, _asked) = service(Some(r#"{"points":999999}"#)).await;
        assert_eq!(raised(&provider(port), UnixMs(1)).await.1, SCORE_MAX);
    }

    #[tokio::test]
    async fn an_outage_adds_ten_in_time_and_is_left_alone_for_a_while() {
        let (port, mut asked) = service(None).await;
        let silent = provider(port);
        #[expect(clippy::disallowed_methods, reason = "measures real time")]
        let began = std::time::Instant::now();
        for _ in 0..FAILURES_MAX {
            let (before, after) = raised(&silent, UnixMs(5)).await;
            assert_eq!(after, before + SILENCE);
        }
        assert!(began.elapsed().as_millis() < 3_000, "each within its time");
        let mut count = || std::iter::from_fn(|| asked.try_recv().ok()).count();
        assert!(count() > 0);
        let (before, after) = raised(&silent, UnixMs(4 + REST_MS)).await;
        assert_eq!((after, count()), (before + SILENCE, 0), "left alone");
        let _ = raised(&silent, UnixMs(5 + REST_MS)).await;
        assert_eq!(count(), 1, "and asked again");
        let (before, after) = raised(&provider(9), UnixMs(1)).await;
        assert_eq!(after, before + SILENCE, "nobody there");
    }

    #[tokio::test]
    async fn a_private_address_is_not_called_unless_that_is_said() {
        let (port, mut asked) = service(Some(r#"{"points":0}"#)).await;
        let provider = Provider::new(&RiskProvider {
            url: format!("http://127.0.0.1:{port}/risk").parse().unwrap(),
            authorization: None,
            allow_private_network: false,
        });
        let (before, after) = raised(&provider, UnixMs(1)).await;
        assert_eq!(after, before + SILENCE);
        assert!(asked.try_recv().is_err());
    }
}
