//! A grant that a person signed with a key of their own (`typ consent-grant+jwt`, as the copies
//! that the gateway signs), and that the agent brings along.
//!
//! INVARIANT: only a key that is registered for the very person signs for them; a mandate is for
//! one server, names its agent, and makes one grant, found again by key and `jti`.
//! INVARIANT: a mandate that names the agent's key (`cnf`) counts only when that key signed a fresh
//! nonce of ours over it (a key-binding JWT, RFC 9901, section 4.3).

use super::{
    bring::unacceptable,
    jws::{NotSigned, PublicKey, Unverified, sha256},
};
use crate::{
    admin::{form::GrantRequest, grants, receipt::TYPE},
    gate::Gate,
};
use countersign_core::{
    call::Call,
    digest::Digest,
    grant::{Bounds, Brought, GrantTerms, Source},
    ids::GrantId,
    person::{LinkKind, Person},
    policy::Intent,
    proof::Identity,
    refusal::{Code, Refusal},
    time::UnixMs,
};
use countersign_store::NewGrant;
use serde::Deserialize;
use serde_json::value::RawValue;

/// How far ahead of ours a signer's clock may be, in seconds.
const SKEW_S: u64 = 60;
/// How old a key-binding JWT may be, in seconds.
const BINDING_S: u64 = 300;
/// The longest `jti`, in bytes.
const ID_BYTES_MAX: usize = 256;

/// What is signed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mandate {
    iss: String,
    aud: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
    sub_id: Subject,
    #[serde(default)]
    cnf: Option<Confirmation>,
    grant: Terms,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Subject {
    format: Format,
    iss: String,
    sub: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    IssSub,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmation {
    jwk: Box<RawValue>,
}

/// What is agreed: the members of a grant's signed copy that a person decides.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Terms {
    tenant: String,
    agent: String,
    server: String,
    tools: Vec<String>,
    intents: Vec<Intent>,
    per_call: String,
    total: String,
    #[serde(default)]
    windows: Vec<String>,
    #[serde(default)]
    max_calls: Option<u64>,
    #[serde(default)]
    purpose: String,
    #[serde(default)]
    bounds: Bounds,
}

/// What the agent's key signs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Binding {
    iat: u64,
    aud: String,
    nonce: String,
    sd_hash: String,
}

impl From<NotSigned> for Refusal {
    fn from(error: NotSigned) -> Self {
        unacceptable(error)
    }
}

impl Gate {
    /// The grant of a mandate that came along: `<mandate>`, or `<mandate>~<key-binding JWT>`.
    ///
    /// # Errors
    /// [`Code::ConsentEvidence`] for whatever does not hold; what keeps the grant from being made.
    pub(super) async fn bring_mandate(
        &self,
        text: &str,
        call: &Call,
        identity: &Identity,
    ) -> Result<(), Refusal> {
        let (signed, binding) = match text.split_once('~') {
            Some((signed, binding)) => (signed, Some(binding).filter(|b| !b.is_empty())),
            None => (text, None),
        };
        let unverified = Unverified::parse(signed, TYPE)?;
        let kid = unverified.kid().to_owned();
        let unknown = || unacceptable("the key is not registered for anybody");
        let link = self.store.link(LinkKind::Key, &kid).ok_or_else(unknown)?;
        let key = PublicKey::from_jwk(&link.public).ok_or(Code::InternalFault)?;
        let mandate: Mandate = unverified.verify(&key)?;
        let now = self.world.now();
        check(&mandate, (&key, &link.person), call, identity, now)?;
        self.may_consent(&link.person.issuer, &link.person.subject)?;
        let brought = Brought {
            source: Source::Jws,
            key: Digest::of_parts(&[b"jws", kid.as_bytes(), mandate.jti.as_bytes()]),
            content: Digest::of(unverified.signed().as_bytes()),
            signer: Some(kid.into()),
        };
        if let Some(known) = self.store.grant_of_evidence(brought.key)
            && known.brought.as_ref().is_some_and(|b| b.content == brought.content)
        {
            return Ok(());
        }
        self.check_binding(&mandate, signed, binding, call, identity)?;
        let approved_by = link.person.to_string();
        let terms = self.mandate_terms(mandate)?;
        let id = GrantId::new(now, self.world.random());
        let new = NewGrant { id, terms, approved_by, brought: Some(brought), agreed: None };
        self.store.grant_bring(new).await.map(drop)
    }

    /// The agent holds the key that the mandate names, and says so now.
    fn check_binding(
        &self,
        mandate: &Mandate,
        signed: &str,
        binding: Option<&str>,
        call: &Call,
        identity: &Identity,
    ) -> Result<(), Refusal> {
        let (named, binding) = match (&mandate.cnf, binding) {
            (None, None) => return Ok(()),
            (None, Some(_)) => return Err(unacceptable("a key-binding JWT without `cnf`")),
            (Some(named), binding) => (named, binding),
        };
        let now = self.world.now();
        let about = Digest::of_parts(&[
            b"key binding",
            identity.key().as_bytes(),
            call.digest(identity.principal()).as_bytes(),
        ]);
        let wanted = |rule| {
            let nonce = self.nonces.fresh(about, now, self.world.random());
            unacceptable(rule).with("nonce", nonce)
        };
        let binding =
            binding.ok_or_else(|| wanted("a key-binding JWT with this nonce is wanted"))?;
        let key = PublicKey::from_jwk(named.jwk.get());
        let key = key.ok_or_else(|| unacceptable("`cnf` holds no key that is known here"))?;
        let said = Unverified::parse(binding, "kb+jwt")?;
        if said.kid() != key.thumbprint() {
            return Err(unacceptable("the key-binding JWT is of another key"));
        }
        let said: Binding = said.verify(&key)?;
        check_said(&said, signed, &call.terms.resource, now)?;
        if self.nonces.is_good(&said.nonce, about, now) {
            Ok(())
        } else {
            Err(wanted("the nonce is not of this call, or too old: sign this one"))
        }
    }

    fn mandate_terms(&self, mandate: Mandate) -> Result<GrantTerms, Refusal> {
        let Mandate { nbf, exp, sub_id, grant, .. } = mandate;
        let request = GrantRequest {
            tenant: Some(grant.tenant),
            issuer: sub_id.iss,
            subject: sub_id.sub,
            agent: grant.agent,
            server: grant.server,
            tools: grant.tools,
            intents: grant.intents,
            per_call: grant.per_call,
            total: Some(grant.total),
            windows: grant.windows,
            max_calls: grant.max_calls,
            expires: String::new(),
            purpose: grant.purpose,
            bounds: grant.bounds,
        };
        let life = (UnixMs::from_seconds(nbf), UnixMs::from_seconds(exp));
        grants::terms_for(self, request, life).map_err(|denied| {
            unacceptable(denied.detail().unwrap_or_else(|| denied.refusal().to_string()))
        })
    }
}

/// Whether a key-binding JWT is about this mandate, for this server, and of now.
fn check_said(said: &Binding, signed: &str, resource: &str, now: UnixMs) -> Result<(), Refusal> {
    let now_s = now.seconds();
    let is_ahead = said.iat > now_s.saturating_add(SKEW_S);
    if said.sd_hash != sha256(format!("{signed}~").as_bytes()) {
        Err(unacceptable("`sd_hash` is of another mandate"))
    } else if said.aud != resource {
        Err(unacceptable("`aud` of the key-binding JWT is not this server"))
    } else if is_ahead || now_s.saturating_sub(said.iat) > BINDING_S {
        Err(unacceptable("`iat` of the key-binding JWT is not now"))
    } else {
        Ok(())
    }
}

/// Whether it is this person's, for this agent, this server and this time.
fn check(
    mandate: &Mandate,
    (key, signer): (&PublicKey, &Person),
    call: &Call,
    identity: &Identity,
    now: UnixMs,
) -> Result<(), Refusal> {
    let (principal, grant) = (identity.principal(), &mandate.grant);
    let person = Person::of(principal);
    let Format::IssSub = mandate.sub_id.format;
    let named = Person {
        tenant: grant.tenant.as_str().into(),
        issuer: mandate.sub_id.iss.as_str().into(),
        subject: mandate.sub_id.sub.as_str().into(),
    };
    let is_id = (1..=ID_BYTES_MAX).contains(&mandate.jti.len())
        && !mandate.jti.chars().any(char::is_control);
    let against = if mandate.iss != key.uri() {
        "`iss` is not the key that signed"
    } else if mandate.aud != *call.terms.resource {
        "`aud` is not this server"
    } else if named != *signer {
        "`sub_id` is not the person whose key signed"
    } else if person.as_ref() != Some(signer) {
        "the person whose key signed is not the one whom the token names"
    } else if grant.agent != *principal.agent {
        "it is for another agent"
    } else if grant.server != *call.terms.tool.server {
        "it is for another server"
    } else if mandate.iat > now.seconds().saturating_add(SKEW_S) {
        "`iat` lies ahead"
    } else if now.seconds() >= mandate.exp {
        "`exp` has passed"
    } else if !is_id {
        "`jti` is empty or too long"
    } else {
        return Ok(());
    };
    Err(unacceptable(against))
}
