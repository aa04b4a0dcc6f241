//! Telling open pages that something changed: server-sent events without content. A page then asks
//! for its own part again, as its visitor.

use super::{
    Console,
    page::Failed,
    visitor::{Visitor, cookie},
};
use crate::body::Body;
use axum::{extract::State, response::Response};
use bytes::Bytes;
use countersign_core::{
    digest::Digest,
    refusal::{Code, Refusal},
};
use http::{HeaderMap, HeaderValue, header};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// How often it is looked whether something changed.
const LOOK: Duration = Duration::from_millis(400);
/// After so many looks without a change a comment keeps the connection alive.
const SILENT_LOOKS: u32 = 40;

/// The stream of one page. It ends with the session, and with the process.
pub(super) async fn stream(
    State(console): State<Arc<Console>>,
    _visitor: Visitor,
    headers: HeaderMap,
) -> Result<Response, Failed> {
    let busy = |_| Failed::from(Refusal::new(Code::Overloaded));
    let place = Arc::clone(&console.streams).try_acquire_owned().map_err(busy)?;
    let secret = cookie(&headers, super::COOKIE).unwrap_or_default().to_owned();
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        watch(&console, &secret, &sender).await;
        drop(place);
    });
    let mut response = Response::new(axum::body::Body::new(Body::Events(receiver)));
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

async fn watch(console: &Console, secret: &str, sender: &mpsc::Sender<Bytes>) {
    let mut seen = standing(console);
    let mut silent = 0;
    let mut stop = console.stop.clone();
    if sender.send(Bytes::from_static(b"retry: 2000\n\n")).await.is_err() {
        return;
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = sender.closed() => return,
            _stopped = async { stop.wait_for(|stop| *stop).await.map(drop) } => return,
        }
        if console.session_of(secret).is_none() {
            return;
        }
        let now = standing(console);
        let event: &[u8] = if now != seen {
            b"event: changed\ndata: 1\n\n"
        } else if silent >= SILENT_LOOKS {
            b": still here\n\n"
        } else {
            silent += 1;
            continue;
        };
        (seen, silent) = (now, 0);
        if sender.send(Bytes::copy_from_slice(event)).await.is_err() {
            return;
        }
    }
}

/// Changes with whatever a page shows: records, and requests that wait.
fn standing(console: &Console) -> Digest {
    let mut parts = vec![console.gate().store.log_size().to_be_bytes().to_vec()];
    for approval in console.gate().store.approvals() {
        parts.push(approval.id.to_string().into_bytes());
        parts.push(format!("{:?}{}", approval.status, approval.yes.len()).into_bytes());
    }
    Digest::of_parts(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}
