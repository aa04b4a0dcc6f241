//! Who acts, and what they may do: the one place that decides it, for the admin socket, for the
//! API over the network and for the console's pages alike.
//!
//! INVARIANT: an actor sees the things of one tenant; only the socket's users see all of them.
//! INVARIANT: whom the agent acts for may answer its requests, and see nothing else by that.

use super::denied::Denied;
use crate::config::Role;
use countersign_core::{
    approval::{Approval, Approver},
    person::Person,
    refusal::{Code, Refusal},
};
use std::sync::Arc;

/// What an act needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// To be signed in.
    Known,
    /// To look at what the tenant does.
    See,
    /// To answer requests, and to make grants.
    Answer,
    /// To stop something: suspend and revoke.
    Stop,
    /// To end doubts and to book refunds.
    Settle,
    /// To say who may no longer answer, and to end credentials.
    Administer,
}

impl Need {
    /// The roles that fulfil it; any of them.
    pub(crate) const fn roles(self) -> &'static [Role] {
        use Role::{Admin, Approver, Auditor, Operator};
        match self {
            Self::Known => &[],
            Self::See => &[Approver, Operator, Auditor, Admin],
            Self::Answer => &[Approver, Admin],
            Self::Stop => &[Approver, Operator, Admin],
            Self::Settle => &[Operator, Admin],
            Self::Administer => &[Admin],
        }
    }
}

/// Somebody whose identity was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Actor {
    who: Approver,
    name: Arc<str>,
    /// `None` for every tenant.
    tenant: Option<Arc<str>>,
    roles: Vec<Role>,
}

impl Actor {
    /// A user of the admin socket: they own the process, and may do everything.
    pub(super) fn local(user: &str) -> Self {
        let who = Approver::local(user);
        Self { name: user.into(), who, tenant: None, roles: vec![Role::Admin] }
    }

    /// A person whom the sign-in issuer vouches for. `words` are its words for their roles.
    pub(crate) fn person(
        (issuer, subject, name): (&str, &str, &str),
        tenant: Arc<str>,
        words: Vec<Arc<str>>,
        known: &[(Arc<str>, Role)],
    ) -> Self {
        let mut roles: Vec<Role> =
            known.iter().filter(|(word, _)| words.contains(word)).map(|(_, role)| *role).collect();
        roles.sort_unstable();
        roles.dedup();
        let who = Approver::person(issuer, subject, words);
        Self { who, name: name.into(), tenant: Some(tenant), roles }
    }

    /// The same, without the roles that would let them answer requests and make grants.
    pub(crate) fn without_answers(mut self) -> Self {
        self.roles.retain(|role| !Need::Answer.roles().contains(role));
        self
    }

    /// As one who answers.
    pub(crate) fn approver(&self) -> Approver {
        self.who.clone()
    }

    /// The text that is recorded with what they do.
    pub(crate) fn text(&self) -> String {
        self.who.to_string()
    }

    /// The name to show.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Their roles.
    pub(crate) fn roles(&self) -> &[Role] {
        &self.roles
    }

    /// Whether they may do what needs this.
    pub(crate) fn can(&self, need: Need) -> bool {
        need == Need::Known || need.roles().iter().any(|role| self.roles.contains(role))
    }

    /// What concerns the whole deployment is changed from its own machine.
    ///
    /// # Errors
    /// [`Code::RoleMissing`] for everybody but the socket's users.
    pub(crate) fn may_here(&self) -> Result<(), Denied> {
        if self.is_local() {
            return Ok(());
        }
        Err(Refusal::new(Code::RoleMissing).with("needs", "a user of the admin socket").into())
    }

    /// As [`Self::can`], as a refusal.
    ///
    /// # Errors
    /// [`Code::RoleMissing`] naming the roles that would do.
    pub(crate) fn may(&self, need: Need) -> Result<(), Denied> {
        if self.can(need) {
            return Ok(());
        }
        let roles: Vec<&str> = need.roles().iter().map(|role| role.text()).collect();
        Err(Refusal::new(Code::RoleMissing).with("needs", roles.join(", ")).into())
    }

    /// Whether they are a user of the admin socket, who sees every tenant.
    pub(crate) const fn is_local(&self) -> bool {
        self.tenant.is_none()
    }

    /// Who they are to the issuer of their tokens; nobody for a user of the admin socket.
    pub(crate) fn as_person(&self) -> Option<Person> {
        Some(Person {
            tenant: self.tenant.clone()?,
            issuer: self.who.issuer.clone()?,
            subject: Arc::clone(&self.who.subject),
        })
    }

    /// Whether this is they.
    pub(crate) fn is_person(&self, person: &Person) -> bool {
        self.as_person().as_ref() == Some(person)
    }

    /// The only tenant whose things they see; `None` for every one.
    pub(crate) fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// Whether a tenant's things are theirs to see.
    pub(crate) fn sees(&self, tenant: &str) -> bool {
        self.tenant.as_deref().is_none_or(|own| own == tenant)
    }

    /// Whether the agent that asks acts for them.
    pub(crate) fn is_asked_for(&self, approval: &Approval) -> bool {
        let ask = &approval.ask;
        self.who.issuer.as_ref() == Some(&ask.issuer)
            && self.who.subject == ask.subject
            && self.sees(&ask.tenant)
    }

    /// Whether they may see a request.
    pub(crate) fn may_see(&self, approval: &Approval) -> bool {
        let by_role = self.can(Need::See) && self.sees(&approval.ask.tenant);
        by_role || self.is_asked_for(approval)
    }

    /// Whether they may answer it, as far as that is the gateway's to say; whether their answer
    /// counts is the approval's own rule.
    ///
    /// # Errors
    /// [`Code::AdminNotFound`] for what they may not even see, [`Code::RoleMissing`].
    pub(crate) fn may_answer(&self, approval: &Approval) -> Result<(), Denied> {
        if !self.may_see(approval) {
            return Err(Denied::not_found("approval"));
        }
        if self.is_asked_for(approval) { Ok(()) } else { self.may(Need::Answer) }
    }
}
