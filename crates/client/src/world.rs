//! The system's clock and randomness. The only place that reads either.

use countersign_core::{time::UnixMs, world::World};
use std::{
    cell::RefCell,
    time::{SystemTime, UNIX_EPOCH},
};

/// The real world.
#[must_use]
pub fn system() -> World {
    World::new(now, fill)
}

#[allow(clippy::disallowed_methods, reason = "the one Clock value reads the clock here")]
fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Drawn at once: for the generator, a draw of 16 bytes costs nearly what one of 512 does, and a
/// call needs several of the small kind.
const AHEAD: usize = 512;

/// What a thread has drawn and not given away; what it gave away is wiped.
struct Pool {
    bytes: [u8; AHEAD],
    left: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; AHEAD], left: 0 }) };
}

fn fill(bytes: &mut [u8]) {
    if bytes.len() > AHEAD {
        return draw(bytes);
    }
    POOL.with_borrow_mut(|pool| pool.take(bytes));
}

impl Pool {
    fn take(&mut self, out: &mut [u8]) {
        if self.left < out.len() {
            draw(&mut self.bytes);
            self.left = AHEAD;
        }
        let unused = self.bytes.get_mut(..self.left).unwrap_or_default();
        let (_, last) = unused.split_at_mut(unused.len().saturating_sub(out.len()));
        out.copy_from_slice(last);
        last.fill(0);
        self.left = self.left.saturating_sub(out.len());
    }
}

/// A process without randomness cannot make keys, nonces or identifiers: it must not go on.
#[allow(clippy::panic, reason = "no safe way to continue without entropy")]
fn draw(bytes: &mut [u8]) {
    if aws_lc_rs::rand::fill(bytes).is_err() {
        panic!("the operating system gives no randomness");
    }
}

#[cfg(test)]
mod tests {
    use super::{AHEAD, Pool, fill};

    #[test]
    fn no_byte_is_given_twice_and_what_was_given_is_wiped() {
        let mut pool = Pool { bytes: [0; AHEAD], left: 0 };
        let mut first = [0; 16];
        pool.take(&mut first);
        let drawn = pool.bytes;
        assert_eq!(drawn[AHEAD - 16..], [0; 16]);
        let mut given = Vec::new();
        for _ in 0..31 {
            let mut bytes = [0; 16];
            pool.take(&mut bytes);
            given.push(bytes);
        }
        assert_eq!((pool.left, pool.bytes), (0, [0; AHEAD]));
        given.reverse();
        assert_eq!(given.concat(), drawn[..AHEAD - 16]);
        given.push(first);
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 32);
    }

    #[test]
    fn sizes_that_do_not_fit_together_are_drawn_anew() {
        let mut pool = Pool { bytes: [0; AHEAD], left: 0 };
        let (mut some, mut more) = ([0; 500], [0; 32]);
        pool.take(&mut some);
        pool.take(&mut more);
        assert_eq!(pool.left, AHEAD - 32);
        assert_ne!(more, [0; 32]);
        let mut large = [0; AHEAD + 1];
        fill(&mut large);
        assert_ne!(large[AHEAD - 7..], [0; 8]);
    }
}
