//! Nostr Wallet Connect (NIP-47): a wallet behind a relay, by `pay_invoice` and `lookup_invoice`.
//!
//! Owns one exchange: a connection, what the wallet says of itself, a request, its answer. What a
//! relay says is believed only where the wallet signed it.
//!
//! INVARIANT: a payment that may have left is looked up, never asked for as if it were new.

use super::{
    Lookup, PayError, Purse, known,
    nostr::{Event, Pair, Seal},
};
use crate::{http::parse_url, secret::Secret, wallet::WalletError};
use countersign_core::wire::form::form_pairs;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use std::{fmt, time::Duration};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};
use tower_service::Service as _;

/// What a wallet says of itself.
const INFO: u32 = 13_194;
/// A request to a wallet.
const REQUEST: u32 = 23_194;
/// A wallet's answer.
const RESPONSE: u32 = 23_195;
/// Longest exchange.
const EXCHANGE: Duration = Duration::from_secs(90);
/// How long a relay may take to say what it has.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest message of a relay.
const MESSAGE_BYTES_MAX: usize = 256 << 10;

type Socket = WebSocketStream<TokioIo<MaybeHttpsStream<TokioIo<TcpStream>>>>;

/// A wallet behind a relay.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Nwc {
    /// Its public key.
    pub(super) wallet: [u8; 32],
    secret: Secret,
    /// As http or https, for the connection.
    relay: Uri,
    /// As it was written.
    address: String,
}

impl fmt::Debug for Nwc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", hex::encode(self.wallet), self.address)
    }
}

/// Why there is no answer.
enum NoAnswer {
    /// The request has not left, or was not taken.
    NotSent,
    /// It may have been.
    Lost,
    /// The wallet's own error.
    Said(String),
}

#[derive(Deserialize)]
struct Answer {
    error: Option<WalletFault>,
    result: Option<Value>,
}

#[derive(Deserialize)]
struct WalletFault {
    code: String,
}

/// What a relay sends.
enum Said {
    Event(Event),
    /// It has sent all that it kept.
    End,
    /// It does not take the request with this id.
    Refused(String),
    Other,
}

impl Nwc {
    /// The wallet of a connection string: `nostr+walletconnect://KEY?relay=…&secret=…`.
    pub(super) fn new(connection: &Secret) -> Result<Self, WalletError> {
        let text = connection.expose();
        let schemes = ["nostr+walletconnect://", "nostr+walletconnect:"];
        let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme));
        let (wallet, query) =
            rest.and_then(|rest| rest.split_once('?')).ok_or(WalletError::Shape)?;
        let key = |text: &str| {
            let mut bytes = [0u8; 32];
            hex::decode_to_slice(text, &mut bytes).map(|()| bytes).map_err(|_| WalletError::BadKey)
        };
        let pairs = form_pairs(query);
        let member = |name: &str| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| &**value).ok_or(WalletError::Shape)
        };
        let (wallet, address) = (key(wallet.trim_end_matches('/'))?, member("relay")?.to_owned());
        let secret = Secret::new(member("secret")?);
        Pair::new(&key(secret.expose())?, &wallet).ok_or(WalletError::BadKey)?;
        let relay = match address.split_once("://") {
            Some(("wss", rest)) => format!("https://{rest}"),
            Some(("ws", rest)) => format!("http://{rest}"),
            _ => return Err(WalletError::BadUrl),
        };
        let relay = parse_url(&relay, false).map_err(|_| WalletError::BadUrl)?;
        Ok(Self { wallet, secret, relay, address })
    }

    /// Pays, or finds that it was paid.
    pub(super) async fn pay(
        &self,
        purse: &Purse<'_>,
        invoice: &str,
        payment_hash: &[u8; 32],
    ) -> Result<[u8; 32], PayError> {
        match self.ask(purse, "pay_invoice", json!({ "invoice": invoice })).await {
            Ok(result) => {
                let preimage = result.get("preimage").and_then(Value::as_str);
                let preimage = preimage.and_then(|text| known(text, payment_hash));
                preimage.ok_or(PayError::Unknown)
            }
            Err(NoAnswer::NotSent) => Err(PayError::Refused),
            Err(NoAnswer::Said(code)) if is_plain_no(&code) => Err(PayError::Refused),
            Err(NoAnswer::Said(_) | NoAnswer::Lost) => {
                match self.lookup(purse, payment_hash).await {
                    Lookup::Paid(preimage) => Ok(preimage),
                    // It may still be on its way to the wallet.
                    Lookup::Not | Lookup::Unknown | Lookup::Silent => Err(PayError::Unknown),
                }
            }
        }
    }

    /// What became of a payment that was asked for before.
    pub(super) async fn lookup(&self, purse: &Purse<'_>, payment_hash: &[u8; 32]) -> Lookup {
        let hash = hex::encode(payment_hash);
        match self.ask(purse, "lookup_invoice", json!({ "payment_hash": hash })).await {
            Ok(found) => {
                let text = |name| found.get(name).and_then(Value::as_str);
                // Whoever has the preimage has paid, whatever they call it.
                match text("preimage").and_then(|preimage| known(preimage, payment_hash)) {
                    Some(preimage) => Lookup::Paid(preimage),
                    None if matches!(text("state"), Some("failed" | "expired")) => Lookup::Not,
                    None => Lookup::Unknown,
                }
            }
            Err(NoAnswer::Said(code)) if code == "NOT_FOUND" => Lookup::Not,
            Err(NoAnswer::Said(_) | NoAnswer::NotSent | NoAnswer::Lost) => Lookup::Unknown,
        }
    }

    async fn ask(&self, purse: &Purse<'_>, method: &str, params: Value) -> Result<Value, NoAnswer> {
        let asked = tokio::time::timeout(EXCHANGE, self.exchange(purse, method, params)).await;
        asked.unwrap_or(Err(NoAnswer::Lost))
    }

    async fn exchange(
        &self,
        purse: &Purse<'_>,
        method: &str,
        params: Value,
    ) -> Result<Value, NoAnswer> {
        let mut secret = [0u8; 32];
        hex::decode_to_slice(self.secret.expose(), &mut secret).map_err(|_| NoAnswer::NotSent)?;
        let pair = Pair::new(&secret, &self.wallet).ok_or(NoAnswer::NotSent)?;
        let opening = tokio::time::timeout(PATIENCE, self.open(purse.http.connector()));
        let mut socket = opening.await.ok().flatten().ok_or(NoAnswer::NotSent)?;
        let how = seal_of(&mut socket, &pair).await.ok_or(NoAnswer::NotSent)?;
        let request = json!({ "method": method, "params": params }).to_string();
        let content = pair.seal(&request, how, purse.world).ok_or(NoAnswer::NotSent)?;
        let now_s = purse.world.now().seconds();
        let mut tags = vec![vec!["p".to_owned(), pair.them()]];
        if how == Seal::Nip44 {
            tags.push(vec!["encryption".to_owned(), "nip44_v2".to_owned()]);
        }
        let end_s = now_s.saturating_add(EXCHANGE.as_secs());
        tags.push(vec!["expiration".to_owned(), end_s.to_string()]);
        let (id, event) = pair.event((REQUEST, now_s), &tags, &content, purse.world);
        let filter = json!({ "kinds": [RESPONSE], "authors": [pair.them()], "#e": [id] });
        send(&mut socket, format!(r#"["REQ","answer",{filter}]"#))
            .await
            .ok_or(NoAnswer::NotSent)?;
        send(&mut socket, format!(r#"["EVENT",{event}]"#)).await.ok_or(NoAnswer::Lost)?;
        loop {
            match hear(&mut socket).await.ok_or(NoAnswer::Lost)? {
                Said::Event(event) if is_answer(&event, &id, &pair) => {
                    let text = pair.open(&event.content).ok_or(NoAnswer::Lost)?;
                    return answer_of(&text);
                }
                Said::Refused(refused) if refused == id => return Err(NoAnswer::NotSent),
                Said::Event(_) | Said::End | Said::Refused(_) | Said::Other => {}
            }
        }
    }

    async fn open(&self, mut connector: HttpsConnector<HttpConnector>) -> Option<Socket> {
        std::future::poll_fn(|context| connector.poll_ready(context)).await.ok()?;
        let stream = connector.call(self.relay.clone()).await.ok()?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let opened = client_async_with_config(&self.address, TokioIo::new(stream), Some(config));
        opened.await.ok().map(|(socket, _)| socket)
    }
}

/// How the wallet wants texts sealed: as it says of itself; the older way where it says nothing.
async fn seal_of(socket: &mut Socket, pair: &Pair) -> Option<Seal> {
    let filter = json!({ "kinds": [INFO], "authors": [pair.them()], "limit": 1 });
    send(socket, format!(r#"["REQ","info",{filter}]"#)).await?;
    let mut how = Seal::Nip04;
    let read = async {
        loop {
            match hear(socket).await? {
                Said::Event(event) if event.kind == INFO && pair.is_theirs(&event) => {
                    let tag = |tag: &&Vec<String>| tag.first().is_some_and(|t| t == "encryption");
                    let ways = event.tags.iter().find(tag).and_then(|tag| tag.get(1));
                    if ways.is_some_and(|ways| ways.split(' ').any(|way| way == "nip44_v2")) {
                        how = Seal::Nip44;
                    }
                }
                Said::End => return Some(()),
                Said::Event(_) | Said::Refused(_) | Said::Other => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.ok()??;
    Some(how)
}

fn is_answer(event: &Event, request: &str, pair: &Pair) -> bool {
    let names = |tag: &Vec<String>| {
        tag.first().is_some_and(|name| name == "e") && tag.get(1).is_some_and(|id| id == request)
    };
    event.kind == RESPONSE && event.tags.iter().any(names) && pair.is_theirs(event)
}

fn answer_of(text: &str) -> Result<Value, NoAnswer> {
    let answer: Answer = serde_json::from_str(text).map_err(|_| NoAnswer::Lost)?;
    match (answer.error, answer.result) {
        (Some(error), _) => Err(NoAnswer::Said(error.code)),
        (None, Some(result)) => Ok(result),
        (None, None) => Err(NoAnswer::Lost),
    }
}

/// Errors after which the wallet has not paid, and will not.
fn is_plain_no(code: &str) -> bool {
    [
        "RATE_LIMITED",
        "NOT_IMPLEMENTED",
        "INSUFFICIENT_BALANCE",
        "QUOTA_EXCEEDED",
        "RESTRICTED",
        "UNAUTHORIZED",
        "PAYMENT_FAILED",
        "UNSUPPORTED_ENCRYPTION",
    ]
    .contains(&code)
}

async fn send(socket: &mut Socket, text: String) -> Option<()> {
    socket.send(Message::text(text)).await.ok()
}

async fn hear(socket: &mut Socket) -> Option<Said> {
    let Message::Text(text) = socket.next().await?.ok()? else { return Some(Said::Other) };
    let parts: Vec<&RawValue> = serde_json::from_str(text.as_str()).ok()?;
    let part = |at: usize| parts.get(at).map(|raw| raw.get());
    let text = |at: usize| part(at).and_then(|raw| serde_json::from_str::<String>(raw).ok());
    Some(match (text(0).as_deref(), parts.len()) {
        (Some("EVENT"), 3) => match part(2).map(serde_json::from_str) {
            Some(Ok(event)) => Said::Event(event),
            _ => Said::Other,
        },
        (Some("EOSE"), _) => Said::End,
        (Some("OK"), 3..) if part(2) == Some("false") => text(1).map_or(Said::Other, Said::Refused),
        _ => Said::Other,
    })
}

/// Against a double of a relay and of the wallet behind it, made from NIP-01 and NIP-47. No real
/// wallet is behind it.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Http;
    use countersign_core::{time::UnixMs, world::World};
    use sha2::{Digest as _, Sha256};
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    };
    use tokio::net::TcpListener;
    use tokio_tungstenite::accept_async;

    const US: [u8; 32] = [21; 32];
    const WALLET: [u8; 32] = [22; 32];
    const PREIMAGE: [u8; 32] = [7; 32];

    /// What the wallet says to a method and its params; silence for `None`.
    type Behave = Arc<dyn Fn(&str, &Value) -> Option<Value> + Send + Sync>;

    fn world() -> World {
        let drawn = AtomicU8::new(1);
        let fill = move |bytes: &mut [u8]| bytes.fill(drawn.fetch_add(1, Ordering::Relaxed));
        World::new(|| UnixMs(1_800_000_000_000), fill)
    }

    fn public(secret: &[u8; 32]) -> [u8; 32] {
        let curve = secp256k1::Secp256k1::new();
        let keys = secp256k1::Keypair::from_seckey_slice(&curve, secret).unwrap();
        keys.x_only_public_key().0.serialize()
    }

    fn hash() -> [u8; 32] {
        Sha256::digest(PREIMAGE).into()
    }

    /// The wallet's side of one message of ours.
    fn answers(message: &Value, ways: Option<&str>, behave: &Behave) -> Vec<String> {
        let (pair, world) = (Pair::new(&WALLET, &public(&US)).unwrap(), world());
        let subscription = message[1].clone();
        if message[0] == "REQ" && message[2]["kinds"] == json!([INFO]) {
            let tags: Vec<Vec<String>> =
                ways.iter().map(|ways| vec!["encryption".into(), (*ways).into()]).collect();
            let (_, info) = pair.event((INFO, 1), &tags, "pay_invoice lookup_invoice", &world);
            return vec![
                format!(r#"["EVENT",{subscription},{info}]"#),
                format!(r#"["EOSE",{subscription}]"#),
            ];
        }
        if message[0] != "EVENT" {
            return vec![format!(r#"["EOSE",{subscription}]"#)];
        }
        let event: Event = serde_json::from_value(message[1].clone()).unwrap();
        assert!(event.kind == REQUEST && pair.is_theirs(&event));
        let is_44 = !event.content.contains("?iv=");
        assert_eq!(is_44, ways.is_some_and(|ways| ways.contains("nip44_v2")));
        let request: Value = serde_json::from_str(&pair.open(&event.content).unwrap()).unwrap();
        let said = behave(request["method"].as_str().unwrap(), &request["params"]);
        let Some(said) = said else { return Vec::new() };
        let how = if is_44 { Seal::Nip44 } else { Seal::Nip04 };
        let sealed = pair.seal(&said.to_string(), how, &world).unwrap();
        let tags = [vec!["e".to_owned(), event.id.clone()]];
        let (_, real) = pair.event((RESPONSE, 2), &tags, &sealed, &world);
        // Somebody else answers first, with a preimage of their own.
        let other = Pair::new(&[23; 32], &public(&US)).unwrap();
        let lie = other.seal(r#"{"result":{"preimage":"00"}}"#, how, &world).unwrap();
        let (_, forged) = other.event((RESPONSE, 2), &tags, &lie, &world);
        let forged = forged.replace(&hex::encode(public(&[23; 32])), &hex::encode(public(&WALLET)));
        vec![
            format!(r#"["OK","{}",true,""]"#, event.id),
            format!(r#"["EVENT","answer",{forged}]"#),
            format!(r#"["EVENT","answer",{real}]"#),
        ]
    }

    /// A relay with the wallet behind it; what was asked of it.
    async fn relay(ways: Option<&'static str>, behave: Behave) -> (Nwc, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let record = Arc::clone(&asked);
        let behave: Behave = Arc::new(move |method, params| {
            record.lock().unwrap().push(method.to_owned());
            behave(method, params)
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut socket = accept_async(stream).await.unwrap();
                while let Some(Ok(Message::Text(text))) = socket.next().await {
                    let message = serde_json::from_str(&text).unwrap();
                    let said = answers(&message, ways, &behave);
                    if said.is_empty() {
                        break;
                    }
                    for text in said {
                        socket.send(Message::text(text)).await.unwrap();
                    }
                }
            }
        });
        let wallet = hex::encode(public(&WALLET));
        let text = format!(
            "nostr+walletconnect://{wallet}?relay=ws%3A%2F%2F{address}&secret={}",
            hex::encode(US)
        );
        (Nwc::new(&Secret::new(text)).unwrap(), asked)
    }

    async fn pay(nwc: &Nwc) -> Result<[u8; 32], PayError> {
        let (http, world) = (Http::new(1_000, 5_000, 1 << 20), world());
        nwc.pay(&Purse { http: &http, world: &world }, "lnbc1", &hash()).await
    }

    fn code(code: &str) -> Option<Value> {
        Some(json!({ "error": { "code": code, "message": "m" } }))
    }

    #[tokio::test]
    async fn it_pays_under_either_seal_and_believes_the_wallet_alone() {
        for ways in [Some("nip44_v2 nip04"), Some("nip04"), None] {
            let behave: Behave = Arc::new(|method, params| {
                assert_eq!((method, &params["invoice"]), ("pay_invoice", &json!("lnbc1")));
                Some(json!({"result_type": method, "result": {"preimage": hex::encode(PREIMAGE)}}))
            });
            let (nwc, asked) = relay(ways, behave).await;
            assert_eq!(pay(&nwc).await, Ok(PREIMAGE), "{ways:?}");
            assert_eq!(*asked.lock().unwrap(), ["pay_invoice"]);
        }
    }

    #[tokio::test]
    async fn a_plain_no_is_a_no_and_anything_else_is_looked_up() {
        for no in ["INSUFFICIENT_BALANCE", "QUOTA_EXCEEDED", "PAYMENT_FAILED", "RESTRICTED"] {
            let (nwc, asked) = relay(None, Arc::new(|_, _| code(no))).await;
            assert_eq!(pay(&nwc).await, Err(PayError::Refused), "{no}");
            assert_eq!(asked.lock().unwrap().len(), 1);
        }
        let found = json!({"result": {"state": "settled", "preimage": hex::encode(PREIMAGE)}});
        for (lookup, expected) in [
            (Some(found), Ok(PREIMAGE)),
            (Some(json!({"result": {"state": "pending"}})), Err(PayError::Unknown)),
            (code("NOT_FOUND"), Err(PayError::Unknown)),
            (code("NOT_IMPLEMENTED"), Err(PayError::Unknown)),
        ] {
            let behave: Behave = Arc::new(move |method, params| match method {
                // The connection ends: the wallet may have it.
                "pay_invoice" => None,
                _ => {
                    assert_eq!(params["payment_hash"], hex::encode(hash()));
                    lookup.clone()
                }
            });
            let (nwc, asked) = relay(Some("nip44_v2"), behave).await;
            assert_eq!(pay(&nwc).await, expected);
            assert_eq!(*asked.lock().unwrap(), ["pay_invoice", "lookup_invoice"]);
        }
    }

    #[tokio::test]
    async fn a_relay_that_is_not_there_was_asked_for_nothing() {
        let (mut nwc, _) = relay(None, Arc::new(|_, _| None)).await;
        nwc.relay = "http://127.0.0.1:1/".parse().unwrap();
        assert_eq!(pay(&nwc).await, Err(PayError::Refused));
    }

    #[test]
    fn a_connection_string_is_checked_and_shows_no_secret() {
        let key = hex::encode(public(&WALLET));
        let secret = hex::encode(US);
        let good = format!("nostr+walletconnect://{key}?relay=wss://r.example/v1&secret={secret}");
        let shown = format!("{:?}", Nwc::new(&Secret::new(&*good)).unwrap());
        assert!(shown.contains("wss://r.example/v1") && !shown.contains(&secret), "{shown}");
        for bad in [
            good.replace("wss://", "ws://"),
            good.replace("wss://", "https://"),
            good.replace(&secret, "00"),
            good.replace(&key, &"f".repeat(64)),
            good.replace("&secret", "&other"),
            good.replace("nostr+walletconnect", "nostr"),
        ] {
            assert!(Nwc::new(&Secret::new(&*bad)).is_err(), "{bad}");
        }
    }
}
