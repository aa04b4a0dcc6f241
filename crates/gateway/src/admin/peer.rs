//! Who is at the other end of a connection, by the kernel's word.

use std::{fs, io::Read as _};
use tokio::net::UnixStream;

/// The longest list of users that is read.
const PASSWD_BYTES_MAX: u64 = 1 << 20;

/// The connection's user, if they are the socket's owner or root: `os:1000:ada`.
pub(super) fn user_of(stream: &UnixStream, owner: u32) -> Option<String> {
    let uid = stream.peer_cred().ok()?.uid();
    (uid == owner || uid == 0).then(|| named(uid, &users()))
}

fn named(uid: u32, users: &str) -> String {
    format!("os:{uid}:{}", name_of(uid, users).unwrap_or("?"))
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
        assert_eq!(named(1000, users), "os:1000:ada");
        assert_eq!(named(0, users), "os:0:root");
        assert_eq!(named(7, users), "os:7:?");
    }
}
