//! An issuer that misbehaves on request, keys to sign anything with, and a clock to turn.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
        ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
    },
};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::LOCATION},
    response::{IntoResponse as _, Response},
    routing::get,
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use countersign_core::{refusal::Code, time::UnixMs, world::World};
use countersign_gateway::{
    fetch::FetchRules,
    prove::identity::{IssuerConfig, Verifier},
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Loopback, for tests of their own.
pub(crate) const LOOPBACK: FetchRules = FetchRules { allow_private: true, ..FetchRules::PUBLIC };

/// What the issuer answers when asked for its keys.
#[derive(Clone)]
pub(crate) enum Answer {
    Keys,
    Slow(u64),
    Body(Vec<u8>),
    Redirect(&'static str),
    Status(u16),
}

struct Behaviour {
    discovery: Mutex<Value>,
    keys: Mutex<Vec<Value>>,
    answer: Mutex<Answer>,
    fetches: AtomicUsize,
}

/// One issuer on loopback and a verifier that trusts it.
pub(crate) struct Lab {
    pub(crate) verifier: Verifier,
    issuer: String,
    keys: Vec<Key>,
    behaviour: Arc<Behaviour>,
    now_ms: Arc<AtomicU64>,
}

/// A good token and its parts.
pub(crate) struct Minted {
    pub(crate) good: String,
    pub(crate) header: String,
    pub(crate) payload: String,
    pub(crate) signature: String,
}

impl Minted {
    /// The token with one bit of its signature turned.
    pub(crate) fn with_flipped_bit(&self) -> String {
        let mut signature = URL_SAFE_NO_PAD.decode(&self.signature).unwrap();
        signature[40] ^= 1;
        format!("{}.{}.{}", self.header, self.payload, URL_SAFE_NO_PAD.encode(signature))
    }
}

impl Lab {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let keys = vec![
            Key::ec("ec"),
            Key::ec384("ec384"),
            Key::rsa("rsa", "RS256"),
            Key::rsa("pss", "PS256"),
            Key::ed("ed"),
        ];
        let mut published: Vec<Value> = keys.iter().map(Key::jwk).collect();
        published.extend([Key::ec("twin").jwk(), Key::ec("twin").jwk()]);
        let behaviour = Arc::new(Behaviour {
            discovery: Mutex::new(json!({"issuer": issuer, "jwks_uri": format!("{issuer}/jwks")})),
            keys: Mutex::new(published),
            answer: Mutex::new(Answer::Keys),
            fetches: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/jwks", get(jwks))
            .with_state(Arc::clone(&behaviour));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let now_ms = Arc::new(AtomicU64::new(1_797_000_000_000));
        let verifier = Verifier::new(vec![config_of(&issuer)], world_of(&now_ms)).unwrap();
        Self { verifier, issuer, keys, behaviour, now_ms }
    }

    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(crate) fn config(&self) -> IssuerConfig {
        config_of(&self.issuer)
    }

    pub(crate) fn world(&self) -> World {
        world_of(&self.now_ms)
    }

    pub(crate) fn now(&self) -> UnixMs {
        UnixMs(self.now_ms.load(Ordering::SeqCst))
    }

    pub(crate) fn now_s(&self) -> u64 {
        self.now().seconds()
    }

    pub(crate) fn advance_s(&self, seconds: u64) {
        self.now_ms.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    pub(crate) fn key(&self, id: &str) -> &Key {
        self.keys.iter().find(|key| key.id == id).unwrap()
    }

    pub(crate) fn header(&self) -> Value {
        self.header_of("ec", "ES256")
    }

    pub(crate) fn header_of(&self, kid: &str, alg: &str) -> Value {
        json!({"alg": alg, "kid": kid, "typ": "at+jwt"})
    }

    pub(crate) fn claims(&self) -> Value {
        claims(&self.issuer, self.now_s())
    }

    pub(crate) fn minted(&self) -> Minted {
        let good = self.key("ec").sign(&self.header(), &self.claims());
        let parts: Vec<String> = good.split('.').map(str::to_owned).collect();
        let [header, payload, signature] = parts.try_into().unwrap();
        Minted { good, header, payload, signature }
    }

    /// Each token is refused with its code, twice over, and is not in the refusal's texts.
    pub(crate) async fn refuses_all(&self, tokens: Vec<(&'static str, String, Code)>) {
        for (name, token, expected) in tokens {
            for _ in 0..2 {
                let Err(refusal) = self.verifier.verify(&token, super::AUDIENCE).await else {
                    panic!("{name} is accepted");
                };
                assert_eq!(refusal.code(), expected, "{name}");
                let problem = serde_json::to_string(&refusal.problem()).unwrap();
                for part in token.split('.').filter(|part| part.len() > 8) {
                    assert!(!refusal.to_string().contains(part), "{name} in its refusal");
                    assert!(!problem.contains(part), "{name} in its refusal");
                }
            }
        }
    }

    pub(crate) fn publish(&self, keys: Vec<Value>) {
        *self.behaviour.keys.lock().unwrap() = keys;
    }

    pub(crate) fn answer_keys(&self, answer: Answer) {
        *self.behaviour.answer.lock().unwrap() = answer;
    }

    pub(crate) fn answer_discovery(&self, document: Value) {
        *self.behaviour.discovery.lock().unwrap() = document;
    }

    /// How often the keys were asked for.
    pub(crate) fn fetches(&self) -> usize {
        self.behaviour.fetches.load(Ordering::SeqCst)
    }
}

/// The claims of a good token for ten minutes.
fn claims(issuer: &str, now_s: u64) -> Value {
    json!({
        "iss": issuer, "sub": "alice", "aud": super::AUDIENCE, "client_id": "agent-1",
        "iat": now_s, "exp": now_s + 600, "jti": "j1", "scope": "mcp:tools mcp:call",
    })
}

fn config_of(issuer: &str) -> IssuerConfig {
    IssuerConfig { allow_private_network: true, ..IssuerConfig::new(issuer) }
}

fn world_of(now_ms: &Arc<AtomicU64>) -> World {
    let now_ms = Arc::clone(now_ms);
    World::new(
        move || UnixMs(now_ms.load(Ordering::SeqCst)),
        |bytes| aws_lc_rs::rand::fill(bytes).unwrap(),
    )
}

async fn discovery(State(behaviour): State<Arc<Behaviour>>) -> Json<Value> {
    Json(behaviour.discovery.lock().unwrap().clone())
}

async fn jwks(State(behaviour): State<Arc<Behaviour>>) -> Response {
    behaviour.fetches.fetch_add(1, Ordering::SeqCst);
    let keys = Json(json!({ "keys": *behaviour.keys.lock().unwrap() })).into_response();
    let answer = behaviour.answer.lock().unwrap().clone();
    match answer {
        Answer::Keys => keys,
        Answer::Slow(ms) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            keys
        }
        Answer::Body(body) => body.into_response(),
        Answer::Redirect(to) => (StatusCode::FOUND, [(LOCATION, to)]).into_response(),
        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
    }
}

/// A key and its id.
pub(crate) struct Key {
    id: &'static str,
    pair: Pair,
}

enum Pair {
    Ec(&'static str, EcdsaKeyPair),
    Rsa(&'static str, &'static RsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Key {
    pub(crate) fn ec(id: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { id, pair: Pair::Ec("P-256", pair) }
    }

    fn ec384(id: &'static str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        Self { id, pair: Pair::Ec("P-384", pair) }
    }

    fn rsa(id: &'static str, alg: &'static str) -> Self {
        // Slow to make: one for all issuers.
        static PAIR: LazyLock<RsaKeyPair> =
            LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
        Self { id, pair: Pair::Rsa(alg, &PAIR) }
    }

    fn ed(id: &'static str) -> Self {
        Self { id, pair: Pair::Ed(Ed25519KeyPair::generate().unwrap()) }
    }

    /// The public key.
    pub(crate) fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Ec(curve, pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
                json!({"kty": "EC", "crv": curve, "kid": self.id, "x": x, "y": y})
            }
            Pair::Rsa(alg, pair) => {
                let public = pair.public_key();
                let n = URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero());
                let e = URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero());
                json!({"kty": "RSA", "kid": self.id, "n": n, "e": e, "alg": alg, "use": "sig"})
            }
            Pair::Ed(pair) => {
                let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "x": x})
            }
        }
    }

    /// Signs a token, whatever its header says.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    /// Signs texts that need not be JSON.
    pub(crate) fn sign_text(&self, header: &str, claims: &str) -> String {
        let input = format!("{}.{}", encode(header), encode(claims));
        let (random, message) = (SystemRandom::new(), input.as_bytes());
        let signature = match &self.pair {
            Pair::Ec(_, pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(alg, pair) => {
                let padding = if *alg == "PS256" { &RSA_PSS_SHA256 } else { &RSA_PKCS1_SHA256 };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
        };
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Signs in the encoding that JOSE does not use.
    pub(crate) fn sign_der(&self, header: &Value, claims: &Value) -> String {
        let Pair::Ec(_, pair) = &self.pair else { panic!("an EC key") };
        let private = pair.to_pkcs8v1().unwrap();
        let der = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pair = EcdsaKeyPair::from_pkcs8(der, private.as_ref()).unwrap();
        let input = format!("{}.{}", encode(&header.to_string()), encode(&claims.to_string()));
        let signature = pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// Signs with the public key as a shared secret: the oldest confusion.
    pub(crate) fn hmac(&self, header: &Value, claims: &Value) -> String {
        let Pair::Rsa(_, pair) = &self.pair else { panic!("an RSA key") };
        let key = hmac::Key::new(hmac::HMAC_SHA256, pair.public_key().as_ref());
        let input = format!("{}.{}", encode(&header.to_string()), encode(&claims.to_string()));
        let tag = hmac::sign(&key, input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
    }
}

/// An object with one member replaced; `Value::Null` removes it.
pub(crate) fn with(mut object: Value, name: &str, value: Value) -> Value {
    let members = object.as_object_mut().unwrap();
    members.remove(name);
    if !value.is_null() {
        members.insert(name.into(), value);
    }
    object
}

/// base64url of a text.
pub(crate) fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// base64 of a text.
pub(crate) fn encode_standard(text: &str) -> String {
    STANDARD.encode(text)
}

/// A token with a given signature part.
pub(crate) fn jwt_of(header: &Value, claims: &Value, signature: &str) -> String {
    format!("{}.{}.{signature}", encode(&header.to_string()), encode(&claims.to_string()))
}

/// The other valid signature under the same key: s becomes n − s.
pub(crate) fn negate_s(signature: &str) -> String {
    let order =
        hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0;
    for (digit, of_order) in bytes[32..].iter_mut().zip(&order).rev() {
        let difference = i16::from(*of_order) - i16::from(*digit) - borrow;
        borrow = i16::from(difference < 0);
        *digit = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    URL_SAFE_NO_PAD.encode(bytes)
}
