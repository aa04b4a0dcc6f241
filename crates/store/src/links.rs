//! Links: keys that people sign with and wallets that they pay from.
//!
//! INVARIANT: a key or wallet is linked to one person at a time, each challenge counts once, and
//! each change is in one transaction with its `admin` record.
//! INVARIANT: grants that rest on a key are suspended with it.

use crate::{
    attempt::pseudonym,
    brought,
    fault::Fault,
    grants::admin,
    schema::{json, to_json},
    store::Store,
    writer::Batch,
};
use countersign_core::{
    digest::Digest,
    person::{Link, LinkKind, Person},
    refusal::{Code, Refusal},
};
use rusqlite::Connection;
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

/// The most keys, and the most wallets, of one person.
const EACH_MAX: usize = 16;

/// A kind's word, and which one of it.
type Name = (&'static str, Arc<str>);

/// Those that hold, and the challenges that were ever answered.
#[derive(Debug, Default)]
pub(crate) struct Links {
    held: BTreeMap<Name, (i64, Arc<Link>)>,
    challenges: HashSet<Digest>,
    last: i64,
}

impl Links {
    fn get(&self, kind: LinkKind, id: &str) -> Option<&(i64, Arc<Link>)> {
        self.held.get(&(kind.text(), Arc::from(id)))
    }

    fn of(&self, kind: LinkKind, person: &Person) -> impl Iterator<Item = &Arc<Link>> {
        let is_theirs = move |link: &&Arc<Link>| link.kind == kind && link.person == *person;
        self.held.values().map(|(_, link)| link).filter(is_theirs)
    }

    /// Whether a wallet is linked to a person.
    pub(crate) fn pays_for(&self, wallet: &str, person: &Person) -> bool {
        let found = self.get(LinkKind::Wallet, &wallet.to_ascii_lowercase());
        found.is_some_and(|(_, link)| link.person == *person)
    }

    fn put(&mut self, n: i64, link: Link) {
        self.last = self.last.max(n);
        self.challenges.extend(link.challenge);
        let key = (link.kind.text(), Arc::clone(&link.id));
        match link.ended_at {
            None => drop(self.held.insert(key, (n, Arc::new(link)))),
            Some(_) => drop(self.held.remove(&key)),
        }
    }

    /// Reads all.
    pub(crate) fn load(conn: &Connection) -> Result<Self, Fault> {
        let mut links = Self::default();
        let mut statement = conn.prepare("SELECT n, body FROM links ORDER BY n")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            links.put(row.get(0)?, json(row.get_ref(1)?.as_str().unwrap_or(""), "link")?);
        }
        Ok(links)
    }
}

impl Store {
    /// Links a key or a wallet to a person.
    ///
    /// # Errors
    /// `AdminConflict` when it is linked already, its challenge was answered before, or the person
    /// has too many; `Overloaded`, `StoreFault`.
    pub async fn link_add(&self, link: Link) -> Result<Arc<Link>, Refusal> {
        self.enter(move |batch| add(batch, link)).await?
    }

    /// Ends a link. Grants that a key signed are suspended.
    ///
    /// # Errors
    /// `AdminNotFound` when there is none; `Overloaded`, `StoreFault`.
    pub async fn link_end(&self, kind: LinkKind, id: &str, by: &str) -> Result<Arc<Link>, Refusal> {
        let (id, by) = (id.to_owned(), by.to_owned());
        self.enter(move |batch| end(batch, kind, &id, &by)).await?
    }

    /// A link that holds.
    #[must_use]
    pub fn link(&self, kind: LinkKind, id: &str) -> Option<Arc<Link>> {
        self.shared().state().links.get(kind, id).map(|(_, link)| Arc::clone(link))
    }

    /// The links that hold.
    #[must_use]
    pub fn links(&self, kind: LinkKind) -> Vec<Arc<Link>> {
        let state = self.shared().state();
        let held = state.links.held.values().map(|(_, link)| link);
        held.filter(|link| link.kind == kind).cloned().collect()
    }

    /// Those of one person.
    #[must_use]
    pub fn links_of(&self, kind: LinkKind, person: &Person) -> Vec<Arc<Link>> {
        self.shared().state().links.of(kind, person).cloned().collect()
    }
}

fn add(batch: &mut Batch<'_>, link: Link) -> Result<Result<Arc<Link>, Refusal>, Fault> {
    let state = batch.state();
    let links = &state.links;
    let against = if links.get(link.kind, &link.id).is_some() {
        Some("it is linked already")
    } else if link.challenge.is_some_and(|challenge| links.challenges.contains(&challenge)) {
        Some("the challenge was answered before")
    } else if links.of(link.kind, &link.person).count() >= EACH_MAX {
        Some("the person has too many: end one first")
    } else {
        None
    };
    let n = links.last.saturating_add(1);
    drop(state);
    if let Some(reason) = against {
        return Ok(Err(Refusal::new(Code::AdminConflict).with("reason", reason)));
    }
    let link = Link { at: batch.now, ..link };
    batch.conn.prepare_cached("INSERT INTO links VALUES (?, ?)")?.execute((n, to_json(&link)?))?;
    note(batch, &link, "link", &link.by)?;
    let added = Arc::new(link.clone());
    batch.state().links.put(n, link);
    Ok(Ok(added))
}

fn end(
    batch: &mut Batch<'_>,
    kind: LinkKind,
    id: &str,
    by: &str,
) -> Result<Result<Arc<Link>, Refusal>, Fault> {
    let found = batch.state().links.get(kind, id).cloned();
    let Some((n, found)) = found else {
        return Ok(Err(Refusal::new(Code::AdminNotFound).with("what", kind.text())));
    };
    let link = Link { ended_at: Some(batch.now), ..Link::clone(&found) };
    batch
        .conn
        .prepare_cached("UPDATE links SET body = ? WHERE n = ?")?
        .execute((to_json(&link)?, n))?;
    note(batch, &link, "unlink", by)?;
    if kind == LinkKind::Key {
        brought::suspend_signed(batch, id, by)?;
    }
    let ended = Arc::new(link.clone());
    batch.state().links.put(n, link);
    Ok(Ok(ended))
}

/// The record names person and wallet by pseudonym, a key by its thumbprint.
fn note(batch: &mut Batch<'_>, link: &Link, action: &str, by: &str) -> Result<(), Fault> {
    let hidden = |text: &str| pseudonym(&batch.shared().pseudonym_key, text).to_hex();
    let subject = match link.kind {
        LinkKind::Key => link.id.to_string(),
        LinkKind::Wallet => hidden(&link.id),
    };
    let details = [("subject", subject), ("person", hidden(&link.person.to_string()))];
    admin(batch, &link.person.tenant, &format!("{}.{action}", link.kind.text()), by, &details)
}
