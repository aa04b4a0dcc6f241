//! Access tokens and issuers as attackers use them: every hostile token is refused with its code,
//! and an issuer that misbehaves gets nothing through.

#[cfg(test)]
mod issuer_lab;

use countersign_core::{
    proof::{Identity, TenantRule, VerifiedToken},
    refusal::Code,
    terms::{ConsentRule, DoubtRule, Flow, IdentityRule, PayerRule, Terms, ToolRef, Uses},
};
use countersign_gateway::{
    prove::identity::{Discovery, IssuerConfig, KeysProblem, Verifier},
    sandbox::{
        SandboxError,
        issuer::{self as sandbox, SandboxClient, SandboxToken},
    },
};
use issuer_lab::{Answer, Key, Lab, Minted, encode, jwt_of, with};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

const AUDIENCE: &str = "https://gw.example/weather/mcp";

async fn code(lab: &Lab, token: &str) -> Result<Arc<VerifiedToken>, Code> {
    lab.verifier.verify(token, AUDIENCE).await.map_err(|refusal| refusal.code())
}

#[tokio::test]
async fn every_algorithm_of_the_list_is_accepted() {
    let lab = Lab::start().await;
    for (kid, alg) in [
        ("ec", "ES256"),
        ("ec384", "ES384"),
        ("rsa", "RS256"),
        ("pss", "PS256"),
        ("ed", "EdDSA"),
        ("ed", "Ed25519"),
    ] {
        let token = lab.key(kid).sign(&lab.header_of(kid, alg), &lab.claims());
        let token = code(&lab, &token).await.unwrap();
        assert_eq!(&**token.client(), "agent-1", "{alg}");
    }
}

#[tokio::test]
async fn hostile_headers() {
    let lab = Lab::start().await;
    let named = |name: &str, value: Value| {
        lab.key("ec").sign(&with(lab.header(), name, value), &lab.claims())
    };
    let twice = lab.header().to_string().replacen('{', r#"{"kid":"rsa","#, 1);
    let twice = lab.key("ec").sign_text(&twice, &lab.claims().to_string());
    lab.refuses_all(vec![
        ("unknown crit", named("crit", json!(["exp"])), Code::TokenHeader),
        ("b64 false", named("b64", json!(false)), Code::TokenHeader),
        ("embedded jwk", named("jwk", Key::ec("ec").jwk()), Code::TokenHeader),
        ("jku", named("jku", json!("https://evil.example/jwks")), Code::TokenHeader),
        ("x5u", named("x5u", json!("https://evil.example/x5")), Code::TokenHeader),
        ("x5c", named("x5c", json!(["AAAA"])), Code::TokenHeader),
        ("kid unknown", named("kid", json!("nope")), Code::TokenSignature),
        ("kid traversal", named("kid", json!("../../etc/passwd")), Code::TokenSignature),
        ("kid of another family", named("kid", json!("rsa")), Code::TokenSignature),
        ("kid of two keys", named("kid", json!("twin")), Code::TokenSignature),
        ("kid missing, two keys fit", named("kid", Value::Null), Code::TokenSignature),
        ("typ of an ID token", named("typ", json!("JWT")), Code::TokenType),
        ("typ of a DPoP proof", named("typ", json!("dpop+jwt")), Code::TokenType),
        ("typ of an ID-JAG", named("typ", json!("oauth-id-jag+jwt")), Code::TokenType),
        ("typ of a logout token", named("typ", json!("logout+jwt")), Code::TokenType),
        ("typ missing", named("typ", Value::Null), Code::TokenType),
        ("duplicate header member", twice, Code::TokenMalformed),
    ])
    .await;
}

#[tokio::test]
async fn hostile_signatures() {
    let lab = Lab::start().await;
    let (header, claims) = (lab.header(), lab.claims());
    let minted = lab.minted();
    let algorithm = |alg: &str| with(lab.header(), "alg", json!(alg));
    let unsigned = |alg: &str| jwt_of(&algorithm(alg), &claims, "");
    let hs256 = json!({"alg": "HS256", "kid": "rsa", "typ": "at+jwt"});
    let swapped = with(lab.claims(), "sub", json!("mallory"));
    let bad = Code::TokenSignature;
    lab.refuses_all(vec![
        ("alg none", unsigned("none"), bad),
        ("alg nOnE", unsigned("nOnE"), bad),
        ("alg none, signed", lab.key("ec").sign(&algorithm("none"), &claims), bad),
        ("HS256 with the RSA public key", lab.key("rsa").hmac(&hs256, &claims), bad),
        (
            "RS256 under a PSS key",
            lab.key("pss").sign(&lab.header_of("pss", "RS256"), &claims),
            bad,
        ),
        ("bit flip", minted.with_flipped_bit(), bad),
        ("payload swap", jwt_of(&header, &swapped, &minted.signature), bad),
        ("header swap", jwt_of(&algorithm("ES384"), &claims, &minted.signature), bad),
        ("zero signature", jwt_of(&header, &claims, &encode(&"\0".repeat(64))), bad),
        ("no signature", jwt_of(&header, &claims, ""), bad),
        ("DER signature", lab.key("ec").sign_der(&header, &claims), bad),
        ("foreign key under our kid", Key::ec("ec").sign(&header, &claims), bad),
    ])
    .await;
}

#[tokio::test]
async fn hostile_forms() {
    let lab = Lab::start().await;
    let Minted { good, header, payload, signature } = lab.minted();
    let json = json!({"payload": payload, "protected": header, "signature": signature});
    let large = with(lab.claims(), "x", json!("y".repeat(200_000)));
    lab.refuses_all(vec![
        ("four parts", format!("{good}.AAAA"), Code::TokenMalformed),
        ("JWE", format!("{good}.AAAA.AAAA"), Code::TokenMalformed),
        ("two parts", format!("{header}.{payload}"), Code::TokenMalformed),
        ("padding", format!("{header}=.{payload}.{signature}"), Code::TokenMalformed),
        ("JSON form", json.to_string(), Code::TokenMalformed),
        ("opaque", "0a1b2c3d4e5f".to_owned(), Code::TokenMalformed),
        ("200 kB", lab.key("ec").sign(&lab.header(), &large), Code::TokenTooLarge),
    ])
    .await;
}

#[tokio::test]
async fn hostile_claims() {
    let lab = Lab::start().await;
    let now_s = lab.now_s();
    let claim = |name: &str, value: Value| {
        lab.key("ec").sign(&lab.header(), &with(lab.claims(), name, value))
    };
    let text = |from: &str, to: &str| {
        lab.key("ec")
            .sign_text(&lab.header().to_string(), &lab.claims().to_string().replace(from, to))
    };
    let exp = format!(r#""exp":{}"#, now_s + 600);
    lab.refuses_all(vec![
        ("aud missing", claim("aud", Value::Null), Code::TokenClaim),
        ("aud number", claim("aud", json!(7)), Code::TokenClaim),
        ("aud empty", claim("aud", json!("")), Code::TokenAudience),
        ("aud empty array", claim("aud", json!([])), Code::TokenAudience),
        ("aud prefix", claim("aud", json!("https://gw.example/weather")), Code::TokenAudience),
        ("aud slash", claim("aud", json!(format!("{AUDIENCE}/"))), Code::TokenAudience),
        (
            "aud of another upstream",
            claim("aud", json!("https://gw.example/maps/mcp")),
            Code::TokenAudience,
        ),
        ("iss missing", claim("iss", Value::Null), Code::TokenClaim),
        ("iss number", claim("iss", json!(7)), Code::TokenClaim),
        ("iss array", claim("iss", json!([lab.issuer()])), Code::TokenClaim),
        ("iss other", claim("iss", json!("https://evil.example")), Code::TokenIssuer),
        ("iss slash", claim("iss", json!(format!("{}/", lab.issuer()))), Code::TokenIssuer),
        ("exp missing", claim("exp", Value::Null), Code::TokenClaim),
        ("exp string", claim("exp", json!((now_s + 600).to_string())), Code::TokenClaim),
        ("exp null", text(&exp, r#""exp":null"#), Code::TokenClaim),
        ("exp float", text(&exp, r#""exp":9999999999.5"#), Code::TokenClaim),
        ("exp huge float", text(&exp, r#""exp":1e300"#), Code::TokenClaim),
        ("exp past", claim("exp", json!(now_s - 30)), Code::TokenExpired),
        ("exp now", claim("exp", json!(now_s)), Code::TokenExpired),
        ("nbf ahead", claim("nbf", json!(now_s + 60)), Code::TokenExpired),
        ("iat ahead", claim("iat", json!(now_s + 60)), Code::TokenExpired),
        ("no sub", claim("sub", Value::Null), Code::TokenClaim),
        ("no client_id", claim("client_id", Value::Null), Code::TokenClaim),
        ("duplicate sub", text(r#""sub":"#, r#""sub":"mallory","sub":"#), Code::TokenMalformed),
        (
            "duplicate aud",
            text(r#""aud":"#, r#""aud":"https://evil","aud":"#),
            Code::TokenMalformed,
        ),
        ("act of six", claim("act", act(6)), Code::ChainTooDeep),
        ("act of two hundred", claim("act", act(200)), Code::TokenMalformed),
        ("act without sub", claim("act", json!({})), Code::TokenClaim),
        ("cnf", claim("cnf", json!({"jkt": "x"})), Code::SenderConstrained),
        ("logout token", claim("events", json!({"logout": {}})), Code::TokenType),
        ("ID token of Keycloak", claim("typ", json!("ID")), Code::TokenType),
    ])
    .await;
    for (name, value) in [
        ("aud", json!(["https://other.example", AUDIENCE])),
        ("act", act(5)),
        ("nbf", json!(now_s + 5)),
        ("iat", json!(now_s + 5)),
    ] {
        code(&lab, &claim(name, value)).await.unwrap();
    }
}

fn act(depth: usize) -> Value {
    (0..depth).fold(Value::Null, |inner, _| with(json!({"sub": "agent"}), "act", inner))
}

fn terms(identity: IdentityRule) -> Terms {
    Terms {
        tool: ToolRef { server: "weather".into(), tool: "get_forecast".into() },
        resource: AUDIENCE.into(),
        identity,
        scopes: vec!["mcp:call".into()],
        consent: ConsentRule::NotRequired,
        prices: Vec::new(),
        flow: Flow::Upfront,
        idempotent: false,
        doubt: DoubtRule::Refund,
        uses: Uses(1),
        intent: None,
        sensitivity: 0,
        is_reversible: false,
        open_world: None,
        deadline_ms: 1000,
        payer: PayerRule::Any,
        keep_output_schema: false,
        top_up: false,
    }
}

#[tokio::test]
async fn a_machines_token_is_no_persons() {
    let lab = Lab::start().await;
    let machine = with(lab.claims(), "sub", json!("agent-1"));
    let machine = code(&lab, &lab.key("ec").sign(&lab.header(), &machine)).await.unwrap();
    let person = code(&lab, &lab.minted().good).await.unwrap();
    let identify = |token: &VerifiedToken, rule| {
        Identity::of_token(token, &terms(rule), lab.now()).map(|_| ()).map_err(|r| r.code())
    };
    assert_eq!(identify(&machine, IdentityRule::Human), Err(Code::HumanRequired));
    assert_eq!(identify(&machine, IdentityRule::Required), Ok(()));
    assert_eq!(identify(&person, IdentityRule::Human), Ok(()));
}

#[tokio::test]
async fn a_missing_scope_names_all_scopes() {
    let lab = Lab::start().await;
    let claims = with(lab.claims(), "scope", json!("mcp:tools"));
    let token = code(&lab, &lab.key("ec").sign(&lab.header(), &claims)).await.unwrap();
    let wanted = Terms {
        scopes: vec!["mcp:call".into(), "pay:spend".into()],
        ..terms(IdentityRule::Required)
    };
    let refusal = Identity::of_token(&token, &wanted, lab.now()).unwrap_err();
    assert_eq!(refusal.code(), Code::ScopeMissing);
    assert_eq!(refusal.facts()[0].value, "mcp:call pay:spend");
}

#[tokio::test]
async fn the_other_form_of_an_ecdsa_signature_is_the_same_token() {
    let lab = Lab::start().await;
    let Minted { good, header, payload, signature } = lab.minted();
    let negated = format!("{header}.{payload}.{}", issuer_lab::negate_s(&signature));
    assert_ne!(good, negated);
    let (one, other) = (code(&lab, &good).await.unwrap(), code(&lab, &negated).await.unwrap());
    assert_eq!(one.reference(), other.reference());
}

#[tokio::test]
async fn a_cached_token_ends_with_its_time_and_serves_one_resource() {
    let lab = Lab::start().await;
    let Minted { good, .. } = lab.minted();
    let first = code(&lab, &good).await.unwrap();
    assert!(Arc::ptr_eq(&first, &code(&lab, &good).await.unwrap()), "not cached");
    let elsewhere = lab.verifier.verify(&good, "https://gw.example/maps/mcp").await.unwrap_err();
    assert_eq!(elsewhere.code(), Code::TokenAudience);
    lab.advance_s(61);
    assert!(!Arc::ptr_eq(&first, &code(&lab, &good).await.unwrap()), "cached for too long");
    let brief = with(lab.claims(), "exp", json!(lab.now_s() + 30));
    let brief = lab.key("ec").sign(&lab.header(), &brief);
    code(&lab, &brief).await.unwrap();
    lab.advance_s(30);
    assert_eq!(code(&lab, &brief).await.unwrap_err(), Code::TokenExpired, "cached past `exp`");
}

#[tokio::test]
async fn rotation_in_mid_run() {
    let lab = Lab::start().await;
    let old = lab.minted().good;
    let cached = code(&lab, &old).await.unwrap();
    // Both keys are published: the new one is found by its unknown kid.
    let fresh = Key::ec("fresh");
    lab.publish(vec![lab.key("ec").jwk(), fresh.jwk()]);
    lab.advance_s(61);
    let header = with(lab.header(), "kid", json!("fresh"));
    let new = fresh.sign(&header, &lab.claims());
    code(&lab, &new).await.unwrap();
    assert!(!Arc::ptr_eq(&cached, &code(&lab, &old).await.unwrap()), "of an older generation");
    // The old key is removed: its cached tokens die as soon as anything shows the new keys.
    lab.publish(vec![fresh.jwk()]);
    lab.advance_s(1);
    let other = with(lab.claims(), "jti", json!("j2"));
    let other = lab.key("ec").sign(&lab.header(), &other);
    code(&lab, &other).await.unwrap();
    lab.advance_s(59);
    code(&lab, &other).await.unwrap();
    let unknown = with(lab.header(), "kid", json!("unknown"));
    let stranger = Key::ec("unknown").sign(&unknown, &lab.claims());
    assert_eq!(code(&lab, &stranger).await.unwrap_err(), Code::TokenSignature);
    assert_eq!(code(&lab, &other).await.unwrap_err(), Code::TokenSignature);
    code(&lab, &new).await.unwrap();
}

#[tokio::test]
async fn a_removed_key_dies_without_anybody_asking_for_another() {
    let lab = Lab::start().await;
    let long = with(lab.claims(), "exp", json!(lab.now_s() + 3600));
    let token = lab.key("ec").sign(&lab.header(), &long);
    code(&lab, &token).await.unwrap();
    lab.publish(Vec::new());
    lab.advance_s(299);
    code(&lab, &token).await.unwrap();
    lab.advance_s(60);
    assert_eq!(code(&lab, &token).await.unwrap_err(), Code::TokenSignature);
}

#[tokio::test]
async fn ten_thousand_random_kids_cause_one_fetch_a_minute() {
    let lab = Lab::start().await;
    code(&lab, &lab.minted().good).await.unwrap();
    assert_eq!(lab.fetches(), 1);
    for minute in 1..=2 {
        lab.advance_s(60);
        for n in 0..5_000 {
            let header = with(lab.header(), "kid", json!(format!("{minute}-{n}")));
            let token = jwt_of(&header, &lab.claims(), "AAAA");
            assert_eq!(code(&lab, &token).await.unwrap_err(), Code::TokenSignature);
        }
        assert_eq!(lab.fetches(), 1 + minute);
    }
}

#[tokio::test]
async fn a_crowd_at_the_start_causes_one_fetch() {
    let lab = Arc::new(Lab::start().await);
    lab.answer_keys(Answer::Slow(100));
    let token = lab.minted().good;
    let crowd: Vec<_> = (0..50)
        .map(|_| {
            let (lab, token) = (Arc::clone(&lab), token.clone());
            tokio::spawn(async move { code(&lab, &token).await.map(|_| ()) })
        })
        .collect();
    for one in crowd {
        assert_eq!(one.await.unwrap(), Ok(()));
    }
    assert_eq!(lab.fetches(), 1);
}

#[tokio::test]
async fn a_caller_who_hangs_up_does_not_stop_the_fetch() {
    let lab = Lab::start().await;
    lab.answer_keys(Answer::Slow(100));
    let token = lab.minted().good;
    let hurried = tokio::time::timeout(std::time::Duration::from_millis(20), code(&lab, &token));
    hurried.await.unwrap_err();
    code(&lab, &token).await.unwrap();
    assert_eq!(lab.fetches(), 1);
}

#[tokio::test]
async fn hostile_key_answers() {
    for (answer, problem) in [
        (Answer::Body(vec![b' '; 10 << 20]), "the answer is too large"),
        (Answer::Redirect("http://169.254.169.254/latest/meta-data"), "the answer is a redirect"),
        (Answer::Body(b"<html>".to_vec()), "not a key set"),
        (Answer::Status(500), "status 500"),
    ] {
        let lab = Lab::start().await;
        lab.answer_keys(answer);
        assert_eq!(code(&lab, &lab.minted().good).await.unwrap_err(), Code::KeysUnavailable);
        let said = lab.verifier.report()[0].problem.map(|problem| problem.to_string());
        assert_eq!(said.as_deref(), Some(problem));
    }
}

#[tokio::test]
async fn keys_elsewhere_are_fetched_under_the_same_rules() {
    for (jwks_uri, problem) in [
        ("http://169.254.169.254/jwks", "the name has an address that may not be called"),
        ("http://[::ffff:169.254.169.254]/jwks", "the name has an address that may not be called"),
        ("http://93.184.215.14/jwks", "plain HTTP to a public address"),
        ("http://0251.0376.0251.0376/jwks", "the URL or a header is not acceptable"),
        ("file:///etc/passwd", "the URL or a header is not acceptable"),
    ] {
        let lab = Lab::start().await;
        lab.answer_discovery(json!({"issuer": lab.issuer(), "jwks_uri": jwks_uri}));
        assert_eq!(code(&lab, &lab.minted().good).await.unwrap_err(), Code::KeysUnavailable);
        let said = lab.verifier.report()[0].problem.map(|problem| problem.to_string());
        assert_eq!(said.as_deref(), Some(problem), "{jwks_uri}");
    }
}

#[tokio::test]
async fn private_networks_are_refused_unless_allowed() {
    let lab = Lab::start().await;
    let public = IssuerConfig {
        discovery: Discovery::Keys(format!("{}/jwks", lab.issuer())),
        ..IssuerConfig::new(lab.issuer())
    };
    let verifier = Verifier::new(vec![public], lab.world()).unwrap();
    let refusal = verifier.verify(&lab.minted().good, AUDIENCE).await.unwrap_err();
    assert_eq!(refusal.code(), Code::KeysUnavailable);
    assert_eq!(lab.fetches(), 0);
}

#[tokio::test]
async fn discovery_that_names_another_issuer() {
    let lab = Lab::start().await;
    let jwks_uri = format!("{}/jwks", lab.issuer());
    lab.answer_discovery(json!({"issuer": format!("{}/", lab.issuer()), "jwks_uri": jwks_uri}));
    assert_eq!(code(&lab, &lab.minted().good).await.unwrap_err(), Code::KeysUnavailable);
    assert_eq!(lab.verifier.report()[0].problem, Some(KeysProblem::OtherIssuer));
    assert_eq!(lab.fetches(), 0);
}

#[tokio::test]
async fn symmetric_and_private_keys_verify_nothing() {
    let lab = Lab::start().await;
    let leaked = with(lab.key("ec").jwk(), "d", json!(encode(&"d".repeat(32))));
    let symmetric = json!({"kty": "oct", "kid": "oct", "alg": "HS256", "k": encode("secret")});
    lab.publish(vec![leaked, symmetric]);
    assert_eq!(code(&lab, &lab.minted().good).await.unwrap_err(), Code::TokenSignature);
    let header = json!({"alg": "HS256", "kid": "oct", "typ": "at+jwt"});
    let forged = jwt_of(&header, &lab.claims(), &encode("forged"));
    assert_eq!(code(&lab, &forged).await.unwrap_err(), Code::TokenSignature);
}

#[tokio::test]
async fn two_issuers_with_one_kid() {
    let (one, other) = (Lab::start().await, Lab::start().await);
    let configs = vec![one.config(), other.config()];
    let verifier = Verifier::new(configs, one.world()).unwrap();
    let verify = async |token: &str| {
        verifier
            .verify(token, AUDIENCE)
            .await
            .map(|t| t.principal().delegator_text())
            .map_err(|r| r.code())
    };
    for lab in [&one, &other] {
        let principal = verify(&lab.minted().good).await.unwrap();
        assert_eq!(*principal, format!("{}|alice", lab.issuer()));
        // Signed by the one, issued in the name of the other.
        let foreign = with(lab.claims(), "iss", json!(one.issuer()));
        let crossed = other.key("ec").sign(&lab.header(), &foreign);
        assert_eq!(verify(&crossed).await.unwrap_err(), Code::TokenSignature);
    }
}

#[tokio::test]
async fn an_issuer_that_is_down_at_the_start_and_later() {
    let lab = Lab::start().await;
    lab.answer_keys(Answer::Status(503));
    let long = with(lab.claims(), "exp", json!(lab.now_s() + 86_400));
    let token = lab.key("ec").sign(&lab.header(), &long);
    let refusal = lab.verifier.verify(&token, AUDIENCE).await.unwrap_err();
    assert_eq!(refusal.code(), Code::KeysUnavailable);
    lab.answer_keys(Answer::Keys);
    assert_eq!(code(&lab, &token).await.unwrap_err(), Code::KeysUnavailable, "asked too soon");
    lab.advance_s(5);
    code(&lab, &token).await.unwrap();
    // Known keys serve for an hour without their issuer.
    lab.answer_keys(Answer::Status(503));
    lab.advance_s(3000);
    code(&lab, &token).await.unwrap();
    lab.advance_s(600);
    assert_eq!(code(&lab, &token).await.unwrap_err(), Code::KeysUnavailable);
}

/// An issuer of the looser kind: untyped tokens, another client claim, an audience of its own.
#[tokio::test]
async fn an_issuer_with_habits_of_its_own() {
    let lab = Lab::start().await;
    let config = IssuerConfig {
        discovery: Discovery::Keys(format!("{}/jwks", lab.issuer())),
        audience: Some("project-1".into()),
        clients: vec!["desktop".into()],
        accept_typ_missing: true,
        client_claim: "azp".into(),
        tenant: TenantRule::Claim { name: "org".into(), known: Vec::new() },
        roles_claim: Some("/realm_access/roles".into()),
        ..lab.config()
    };
    let verifier = Verifier::new(vec![config], lab.world()).unwrap();
    let mut claims = with(lab.claims(), "aud", json!(["account", "project-1"]));
    claims = with(with(claims, "azp", json!("desktop")), "org", json!("acme"));
    claims = with(claims, "realm_access", json!({"roles": ["buyer"]}));
    let header = with(lab.header(), "typ", json!("JWT"));
    let verify = async |header: &Value, claims: &Value| {
        let token = lab.key("ec").sign(header, claims);
        verifier.verify(&token, AUDIENCE).await.map_err(|refusal| refusal.code())
    };
    let token = verify(&header, &claims).await.unwrap();
    let principal = token.principal();
    assert_eq!((&*principal.tenant, &*principal.agent), ("acme", "desktop"));
    assert_eq!(principal.roles, [Arc::from("buyer")]);
    verify(&with(header.clone(), "typ", Value::Null), &claims).await.unwrap();
    for (name, value, code) in [
        ("typ", json!("ID"), Code::TokenType),
        ("nonce", json!("n"), Code::TokenType),
        ("org", Value::Null, Code::TenantUnknown),
        ("azp", json!("stranger"), Code::TokenAudience),
        ("aud", json!(AUDIENCE), Code::TokenAudience),
    ] {
        let claims = with(claims.clone(), name, value);
        assert_eq!(verify(&header, &claims).await.unwrap_err(), code, "{name}");
    }
}

#[tokio::test]
async fn the_sandbox_issuer_serves_people_and_machines() {
    let lab = Lab::start().await;
    let client = SandboxClient { id: "bot".into(), secret: "hunter2".into() };
    let issuer =
        sandbox::start(([127, 0, 0, 1], 0).into(), vec![client], lab.world()).await.unwrap();
    let config = IssuerConfig {
        allow_private_network: true,
        human_claim: Some("auth_time".into()),
        roles_claim: Some("roles".into()),
        ..IssuerConfig::new(issuer.url())
    };
    let verifier = Verifier::new(vec![config], lab.world()).unwrap();
    let person = SandboxToken {
        subject: "alice",
        client: "desktop",
        actors: &["travel-agent", "planner"],
        audience: AUDIENCE,
        scope: "mcp:call",
        tenant: "acme",
        roles: &["buyer"],
        is_human: true,
        ttl_s: 300,
    };
    let minted = issuer.mint(&person).unwrap();
    let token = verifier.verify(&minted, AUDIENCE).await.unwrap();
    let principal = token.principal();
    assert_eq!((&*principal.agent, &*principal.chain[0]), ("travel-agent", "planner"));
    assert!(principal.delegator.as_ref().unwrap().is_human);

    let fetch = countersign_gateway::fetch::Fetch::new(issuer_lab::LOOPBACK);
    let form = countersign_gateway::fetch::form_encode(&[
        ("grant_type", "client_credentials"),
        ("resource", AUDIENCE),
        ("scope", "mcp:call"),
    ]);
    let ask = async |secret: &str| {
        let basic = format!("Basic {}", issuer_lab::encode_standard(&format!("bot:{secret}")));
        let (url, kind) = (format!("{}/token", issuer.url()), "application/x-www-form-urlencoded");
        fetch.post(&url, kind, &[("authorization", &basic)], form.clone()).await.unwrap()
    };
    assert_eq!(ask("wrong").await.status, 401);
    let answer: BTreeMap<String, Value> =
        serde_json::from_slice(&ask("hunter2").await.body).unwrap();
    let token = verifier.verify(answer["access_token"].as_str().unwrap(), AUDIENCE).await.unwrap();
    assert!(!token.principal().delegator.as_ref().unwrap().is_human);

    issuer.rotate().unwrap();
    lab.advance_s(60);
    let fresh = issuer.mint(&person).unwrap();
    verifier.verify(&fresh, AUDIENCE).await.unwrap();
    let dead = verifier.verify(&minted, AUDIENCE).await.unwrap_err();
    assert_eq!(dead.code(), Code::TokenSignature);
    issuer.stop();
}

#[tokio::test]
async fn the_sandbox_issuer_stays_on_loopback() {
    let lab = Lab::start().await;
    let refused = sandbox::start(([0, 0, 0, 0], 0).into(), Vec::new(), lab.world()).await;
    assert_eq!(refused.unwrap_err(), SandboxError::NotLoopback);
}
