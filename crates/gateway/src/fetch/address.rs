//! Which addresses are public, private, or nobody's to call; and which host names are plain.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an address reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The Internet.
    Public,
    /// This machine or a private network.
    Private,
    /// Link local (cloud metadata), multicast, unspecified, reserved.
    Never,
}

/// How far `address` reaches; IPv4 inside IPv6 counts as what it is.
pub(super) fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => {
            Reach::Private
        }
        [0, ..]
        | [169, 254, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [224..=255, ..] => Reach::Never,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return reach_v4(mapped);
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Private,
        // NAT64 carries an IPv4 address.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            reach_v4(Ipv4Addr::new(a, b, c, d))
        }
        // The one address in this range that clouds answer metadata requests on.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Reach::Never,
        [0xfc00..=0xfdff, ..] => Reach::Private,
        // Teredo and other protocol assignments, documentation, 6to4.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, ..] => Reach::Never,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Never,
    }
}

/// Whether a URL's host is a canonical IP address or a DNS name. Forms that only a resolver takes
/// for an address (`0177.0.0.1`, `127.1`, `0x7f000001`) are neither.
pub(super) fn is_plain_host(host: &str) -> bool {
    if let Some(v6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return v6.parse::<Ipv6Addr>().is_ok();
    }
    if host.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let last = name.rsplit('.').next().unwrap_or("");
    let is_number = last.bytes().all(|b| b.is_ascii_digit())
        || last.strip_prefix("0x").or(last.strip_prefix("0X")).is_some();
    name.len() <= 253 && name.split('.').all(is_label) && !is_number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reaches() {
        let cases = [
            (Reach::Public, "1.1.1.1 93.184.215.14 2606:4700::1111 64:ff9b::101:101"),
            (Reach::Private, "127.0.0.1 127.9.9.9 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1"),
            (Reach::Private, "100.64.0.1 ::1 fd12::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1"),
            (Reach::Private, "64:ff9b::a00:1"),
            (Reach::Never, "0.0.0.0 169.254.169.254 ::ffff:169.254.169.254 224.0.0.1"),
            (Reach::Never, "255.255.255.255 240.0.0.1 198.18.0.1 192.0.2.1 203.0.113.9"),
            (Reach::Never, ":: fe80::1 ff02::1 fd00:ec2::254 2001:db8::1 2002:7f00:1::"),
            (Reach::Never, "64:ff9b::a9fe:a9fe ::127.0.0.1 2001:0:1::1 fec0::1"),
        ];
        for (expected, addresses) in cases {
            for address in addresses.split(' ') {
                assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
            }
        }
    }
}
