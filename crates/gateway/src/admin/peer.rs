//! Who is at the other end of a connection, by the kernel's word.

use std::{fmt, fs, io::Read as _, sync::Arc};
use tokio::net::UnixStream;

/// The longest list of users that is read.
const PASSWD_BYTES_MAX: u64 = 1 << 20;

/// The verified user of a connection: `os:1000:ada`. It is recorded with what they decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Approver(Arc<str>);

impl Approver {
    /// The connection's user, if they are the socket's owner or root.
    pub(super) fn of(stream: &UnixStream, owner: u32) -> Option<Self> {
        let uid = stream.peer_cred().ok()?.uid();
        (uid == owner || uid == 0).then(|| Self::named(uid, &users()))
    }

    fn named(uid: u32, users: &str) -> Self {
        let name = name_of(uid, users).unwrap_or("?");
        Self(format!("os:{uid}:{name}").into())
    }

    /// The text that is recorded.
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Approver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The local list of users; empty where there is none.
fn users() -> String {
    let mut text = String::new();
    let read = fs::File::open("/etc/passwd")
        .and_then(|file| file.take(PASSWD_BYTES_MAX).read_to_string(&mut text));
    if read.is_err() {
        text.clear();
    }
    text
}

/// The first name with this number.
fn name_of(uid: u32, users: &str) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_named_by_their_number() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(Approver::named(1000, users).text(), "os:1000:ada");
        assert_eq!(Approver::named(0, users).text(), "os:0:root");
        assert_eq!(Approver::named(7, users).text(), "os:7:?");
    }
}
