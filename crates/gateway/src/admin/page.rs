//! Lists in pages: `limit`, and a cursor that says after which item to go on.
//!
//! INVARIANT: a cursor holds the last item's own key, not a count, so what comes or goes between
//! two pages makes no other item appear twice or not at all.
//! INVARIANT: a cursor goes on with the very list it came from, its filters included; what it may
//! show is decided on each request.

use super::{ask::strict_query, denied::Denied, form::Items};
use axum::extract::FromRequestParts;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_core::digest::Digest;
use http::request::Parts;
use serde::{Deserialize, de::DeserializeOwned};
use std::cmp::Ordering;

/// The most items of a page.
pub(crate) const LIMIT_MAX: u32 = 1000;
/// Items of a page when nothing is said.
pub(super) const LIMIT: u32 = 100;
/// Bytes of a list's name in a cursor.
const NAME_BYTES: usize = 8;

/// Which part of a list.
#[derive(Debug)]
pub(super) struct Page {
    limit: u32,
    after: Option<String>,
    name: [u8; NAME_BYTES],
}

/// In which order a list goes, by its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// From the first on.
    Rising,
    /// The newest first.
    Falling,
}

impl Order {
    fn of(self, one: &str, other: &str) -> Ordering {
        match self {
            Self::Rising => one.cmp(other),
            Self::Falling => other.cmp(one),
        }
    }
}

impl Page {
    /// The most items that are wanted.
    pub(super) const fn limit(&self) -> u32 {
        self.limit
    }

    /// The key to go on after.
    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// This part of all there is; keys are unique.
    pub(super) fn cut<S, T>(
        &self,
        order: Order,
        all: impl IntoIterator<Item = (String, S)>,
        view: impl Fn(S) -> T,
    ) -> Items<T> {
        let after = self.after();
        let is_due = |key: &str| after.is_none_or(|after| order.of(after, key).is_lt());
        let mut due: Vec<(String, S)> = all.into_iter().filter(|(key, _)| is_due(key)).collect();
        due.sort_by(|(one, _), (other, _)| order.of(one, other));
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_more = due.len() > limit;
        due.truncate(limit);
        let next = due.last().filter(|_| has_more).map(|(key, _)| self.cursor(key));
        Items { items: due.into_iter().map(|(_, item)| view(item)).collect(), next }
    }

    /// The cursor that goes on after a key.
    pub(super) fn cursor(&self, key: &str) -> String {
        URL_SAFE_NO_PAD.encode([&self.name, key.as_bytes()].concat())
    }
}

/// The members of a list's query that every list has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    limit: Option<u32>,
    cursor: Option<String>,
}

impl Page {
    /// The part of the list of this name that is asked for.
    ///
    /// # Errors
    /// A limit out of its bounds, or a cursor that another list gave.
    pub(super) fn of(
        name: &str,
        limit: Option<u32>,
        cursor: Option<String>,
    ) -> Result<Self, Denied> {
        let name = Digest::of(name.as_bytes());
        let name = name.as_bytes().first_chunk().copied().unwrap_or_default();
        let limit = limit.unwrap_or(LIMIT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Denied::invalid("limit", "expected 1 to 1000"));
        }
        let read = |cursor: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
            let (of, key) = bytes.split_at_checked(NAME_BYTES)?;
            (*of == name).then(|| String::from_utf8(key.to_vec()).ok())?
        };
        let after = cursor.map(|cursor| {
            let key = read(&cursor);
            key.ok_or_else(|| Denied::invalid("cursor", "it is not one that this list gave"))
        });
        Ok(Self { limit, after: after.transpose()?, name })
    }
}

/// What a list is asked: its own filters, and which part of it.
#[derive(Debug)]
pub(super) struct Listed<F>(pub(super) F, pub(super) Page);

impl<S: Send + Sync, F: DeserializeOwned> FromRequestParts<S> for Listed<F> {
    type Rejection = Denied;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Denied> {
        let query = parts.uri.query().unwrap_or_default();
        let of_page = |part: &&str| matches!(part.split('=').next(), Some("limit" | "cursor"));
        let (page, filter): (Vec<&str>, Vec<&str>) =
            query.split('&').filter(|part| !part.is_empty()).partition(of_page);
        let filter = filter.join("&");
        let name = format!("{}?{filter}", parts.uri.path());
        let page: Asked = strict_query(&page.join("&"))?;
        let page = Page::of(&name, page.limit, page.cursor)?;
        Ok(Self(strict_query(&filter)?, page))
    }
}

/// No filter.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Unfiltered {}

#[cfg(test)]
mod tests {
    use super::*;

    async fn listed(uri: &str) -> Result<Page, Denied> {
        let (mut parts, ()) = http::Request::get(uri).body(()).unwrap().into_parts();
        let Listed(Unfiltered {}, page) = Listed::from_request_parts(&mut parts, &()).await?;
        Ok(page)
    }

    fn cut(page: &Page, order: Order, all: &[&str]) -> Items<String> {
        page.cut(order, all.iter().map(|key| ((*key).to_owned(), *key)), str::to_owned)
    }

    #[tokio::test]
    async fn pages_join_to_the_whole_whatever_comes_and_goes() {
        for (order, all) in [
            (Order::Rising, ["a", "b", "c", "d", "e"]),
            (Order::Falling, ["e", "d", "c", "b", "a"]),
        ] {
            let first = cut(&listed("/v1/x?limit=2").await.unwrap(), order, &all);
            assert_eq!(first.items, &all[..2]);
            let cursor = first.next.unwrap();
            let page = listed(&format!("/v1/x?cursor={cursor}&limit=2")).await.unwrap();
            assert_eq!(cut(&page, order, &all).items, &all[2..4]);
            // The item that the cursor names is gone, and one came before it.
            let changed = ["0", all[0], all[2], all[3], all[4]];
            let page = listed(&format!("/v1/x?cursor={cursor}")).await.unwrap();
            let rest = cut(&page, order, &changed);
            let expected: &[&str] =
                if order == Order::Rising { &all[2..] } else { &["c", "b", "a", "0"] };
            assert_eq!(
                (&*rest.items, rest.next),
                (&*expected.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), None)
            );
        }
    }

    #[tokio::test]
    async fn cursors_and_limits_that_are_none_are_refused() {
        let cursor = listed("/v1/x?limit=2").await.unwrap().cursor("b");
        assert!(listed(&format!("/v1/x?cursor={cursor}")).await.is_ok());
        for uri in [
            format!("/v1/y?cursor={cursor}"),
            "/v1/x?cursor=".to_owned(),
            "/v1/x?cursor=AAAA".to_owned(),
            "/v1/x?cursor=%00".to_owned(),
            "/v1/x?limit=0".to_owned(),
            "/v1/x?limit=1001".to_owned(),
            "/v1/x?limit=-1".to_owned(),
            "/v1/x?limit=".to_owned(),
            "/v1/x?limit=1&limit=2".to_owned(),
            "/v1/x?other=1".to_owned(),
        ] {
            assert!(listed(&uri).await.is_err(), "{uri}");
        }
    }
}
