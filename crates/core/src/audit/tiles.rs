//! C2SP tlog-tiles (<https://c2sp.org/tlog-tiles>): names and contents of the published files.
//!
//! A hash tile at level `L` holds up to 256 consecutive nodes of tree level `8·L`; an entry
//! bundle holds the leaves under one tile of level 0. Both are pure byte formats here: reading
//! and writing files is the caller's.

use super::merkle::node_hash;
use crate::digest::Digest;
use std::fmt;

/// Tree levels that one tile spans.
pub const TILE_HEIGHT: u8 = 8;

/// Hashes in a full tile, leaves in a full bundle.
pub const TILE_WIDTH: u16 = 256;

/// Where the checkpoint lies beside the tiles.
pub const CHECKPOINT_PATH: &str = "checkpoint";

/// What a published file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TileKind {
    /// The leaves themselves.
    Entries,
    /// Hashes of nodes at tree level `8·level`.
    Hashes {
        /// Tile level, 0 to 63.
        level: u8,
    },
}

/// One published file of the log: `tile/<L>/<N>[.p/<W>]` or `tile/entries/<N>[.p/<W>]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    kind: TileKind,
    index: u64,
    width: u16,
}

/// Why a path or the content of a tile is not what tlog-tiles prescribes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TileError {
    /// Not the name of a tile or bundle.
    Path,
    /// The content has another number of hashes or leaves than the name says.
    Width,
    /// A leaf is longer than a bundle can carry.
    LeafTooLong,
}

impl fmt::Display for TileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Path => "not the name of a tile",
            Self::Width => "the content does not have the tile's width",
            Self::LeafTooLong => "a leaf is too long for an entry bundle",
        })
    }
}

impl std::error::Error for TileError {}

impl Tile {
    /// The tile of this kind and index in a tree of `size` leaves, as wide as that tree makes
    /// it; `None` where it would be empty.
    #[must_use]
    pub fn in_tree(kind: TileKind, index: u64, size: u64) -> Option<Self> {
        let first = index.checked_mul(u64::from(TILE_WIDTH))?;
        let present = nodes_at(kind, size).checked_sub(first)?.min(u64::from(TILE_WIDTH));
        let width = u16::try_from(present).ok().filter(|width| *width > 0)?;
        Some(Self { kind, index, width })
    }

    /// The hash tile from which the tree node (`level`, `index`) follows, in a tree of `size`
    /// leaves; `None` where the node is not complete.
    #[must_use]
    pub fn holding_node(level: u8, index: u64, size: u64) -> Option<Self> {
        let kind = TileKind::Hashes { level: level / TILE_HEIGHT };
        let height = level % TILE_HEIGHT;
        let tile = Self::in_tree(kind, index >> (TILE_HEIGHT - height), size)?;
        let end = index.checked_add(1)?.checked_mul(1 << height)?;
        (end <= tile.first_node().checked_add(u64::from(tile.width))?).then_some(tile)
    }

    /// What the file holds.
    #[must_use]
    pub const fn kind(&self) -> TileKind {
        self.kind
    }

    /// Index within its kind and level.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// Hashes or leaves in it, 1 to 256.
    #[must_use]
    pub const fn width(&self) -> u16 {
        self.width
    }

    /// Index, within its tree level, of the first node (or leaf) it holds. The tree level is
    /// `8·level`, or 0 for leaves.
    #[must_use]
    pub fn first_node(&self) -> u64 {
        self.index.saturating_mul(u64::from(TILE_WIDTH))
    }

    /// The full tile that replaces this one when the tree has grown.
    #[must_use]
    pub const fn full(self) -> Self {
        Self { width: TILE_WIDTH, ..self }
    }

    /// Its path below the log's prefix: `tile/0/x001/x234/067.p/5`.
    #[must_use]
    pub fn path(&self) -> String {
        let mut path = match self.kind {
            TileKind::Entries => "tile/entries/".to_owned(),
            TileKind::Hashes { level } => format!("tile/{level}/"),
        };
        path.push_str(&index_path(self.index));
        if self.width < TILE_WIDTH {
            path.push_str(&format!(".p/{}", self.width));
        }
        path
    }

    /// Reads a path back; accepts exactly what [`Tile::path`] writes.
    ///
    /// # Errors
    /// [`TileError::Path`].
    pub fn parse(path: &str) -> Result<Self, TileError> {
        let rest = path.strip_prefix("tile/").ok_or(TileError::Path)?;
        let (kind, rest) = rest.split_once('/').ok_or(TileError::Path)?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => TileKind::Hashes { level: number(level).ok_or(TileError::Path)? },
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, number(width).ok_or(TileError::Path)?),
            None => (rest, TILE_WIDTH),
        };
        let index: String = index.chars().filter(char::is_ascii_digit).collect();
        let index = number(index.trim_start_matches('0')).unwrap_or(0);
        let tile = Self { kind, index, width };
        let valid_level = !matches!(kind, TileKind::Hashes { level: 64.. });
        let exact = (1..=TILE_WIDTH).contains(&width) && valid_level && tile.path() == path;
        exact.then_some(tile).ok_or(TileError::Path)
    }
}

/// The files that a tree of `new` leaves has and one of `old` leaves does not: what to write
/// before a checkpoint of size `new` is published. Entry bundles come first, then hash tiles
/// from the lowest level up.
#[must_use]
pub fn tiles_between(old: u64, new: u64) -> Vec<Tile> {
    let levels = (0..TILE_HEIGHT).map(|level| TileKind::Hashes { level });
    let kinds = std::iter::once(TileKind::Entries).chain(levels);
    let mut tiles = Vec::new();
    for kind in kinds {
        let (before, after) = (nodes_at(kind, old), nodes_at(kind, new));
        if after <= before {
            continue;
        }
        let width = u64::from(TILE_WIDTH);
        let indices = before / width..after.div_ceil(width);
        tiles.extend(indices.filter_map(|index| Tile::in_tree(kind, index, new)));
    }
    tiles
}

/// The content of a hash tile.
#[must_use]
pub fn encode_hashes(hashes: &[Digest]) -> Vec<u8> {
    hashes.iter().flat_map(Digest::as_bytes).copied().collect()
}

/// Reads a hash tile of exactly `width` hashes.
///
/// # Errors
/// [`TileError::Width`].
pub fn decode_hashes(bytes: &[u8], width: u16) -> Result<Vec<Digest>, TileError> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if hashes.len() != usize::from(width) || !rest.is_empty() {
        return Err(TileError::Width);
    }
    Ok(hashes.iter().map(|bytes| Digest::from_bytes(*bytes)).collect())
}

/// The content of an entry bundle: each leaf behind its length as a big-endian `u16`.
///
/// # Errors
/// [`TileError::LeafTooLong`] beyond 65,535 bytes; [`TileError::Width`] for more than 256 leaves.
pub fn encode_entries<'a>(
    leaves: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, TileError> {
    let leaves = leaves.into_iter();
    // A record takes about so much.
    let mut bytes = Vec::with_capacity(leaves.size_hint().0.saturating_mul(1024));
    for (count, leaf) in leaves.enumerate() {
        if count >= usize::from(TILE_WIDTH) {
            return Err(TileError::Width);
        }
        let length = u16::try_from(leaf.len()).map_err(|_| TileError::LeafTooLong)?;
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(leaf);
    }
    Ok(bytes)
}

/// Reads an entry bundle of exactly `width` leaves.
///
/// # Errors
/// [`TileError::Width`]: fewer or more leaves, or bytes cut short.
pub fn decode_entries(mut bytes: &[u8], width: u16) -> Result<Vec<&[u8]>, TileError> {
    let mut leaves = Vec::new();
    for _ in 0..width {
        let (length, rest) = bytes.split_first_chunk().ok_or(TileError::Width)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (leaf, rest) = rest.split_at_checked(length).ok_or(TileError::Width)?;
        leaves.push(leaf);
        bytes = rest;
    }
    if bytes.is_empty() { Ok(leaves) } else { Err(TileError::Width) }
}

/// The tree node (`level`, `index`) computed from the hashes of the tile that holds it
/// ([`Tile::holding_node`]); `None` where the tile is too narrow.
#[must_use]
pub fn node_from_tile(level: u8, index: u64, hashes: &[Digest]) -> Option<Digest> {
    let span = 1usize << (level % TILE_HEIGHT);
    let position = index % (u64::from(TILE_WIDTH) >> (level % TILE_HEIGHT));
    let start = usize::try_from(position).ok()?.checked_mul(span)?;
    let mut row = hashes.get(start..start.checked_add(span)?)?.to_vec();
    while row.len() > 1 {
        let (pairs, _) = row.as_chunks::<2>();
        row = pairs.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    row.first().copied()
}

/// Complete nodes at the kind's tree level in a tree of `size` leaves.
fn nodes_at(kind: TileKind, size: u64) -> u64 {
    match kind {
        TileKind::Entries => size,
        TileKind::Hashes { level } => {
            size.checked_shr(u32::from(TILE_HEIGHT) * u32::from(level)).unwrap_or(0)
        }
    }
}

/// `1234067` as `x001/x234/067`.
fn index_path(index: u64) -> String {
    let mut path = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    path
}

/// A decimal without sign or surplus zeros.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::merkle::{Frontier, leaf_hash};
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn paths_of_the_specification() {
        let tile = |kind, index, width| Tile { kind, index, width };
        let hashes = |level| TileKind::Hashes { level };
        for (tile, path) in [
            (tile(hashes(0), 1_234_067, 256), "tile/0/x001/x234/067"),
            (tile(hashes(3), 0, 1), "tile/3/000.p/1"),
            (tile(hashes(63), 999, 256), "tile/63/999"),
            (tile(TileKind::Entries, 1_000, 255), "tile/entries/x001/000.p/255"),
            (
                tile(TileKind::Entries, u64::MAX, 256),
                "tile/entries/x018/x446/x744/x073/x709/x551/615",
            ),
        ] {
            assert_eq!(tile.path(), path);
            assert_eq!(Tile::parse(path), Ok(tile));
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for path in [
            "",
            "tile",
            "tile/0",
            "tile/0/",
            "tile/00/000",
            "tile/64/000",
            "tile/-1/000",
            "tile/0/0",
            "tile/0/00",
            "tile/0/0000",
            "tile/0/x000/000",
            "tile/0/001/000",
            "tile/0/x001/x000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p/",
            "/tile/0/000",
            "tile/0/000/",
            "tile/0/../000",
            "tile/data/000",
            "tile/entries/x018/x446/x744/x073/x709/x551/616",
            "tile/0/000.p/1.p/1",
        ] {
            assert_eq!(Tile::parse(path), Err(TileError::Path), "{path}");
        }
    }

    #[test]
    fn tiles_of_the_specification_s_example_trees() {
        // A tree of 70,000: 273 full tiles and one of 112; one full and one of 17; one of 1.
        let tiles = tiles_between(0, 70_000);
        let count = |kind| tiles.iter().filter(|tile| tile.kind == kind).count();
        assert_eq!(count(TileKind::Entries), 274);
        assert_eq!(count(TileKind::Hashes { level: 0 }), 274);
        assert_eq!(count(TileKind::Hashes { level: 1 }), 2);
        let names: Vec<_> = tiles.iter().map(Tile::path).collect();
        for name in ["tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"] {
            assert!(names.contains(&name.to_owned()), "{name}");
        }
        let paths: Vec<_> = tiles_between(255, 256).iter().map(Tile::path).collect();
        assert_eq!(paths, ["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]);
        assert_eq!(tiles_between(256, 256), []);
        let paths: Vec<_> = tiles_between(256, 257).iter().map(Tile::path).collect();
        assert_eq!(paths, ["tile/entries/001.p/1", "tile/0/001.p/1"]);
    }

    #[test]
    fn nodes_follow_from_tiles() {
        let size = 70_001;
        let (mut frontier, mut nodes) = (Frontier::new(), HashMap::new());
        for i in 0..size {
            frontier.append(leaf_hash(&u64::to_be_bytes(i)), |n| {
                nodes.insert((n.level, n.index), n.hash);
            });
        }
        let hashes_of = |tile: Tile| -> Vec<Digest> {
            let TileKind::Hashes { level } = tile.kind() else { panic!("a hash tile") };
            let end = tile.first_node() + u64::from(tile.width());
            (tile.first_node()..end).map(|i| nodes[&(level * TILE_HEIGHT, i)]).collect()
        };
        for (&(level, index), hash) in &nodes {
            if level < 6 && index % 97 != 0 {
                continue;
            }
            let tile = Tile::holding_node(level, index, size).unwrap();
            assert_eq!(node_from_tile(level, index, &hashes_of(tile)), Some(*hash));
        }
        assert_eq!(Tile::holding_node(1, 35_000, size), None, "not complete");
        assert_eq!(Tile::holding_node(0, size, size), None);
    }

    #[test]
    fn bundles_are_exact() {
        let bundle = encode_entries([&b""[..], b"ab"]).unwrap();
        assert_eq!(bundle, [0, 0, 0, 2, b'a', b'b']);
        assert_eq!(decode_entries(&bundle, 2), Ok(vec![&b""[..], b"ab"]));
        assert_eq!(decode_entries(&bundle, 1), Err(TileError::Width));
        assert_eq!(decode_entries(&bundle, 3), Err(TileError::Width));
        for cut in 0..bundle.len() {
            assert_eq!(decode_entries(&bundle[..cut], 2), Err(TileError::Width));
        }
        assert_eq!(encode_entries([&[0u8; 65_536][..]]), Err(TileError::LeafTooLong));
        assert_eq!(encode_entries([&b"a"[..]; 257]), Err(TileError::Width));
        let hashes = vec![Digest::of(b"a"), Digest::of(b"b")];
        assert_eq!(decode_hashes(&encode_hashes(&hashes), 2), Ok(hashes));
        assert_eq!(decode_hashes(&[0; 63], 2), Err(TileError::Width));
        assert_eq!(decode_hashes(&[0; 65], 2), Err(TileError::Width));
    }

    proptest! {
        #[test]
        fn paths_round_trip(level in 0u8..64, index in any::<u64>(), width in 1u16..=256) {
            for kind in [TileKind::Entries, TileKind::Hashes { level }] {
                let tile = Tile { kind, index, width };
                prop_assert_eq!(Tile::parse(&tile.path()), Ok(tile));
            }
        }

        #[test]
        fn parsing_anything_never_panics(path in "tile/[0-9a-z/.x]{0,30}", bytes: Vec<u8>) {
            if let Ok(tile) = Tile::parse(&path) {
                prop_assert_eq!(tile.path(), path);
            }
            let _ = decode_entries(&bytes, 3);
        }

        #[test]
        fn bundles_round_trip(leaves: Vec<Vec<u8>>) {
            let bundle = encode_entries(leaves.iter().map(Vec::as_slice)).unwrap();
            let width = u16::try_from(leaves.len()).unwrap();
            prop_assert_eq!(decode_entries(&bundle, width).unwrap(), leaves);
        }
    }
}
