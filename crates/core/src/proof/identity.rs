//! Proof one: which human delegated, which agent acts.

use crate::{
    digest::Digest,
    refusal::{Code, Refusal},
    terms::{IdentityRule, Terms},
    time::UnixMs,
    wire::rar::Details,
};
use std::sync::Arc;

use super::{VerifiedCredential, VerifiedToken, token::SignIn};

/// Who delegated: the token's issuer and subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delegator {
    /// `iss`.
    pub issuer: Arc<str>,
    /// `sub`.
    pub subject: Arc<str>,
    /// A person, not a program's own token.
    pub is_human: bool,
}

/// Whom a call is for and who makes it. Plain data: naming a principal proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// Tenant.
    pub tenant: Arc<str>,
    /// Who delegated; nobody when anonymous.
    pub delegator: Option<Delegator>,
    /// The acting agent: outermost `act.sub`, else the client.
    pub agent: Arc<str>,
    /// Earlier actors, outermost first.
    pub chain: Vec<Arc<str>>,
    /// Groups and roles of the delegator.
    pub roles: Vec<Arc<str>>,
}

impl Principal {
    /// `iss|sub`, or `anonymous`.
    #[must_use]
    pub fn delegator_text(&self) -> Arc<str> {
        match &self.delegator {
            Some(d) => format!("{}|{}", d.issuer, d.subject).into(),
            None => "anonymous".into(),
        }
    }

    /// The principal's key: equal for equal tenant, delegator and agent.
    #[must_use]
    pub fn key(&self) -> Digest {
        let (issuer, subject) =
            self.delegator.as_ref().map_or(("", ""), |d| (&*d.issuer, &*d.subject));
        Digest::of_parts(&[
            self.tenant.as_bytes(),
            issuer.as_bytes(),
            subject.as_bytes(),
            self.agent.as_bytes(),
        ])
    }

    /// Whoever calls without a token.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            tenant: ANONYMOUS.into(),
            delegator: None,
            agent: ANONYMOUS.into(),
            chain: Vec::new(),
            roles: Vec::new(),
        }
    }

    /// Whether this is [`Self::anonymous`].
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.delegator.is_none()
            && &*self.tenant == ANONYMOUS
            && &*self.agent == ANONYMOUS
            && self.chain.is_empty()
            && self.roles.is_empty()
    }
}

/// Tenant and agent of whoever calls without a token.
const ANONYMOUS: &str = "anonymous";

/// A verified principal.
#[derive(Debug)]
pub struct Identity {
    principal: Principal,
    key: Digest,
    reference: Digest,
    expires_at: Option<UnixMs>,
    sign_in: SignIn,
    details: Option<Details>,
}

impl Identity {
    /// From a verified access token, against the tool's terms. Verification of the token itself
    /// is [`VerifiedToken::verify`]; this checks time again, since verified tokens are cached.
    ///
    /// # Errors
    /// [`Code::TokenExpired`], [`Code::ScopeMissing`] naming every scope needed,
    /// [`Code::HumanRequired`].
    pub fn of_token(token: &VerifiedToken, terms: &Terms, now: UnixMs) -> Result<Self, Refusal> {
        if now >= token.expires_at() {
            return Err(Code::TokenExpired.into());
        }
        let lacks = |scope: &Arc<str>| !token.scopes().contains(scope);
        if terms.scopes.iter().any(lacks) {
            let wanted: Vec<&str> = terms.scopes.iter().map(|s| &**s).collect();
            return Err(Refusal::new(Code::ScopeMissing).with("scope", wanted.join(" ")));
        }
        let principal = token.principal().clone();
        require_human(&principal, terms)?;
        Ok(Self {
            key: principal.key(),
            principal,
            reference: token.reference(),
            expires_at: Some(token.expires_at()),
            sign_in: token.sign_in().clone(),
            details: token.details().cloned(),
        })
    }

    /// From an L402 credential minted for an authenticated principal and this tool.
    ///
    /// # Errors
    /// [`Code::TokenMissing`] when the credential names nobody here and the tool is not anonymous.
    pub fn of_credential(
        credential: &VerifiedCredential,
        terms: &Terms,
        now: UnixMs,
    ) -> Result<Self, Refusal> {
        // Audience and scopes of the token were checked for this very tool when it was minted.
        let is_proof = credential.is_for(&terms.tool) && !credential.is_over(now);
        let principal = credential.principal().filter(|_| is_proof);
        let Some(principal) = principal else {
            return Self::anonymous(terms);
        };
        require_human(principal, terms)?;
        Ok(Self {
            principal: principal.clone(),
            key: principal.key(),
            reference: credential.token_reference().unwrap_or_else(|| credential.key()),
            expires_at: Some(credential.expires_at()),
            sign_in: SignIn::default(),
            details: None,
        })
    }

    /// Nobody in particular, where the operator allows it.
    ///
    /// # Errors
    /// [`Code::TokenMissing`] where the terms want somebody.
    pub fn anonymous(terms: &Terms) -> Result<Self, Refusal> {
        match terms.identity {
            IdentityRule::Anonymous => {
                let principal = Principal::anonymous();
                Ok(Self {
                    key: principal.key(),
                    principal,
                    reference: Digest::of(b"anonymous"),
                    expires_at: None,
                    sign_in: SignIn::default(),
                    details: None,
                })
            }
            IdentityRule::Required | IdentityRule::Human => Err(Code::TokenMissing.into()),
        }
    }

    /// Whom it is about.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The key of [`Self::principal`]: a call needs it at many steps.
    #[must_use]
    pub const fn key(&self) -> Digest {
        self.key
    }

    /// Nobody was identified, by configuration.
    #[must_use]
    pub const fn is_anonymous(&self) -> bool {
        self.principal.delegator.is_none()
    }

    /// Digest of the evidence (issuer and token id), for records and revocation.
    #[must_use]
    pub const fn reference(&self) -> Digest {
        self.reference
    }

    /// How and when the person signed in; nothing where a credential stands for the token.
    #[must_use]
    pub const fn sign_in(&self) -> &SignIn {
        &self.sign_in
    }

    /// The consent that the token carries, or why that is none; see [`VerifiedToken::details`].
    #[must_use]
    pub const fn details(&self) -> Option<&Details> {
        self.details.as_ref()
    }

    /// When the evidence ends; `None` for anonymous.
    #[must_use]
    pub const fn expires_at(&self) -> Option<UnixMs> {
        self.expires_at
    }
}

fn require_human(principal: &Principal, terms: &Terms) -> Result<(), Refusal> {
    let is_human = principal.delegator.as_ref().is_some_and(|d| d.is_human);
    match terms.identity {
        IdentityRule::Human if !is_human => Err(Code::HumanRequired.into()),
        IdentityRule::Human | IdentityRule::Required | IdentityRule::Anonymous => Ok(()),
    }
}
