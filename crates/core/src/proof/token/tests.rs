use super::*;
use serde_json::json;
use std::cell::Cell;

const ISSUER: &str = "https://idp.example/";
const AUDIENCE: &str = "https://gw.example/weather/mcp";
const NOW: UnixMs = UnixMs(1_797_000_000_000);

fn seconds(offset: i64) -> i64 {
    1_797_000_000 + offset
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "k1", "typ": "at+jwt"})
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "client_id": "agent-1",
        "iat": seconds(-10), "exp": seconds(600), "jti": "j1", "scope": "mcp:tools mcp:call",
    })
}

/// Claims with one member replaced; `Value::Null` removes it.
fn with(mut object: Value, name: &str, value: Value) -> Value {
    let members = object.as_object_mut().unwrap();
    members.remove(name);
    if !value.is_null() {
        members.insert(name.into(), value);
    }
    object
}

fn jwt_of(header: &str, payload: &str) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", encode(header), encode(payload), encode("signature"))
}

fn profile() -> Profile {
    Profile::strict(ISSUER, "acme")
}

/// Verifies against a signature check that says yes and counts.
fn verify_as(jwt: &str, profile: &Profile) -> Result<VerifiedToken, TokenError> {
    let checks = Cell::new(0);
    let result =
        VerifiedToken::verify(jwt, &Expected { profile, audience: AUDIENCE }, NOW, |_, _, _| {
            checks.set(checks.get() + 1);
            Ok(())
        });
    assert!(result.is_err() || checks.get() == 1, "a token without one signature check");
    result
}

fn verify(header: &Value, claims: &Value) -> Result<VerifiedToken, TokenError> {
    verify_as(&jwt_of(&header.to_string(), &claims.to_string()), &profile())
}

fn error_of_claim(name: &str, value: Value) -> TokenError {
    verify(&header(), &with(claims(), name, value)).unwrap_err()
}

#[test]
fn a_good_token_says_what_it_says() {
    let token = verify(&header(), &claims()).unwrap();
    let principal = token.principal();
    let delegator = principal.delegator.as_ref().unwrap();
    assert_eq!((&*delegator.issuer, &*delegator.subject), (ISSUER, "alice"));
    assert!(delegator.is_human);
    assert_eq!((&*principal.tenant, &*principal.agent), ("acme", "agent-1"));
    assert!(principal.chain.is_empty() && principal.roles.is_empty());
    assert_eq!(token.scopes(), [Arc::from("mcp:tools"), Arc::from("mcp:call")]);
    assert_eq!(token.expires_at(), UnixMs(1_797_000_600_000));
    assert_eq!(token.reference(), VerifiedToken::reference_of(ISSUER, "j1"));
    assert_eq!(&**token.client(), "agent-1");
}

#[test]
fn the_signature_check_sees_the_exact_bytes_and_its_no_is_final() {
    let jwt = jwt_of(&header().to_string(), &claims().to_string());
    let profile = profile();
    let expected = Expected { profile: &profile, audience: AUDIENCE };
    let refused = VerifiedToken::verify(&jwt, &expected, NOW, |header, input, signature| {
        assert_eq!(header.algorithm, Algorithm::Es256);
        assert_eq!(header.key_id.as_deref(), Some("k1"));
        assert_eq!(Some(input), jwt.rsplit_once('.').map(|(input, _)| input));
        assert_eq!(signature, b"signature");
        Err(TokenError::Signature)
    });
    assert_eq!(refused.unwrap_err(), TokenError::Signature);
}

#[test]
fn claims_are_judged_only_after_the_signature() {
    let jwt = jwt_of(&header().to_string(), &with(claims(), "exp", json!(1)).to_string());
    let profile = profile();
    let expected = Expected { profile: &profile, audience: AUDIENCE };
    let refused = VerifiedToken::verify(&jwt, &expected, NOW, |_, _, _| Err(TokenError::Signature));
    assert_eq!(refused.unwrap_err(), TokenError::Signature);
}

#[test]
fn headers() {
    let cases = [
        ("alg", json!("none"), TokenError::Algorithm),
        ("alg", json!("nOnE"), TokenError::Algorithm),
        ("alg", json!("HS256"), TokenError::Algorithm),
        ("alg", json!("es256"), TokenError::Algorithm),
        ("alg", json!(["ES256"]), TokenError::Algorithm),
        ("alg", Value::Null, TokenError::Algorithm),
        ("typ", json!("JWT"), TokenError::Type),
        ("typ", json!("dpop+jwt"), TokenError::Type),
        ("typ", json!("oauth-id-jag+jwt"), TokenError::Type),
        ("typ", json!("logout+jwt"), TokenError::Type),
        ("typ", json!(7), TokenError::Type),
        ("typ", Value::Null, TokenError::Type),
        ("kid", json!(""), TokenError::KeyId),
        ("kid", json!(7), TokenError::KeyId),
        ("kid", json!("k".repeat(257)), TokenError::KeyId),
        ("crit", json!([]), TokenError::HeaderMember),
        ("crit", json!(["exp"]), TokenError::HeaderMember),
        ("b64", json!(false), TokenError::HeaderMember),
        ("jwk", json!({}), TokenError::HeaderMember),
        ("jku", json!("https://evil.example"), TokenError::HeaderMember),
        ("x5u", json!("https://evil.example"), TokenError::HeaderMember),
        ("x5c", json!([]), TokenError::HeaderMember),
        ("zip", json!("DEF"), TokenError::HeaderMember),
        ("cty", json!("JWT"), TokenError::HeaderMember),
        ("enc", json!("A256GCM"), TokenError::HeaderMember),
    ];
    for (name, value, error) in cases {
        let refused = verify(&with(header(), name, value.clone()), &claims());
        assert_eq!(refused.unwrap_err(), error, "{name}: {value}");
    }
    for (name, value) in [
        ("typ", json!("application/at+jwt")),
        ("typ", json!("AT+JWT")),
        ("alg", json!("Ed25519")),
        ("alg", json!("EdDSA")),
        ("x5t", json!("thumbprint")),
        ("kid", Value::Null),
    ] {
        verify(&with(header(), name, value), &claims()).unwrap();
    }
}

#[test]
fn forms() {
    let good = jwt_of(&header().to_string(), &claims().to_string());
    let (input, signature) = good.rsplit_once('.').unwrap();
    let (head, payload) = input.split_once('.').unwrap();
    let cases = [
        (String::new(), TokenError::NotCompact),
        ("..".into(), TokenError::NotCompact),
        (input.into(), TokenError::NotCompact),
        (format!("{good}.AAAA"), TokenError::NotCompact),
        (format!("{good}.AAAA.AAAA"), TokenError::NotCompact),
        (format!("{head}=.{payload}.{signature}"), TokenError::NotCompact),
        (format!("{good} "), TokenError::NotCompact),
        (format!("{good}\u{e9}"), TokenError::NotCompact),
        (good.replace('.', "+."), TokenError::NotCompact),
        (json!({"payload": payload}).to_string(), TokenError::NotCompact),
        (format!("{head}.{payload}.A"), TokenError::Encoding),
        // Trailing bits that another decoder would drop: a second spelling of the same bytes.
        (format!("{head}.{payload}.AB"), TokenError::Encoding),
        ("a".repeat(MAX_TOKEN_BYTES + 1), TokenError::TooLarge),
        (jwt_of("[]", "{}"), TokenError::Json),
        (jwt_of(&header().to_string(), "7"), TokenError::Json),
        (jwt_of(&header().to_string(), "{} {}"), TokenError::Json),
        (jwt_of(&header().to_string(), ""), TokenError::NotCompact),
        (jwt_of(r#"{"alg":"ES256","alg":"none"}"#, "{}"), TokenError::DuplicateMember),
        (jwt_of(r#"{"alg":"ES256","\u0061lg":"none"}"#, "{}"), TokenError::DuplicateMember),
        (
            jwt_of(&header().to_string(), r#"{"iss":"a","x":[{"y":1,"y":2}]}"#),
            TokenError::DuplicateMember,
        ),
        (
            jwt_of(&header().to_string(), &format!("{}{}", "[".repeat(9000), "]".repeat(1000))),
            TokenError::TooDeep,
        ),
    ];
    for (jwt, error) in cases {
        assert_eq!(verify_as(&jwt, &profile()).unwrap_err(), error);
    }
}

#[test]
fn required_claims() {
    for name in ["iss", "sub", "aud", "exp", "iat", "client_id"] {
        assert_eq!(error_of_claim(name, Value::Null), TokenError::Claim(name));
        assert_eq!(error_of_claim(name, json!({})), TokenError::Claim(name));
    }
    for name in ["iss", "sub", "client_id", "jti"] {
        assert_eq!(error_of_claim(name, json!(7)), TokenError::Claim(name));
        assert_eq!(error_of_claim(name, json!("")), TokenError::Claim(name));
        assert_eq!(error_of_claim(name, json!(["a"])), TokenError::Claim(name));
        assert_eq!(error_of_claim(name, json!("a\nb")), TokenError::Claim(name));
    }
}

#[test]
fn issuers() {
    for iss in ["https://idp.example", "https://IDP.example/", "https://other.example/"] {
        assert_eq!(error_of_claim("iss", json!(iss)), TokenError::Issuer);
    }
}

#[test]
fn audiences() {
    let slash = format!("{AUDIENCE}/");
    for aud in [
        json!(""),
        json!([]),
        json!(slash),
        json!("https://gw.example/weather"),
        json!("https://gw.example/maps/mcp"),
        json!([slash]),
        json!([AUDIENCE, AUDIENCE]),
    ] {
        assert_eq!(error_of_claim("aud", aud), TokenError::Audience);
    }
    for aud in [json!(7), json!([AUDIENCE, 7]), json!([[AUDIENCE]]), json!({"0": AUDIENCE})] {
        assert_eq!(error_of_claim("aud", aud), TokenError::Claim("aud"));
    }
    verify(&header(), &with(claims(), "aud", json!(["https://other", AUDIENCE]))).unwrap();
}

#[test]
fn times() {
    let float: Value = serde_json::from_str("1798000000.0").unwrap();
    for value in [json!("1798000000"), float, json!(-1), json!(true), json!(1e300)] {
        for name in ["exp", "nbf", "iat"] {
            assert_eq!(error_of_claim(name, value.clone()), TokenError::Claim(name));
        }
    }
    assert_eq!(error_of_claim("exp", json!(seconds(0))), TokenError::Expired);
    assert_eq!(error_of_claim("exp", json!(seconds(-30))), TokenError::Expired);
    assert_eq!(error_of_claim("nbf", json!(seconds(6))), TokenError::NotYetValid);
    assert_eq!(error_of_claim("iat", json!(seconds(6))), TokenError::NotYetValid);
    for (name, offset) in [("exp", 1), ("nbf", 5), ("iat", 5)] {
        verify(&header(), &with(claims(), name, json!(seconds(offset)))).unwrap();
    }
    verify(&header(), &with(claims(), "exp", json!(u64::MAX))).unwrap();
}

#[test]
fn other_kinds_of_token() {
    for (name, value) in [
        ("typ", json!("ID")),
        ("typ", json!("Refresh")),
        ("token_use", json!("id")),
        ("events", json!({"http://schemas.openid.net/event/backchannel-logout": {}})),
        ("htm", json!("POST")),
    ] {
        assert_eq!(error_of_claim(name, value), TokenError::Type);
    }
    assert_eq!(error_of_claim("cnf", json!({"jkt": "x"})), TokenError::SenderConstrained);
    assert_eq!(error_of_claim("cnf", json!([])), TokenError::SenderConstrained);

    let loose = Profile { typ: TypRule::AlsoUntyped, ..profile() };
    for typ in [Value::Null, json!("JWT")] {
        let header = with(header(), "typ", typ).to_string();
        verify_as(&jwt_of(&header, &claims().to_string()), &loose).unwrap();
        for name in ["nonce", "at_hash", "c_hash", "s_hash"] {
            let id_token = with(claims(), name, json!("x")).to_string();
            let refused = verify_as(&jwt_of(&header, &id_token), &loose);
            assert_eq!(refused.unwrap_err(), TokenError::Type);
        }
    }
    for typ in ["dpop+jwt", "logout+jwt", "oauth-id-jag+jwt"] {
        let header = with(header(), "typ", json!(typ)).to_string();
        let refused = verify_as(&jwt_of(&header, &claims().to_string()), &loose);
        assert_eq!(refused.unwrap_err(), TokenError::Type);
    }
}

fn chain(depth: usize) -> Value {
    (0..depth)
        .rev()
        .fold(Value::Null, |inner, i| with(json!({"sub": format!("actor-{i}")}), "act", inner))
}

#[test]
fn actors() {
    let token = verify(&header(), &with(claims(), "act", chain(5))).unwrap();
    assert_eq!(&*token.principal().agent, "actor-0");
    let earlier: Vec<_> = token.principal().chain.iter().map(|a| a.to_string()).collect();
    assert_eq!(earlier, ["actor-1", "actor-2", "actor-3", "actor-4"]);

    assert_eq!(error_of_claim("act", chain(6)), TokenError::ActorDepth);
    assert_eq!(error_of_claim("act", chain(200)), TokenError::TooDeep);
    for act in [json!("actor"), json!({}), json!({"sub": 7}), json!({"sub": "a", "act": []})] {
        assert_eq!(error_of_claim("act", act), TokenError::Claim("act"));
    }
    let foreign = json!({"sub": "actor", "iss": "https://other.example"});
    assert_eq!(error_of_claim("act", foreign), TokenError::Claim("act"));
    verify(&header(), &with(claims(), "act", json!({"sub": "a", "iss": ISSUER}))).unwrap();
}

#[test]
fn machines_are_not_people() {
    let is_human = |claims: &Value, profile: &Profile| {
        let jwt = jwt_of(&header().to_string(), &claims.to_string());
        verify_as(&jwt, profile).unwrap().principal().delegator.as_ref().unwrap().is_human
    };
    let strict = profile();
    for (name, value) in [
        ("sub", json!("agent-1")),
        ("sub", json!("agent-1@clients")),
        ("azp", json!("alice")),
        ("act", json!({"sub": "alice"})),
        ("gty", json!("client-credentials")),
        ("idtyp", json!("app")),
        ("preferred_username", json!("service-account-agent-1")),
    ] {
        assert!(!is_human(&with(claims(), name, value.clone()), &strict), "{name}: {value}");
    }
    let marked = Profile { human_claim: Some("auth_time".into()), ..profile() };
    assert!(!is_human(&claims(), &marked));
    assert!(is_human(&with(claims(), "auth_time", json!(1)), &marked));
}

#[test]
fn profiles() {
    let verify = |claims: &Value, profile: &Profile| {
        verify_as(&jwt_of(&header().to_string(), &claims.to_string()), profile)
    };
    let azp = Profile { client_claim: "azp".into(), ..profile() };
    let token = verify(&with(claims(), "azp", json!("agent-2")), &azp).unwrap();
    assert_eq!(&*token.principal().agent, "agent-2");
    assert_eq!(verify(&claims(), &azp).unwrap_err(), TokenError::Claim("client_id"));

    let listed = Profile { clients: vec!["agent-2".into()], ..profile() };
    assert_eq!(verify(&claims(), &listed).unwrap_err(), TokenError::Client);

    let tenant = TenantRule::Claim { name: "org".into(), known: vec!["acme".into()] };
    let tenants = Profile { tenant, ..profile() };
    assert_eq!(verify(&claims(), &tenants).unwrap_err(), TokenError::Tenant);
    let stranger = with(claims(), "org", json!("evil"));
    assert_eq!(verify(&stranger, &tenants).unwrap_err(), TokenError::Tenant);
    let token = verify(&with(claims(), "org", json!("acme")), &tenants).unwrap();
    assert_eq!(&*token.principal().tenant, "acme");

    let roles = Profile { roles_claim: Some("/realm_access/roles".into()), ..profile() };
    let nested = with(claims(), "realm_access", json!({"roles": ["buyer", "admin"]}));
    let token = verify(&nested, &roles).unwrap();
    assert_eq!(token.principal().roles, [Arc::from("buyer"), Arc::from("admin")]);
    let wrong = with(claims(), "realm_access", json!({"roles": [7]}));
    assert_eq!(verify(&wrong, &roles).unwrap_err(), TokenError::Claim("roles"));
    let url = Profile { roles_claim: Some("https://acme.example/roles".into()), ..profile() };
    let named = with(claims(), "https://acme.example/roles", json!("buyer"));
    assert_eq!(verify(&named, &url).unwrap().principal().roles, [Arc::from("buyer")]);
}

#[test]
fn scopes() {
    let scopes = |name: &str, value: Value| {
        let claims = with(with(claims(), "scope", Value::Null), name, value);
        verify(&header(), &claims)
            .map(|token| token.scopes().iter().map(|s| s.to_string()).collect::<Vec<_>>().join(","))
    };
    assert_eq!(scopes("x", json!(1)).unwrap(), "");
    assert_eq!(scopes("scope", json!(" a  b ")).unwrap(), "a,b");
    assert_eq!(scopes("scp", json!(["a", "b"])).unwrap(), "a,b");
    assert_eq!(scopes("scp", json!("a b")).unwrap(), "a,b");
    assert_eq!(scopes("scope", json!(7)).unwrap_err(), TokenError::Claim("scope"));
    assert_eq!(scopes("scope", json!(["a", 7])).unwrap_err(), TokenError::Claim("scope"));
}

#[test]
fn a_reference_follows_the_token_id_or_else_the_claims() {
    let reference = |claims: &Value| verify(&header(), claims).unwrap().reference();
    assert_eq!(reference(&claims()), reference(&with(claims(), "scope", json!("other"))));
    let unnamed = with(claims(), "jti", Value::Null);
    assert_ne!(reference(&unnamed), reference(&with(unnamed.clone(), "sub", json!("bob"))));
}

#[test]
fn nothing_of_a_token_is_in_its_refusal_or_its_debug_text() {
    let claims = with(claims(), "sub", json!("c4n4ry\n"));
    let jwt = jwt_of(&header().to_string(), &claims.to_string());
    let token = UnverifiedToken::parse(&jwt).unwrap();
    assert!(!format!("{token:?}").contains("c4n4ry"));
    let refusal = Refusal::from(verify_as(&jwt, &profile()).unwrap_err());
    assert_eq!(refusal.code(), Code::TokenClaim);
    assert_eq!(
        refusal.to_string(),
        "IDN-014: a required claim is missing or of the wrong type; \
         reason: `sub` is missing or of the wrong type"
    );
}
