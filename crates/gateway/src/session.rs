//! Sessions of the legacy era: our session id outside, the upstream's inside.
//!
//! INVARIANT: a session belongs to one principal of one server; anybody else finds nothing. It
//! lives with the way to its server: behind another address nobody knows it.
//! The `initialize` message is kept, so that a session the upstream has forgotten is renewed
//! unseen. Bounded: the longest idle one makes room.

use countersign_core::{digest::Digest, time::UnixMs, world::World};
use http::HeaderValue;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// One session.
#[derive(Debug)]
pub struct Session {
    /// Its owner.
    pub principal: Digest,
    /// The client's `initialize` message.
    pub initialize: bytes::Bytes,
    /// The upstream's session id now.
    upstream: Mutex<HeaderValue>,
    /// Held while a renewal runs, so that one is made at a time.
    pub renewing: tokio::sync::Mutex<()>,
}

impl Session {
    /// The upstream's session id.
    #[must_use]
    pub fn upstream(&self) -> HeaderValue {
        self.upstream.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// After a renewal.
    pub fn renew(&self, upstream: HeaderValue) {
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }
}

/// The most sessions of one principal; its own longest idle one makes room.
const EACH_MOST: usize = 256;

/// The open sessions of one server.
#[derive(Debug)]
pub struct Sessions {
    world: World,
    most: usize,
    open: Mutex<HashMap<String, (UnixMs, Arc<Session>)>>,
}

impl Sessions {
    /// No sessions yet, at most `most`.
    #[must_use]
    pub fn new(world: World, most: usize) -> Self {
        Self { world, most, open: Mutex::default() }
    }

    /// Opens one; returns our id for it.
    pub fn open(
        &self,
        principal: Digest,
        initialize: bytes::Bytes,
        upstream: HeaderValue,
    ) -> String {
        let id = hex::encode(self.world.random::<16>());
        self.open_as(id.clone(), principal, (initialize, upstream));
        id
    }

    /// Opens one under an id, in place of any other of that id.
    pub fn open_as(
        &self,
        id: String,
        principal: Digest,
        (initialize, upstream): (bytes::Bytes, HeaderValue),
    ) -> Arc<Session> {
        let session = Arc::new(Session {
            principal,
            initialize,
            upstream: Mutex::new(upstream),
            renewing: tokio::sync::Mutex::default(),
        });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.values().filter(|(_, open)| open.principal == principal).count();
        if open.len() >= self.most || own >= EACH_MOST {
            let is_own = |s: &Session| own < EACH_MOST || s.principal == principal;
            let idle = open.iter().filter(|(_, (_, s))| is_own(s)).min_by_key(|(_, (at, _))| *at);
            let idle = idle.map(|(id, _)| id.clone());
            idle.and_then(|id| open.remove(&id));
        }
        open.insert(id, (self.world.now(), Arc::clone(&session)));
        session
    }

    /// The `initialize` that began a session: what its client can do. Nothing is granted by it.
    #[must_use]
    pub fn initialize_of(&self, id: &str) -> Option<bytes::Bytes> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.get(id).map(|(_, session)| session.initialize.clone())
    }

    /// The owner's session of this id.
    #[must_use]
    pub fn find(&self, id: &str, principal: Digest) -> Option<Arc<Session>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, session) = open.get_mut(id)?;
        if session.principal != principal {
            return None;
        }
        *at = self.world.now();
        Some(Arc::clone(session))
    }

    /// Forgets it.
    pub fn close(&self, id: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}
