//! The Merkle tree of RFC 6962 §2.1: hashes, appending, and proofs.
//!
//! Nodes are named by level (0 = leaves) and index within the level; only *complete* subtrees
//! have a name, so a stored node never changes. Storage is the caller's: appending reports the
//! nodes that became complete, and proofs read them back through a function.

use crate::digest::Digest;
use sha2::{Digest as _, Sha256};
use std::fmt;

/// Why a proof cannot be made, or does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MerkleError {
    /// The index or size lies outside the tree.
    OutOfRange,
    /// The store does not have this complete node.
    MissingNode {
        /// Level of the node; 0 is a leaf hash.
        level: u8,
        /// Index of the node within its level.
        index: u64,
    },
    /// The proof has too few or too many hashes for these sizes.
    WrongLength,
    /// The proof leads to another root than the expected one.
    RootMismatch,
}

impl fmt::Display for MerkleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange => f.write_str("the index or size lies outside the tree"),
            Self::MissingNode { level, index } => {
                write!(f, "the tree node at level {level}, index {index} is missing")
            }
            Self::WrongLength => f.write_str("the proof has the wrong number of hashes"),
            Self::RootMismatch => f.write_str("the proof leads to another root"),
        }
    }
}

impl std::error::Error for MerkleError {}

/// The hash of a leaf: SHA-256(0x00 ‖ leaf) (RFC 6962 §2.1).
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    hasher.update(leaf);
    Digest::from_bytes(hasher.finalize().into())
}

/// The hash of an inner node: SHA-256(0x01 ‖ left ‖ right) (RFC 6962 §2.1).
#[must_use]
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update([1]);
    hasher.update(left.as_bytes());
    hasher.update(right.as_bytes());
    Digest::from_bytes(hasher.finalize().into())
}

/// The root of the tree without leaves: SHA-256 of nothing (RFC 6962 §2.1).
#[must_use]
pub fn empty_root() -> Digest {
    Digest::of(&[])
}

/// A complete node of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// 0 for a leaf hash; a node at level `l` covers `2^l` leaves.
    pub level: u8,
    /// Index within the level.
    pub index: u64,
    /// The node's hash.
    pub hash: Digest,
}

/// The right edge of a growing tree: the roots of its maximal complete subtrees, largest first.
///
/// O(log n) memory; an append costs amortised two hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    // INVARIANT: one peak for each one-bit of `size`.
    peaks: Vec<Digest>,
}

impl Frontier {
    /// The edge of the empty tree.
    #[must_use]
    pub const fn new() -> Self {
        Self { size: 0, peaks: Vec::new() }
    }

    /// The edge of a stored tree of `size` leaves, read from its complete nodes.
    ///
    /// # Errors
    /// [`MerkleError::MissingNode`]: the store lacks one of the peaks.
    pub fn restore<R>(size: u64, read: R) -> Result<Self, MerkleError>
    where
        R: Fn(u8, u64) -> Option<Digest>,
    {
        let mut peaks = Vec::new();
        for level in (0..64u8).rev().filter(|level| size >> level & 1 == 1) {
            // The peak's right edge is where the bits above `level`, this one included, end.
            let index = (size >> level) - 1;
            peaks.push(read(level, index).ok_or(MerkleError::MissingNode { level, index })?);
        }
        Ok(Self { size, peaks })
    }

    /// The number of leaves.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The peaks, largest subtree first; what [`Frontier::restore`] reads.
    #[must_use]
    pub fn peaks(&self) -> &[Digest] {
        &self.peaks
    }

    /// Appends a leaf hash and returns its index. Each node that became complete, the leaf
    /// itself first, is handed to `complete`, so that a store can keep it.
    pub fn append(&mut self, leaf: Digest, mut complete: impl FnMut(Node)) -> u64 {
        let index = self.size;
        let mut node = Node { level: 0, index, hash: leaf };
        complete(node);
        for _ in 0..index.trailing_ones() {
            let Some(left) = self.peaks.pop() else { break };
            let hash = node_hash(&left, &node.hash);
            node = Node { level: node.level + 1, index: node.index >> 1, hash };
            complete(node);
        }
        self.peaks.push(node.hash);
        self.size += 1;
        index
    }

    /// The root over all leaves so far.
    #[must_use]
    pub fn root(&self) -> Digest {
        let smallest_first = self.peaks.iter().rev().copied();
        smallest_first.reduce(|right, left| node_hash(&left, &right)).unwrap_or_else(empty_root)
    }
}

/// The root of the tree's first `size` leaves, from stored complete nodes.
///
/// # Errors
/// [`MerkleError::MissingNode`].
pub fn root_at<R>(size: u64, read: R) -> Result<Digest, MerkleError>
where
    R: Fn(u8, u64) -> Option<Digest>,
{
    Frontier::restore(size, read).map(|frontier| frontier.root())
}

/// The audit path of leaf `index` in the tree of `size` leaves (RFC 6962 §2.1.1).
///
/// # Errors
/// [`MerkleError::OutOfRange`] unless `index < size`; [`MerkleError::MissingNode`].
pub fn inclusion_proof<R>(index: u64, size: u64, read: R) -> Result<Vec<Digest>, MerkleError>
where
    R: Fn(u8, u64) -> Option<Digest>,
{
    if index >= size {
        return Err(MerkleError::OutOfRange);
    }
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(range_hash(&read, middle, end)?);
            end = middle;
        } else {
            path.push(range_hash(&read, start, middle)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that the tree of `old` leaves is a prefix of that of `new` leaves (RFC 6962 §2.1.2).
/// Empty when `old` is 0 or equals `new`.
///
/// # Errors
/// [`MerkleError::OutOfRange`] when `old > new`; [`MerkleError::MissingNode`].
pub fn consistency_proof<R>(old: u64, new: u64, read: R) -> Result<Vec<Digest>, MerkleError>
where
    R: Fn(u8, u64) -> Option<Digest>,
{
    if old > new {
        return Err(MerkleError::OutOfRange);
    }
    let mut proof = Vec::new();
    if old == 0 {
        return Ok(proof);
    }
    let (mut start, mut end) = (0, new);
    while old != end {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(range_hash(&read, middle, end)?);
            end = middle;
        } else {
            proof.push(range_hash(&read, start, middle)?);
            start = middle;
        }
    }
    // Where the old tree itself is the subtree reached, the verifier already has its root.
    if start != 0 {
        proof.push(range_hash(&read, start, end)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks an audit path (RFC 9162 §2.1.3.2).
///
/// # Errors
/// [`MerkleError::OutOfRange`], [`MerkleError::WrongLength`] or [`MerkleError::RootMismatch`].
pub fn verify_inclusion(
    leaf: &Digest,
    index: u64,
    size: u64,
    path: &[Digest],
    root: &Digest,
) -> Result<(), MerkleError> {
    if index >= size {
        return Err(MerkleError::OutOfRange);
    }
    let mut edge = Edge { node: index, last: size - 1 };
    let mut hash = *leaf;
    for sibling in path {
        if edge.last == 0 {
            return Err(MerkleError::WrongLength);
        }
        hash = if edge.is_right() { node_hash(sibling, &hash) } else { node_hash(&hash, sibling) };
        edge.climb();
    }
    if edge.last != 0 {
        return Err(MerkleError::WrongLength);
    }
    if hash == *root { Ok(()) } else { Err(MerkleError::RootMismatch) }
}

/// Checks that the tree `old` (leaves, root) is a prefix of the tree `new` (RFC 9162 §2.1.4.2).
///
/// # Errors
/// [`MerkleError::OutOfRange`], [`MerkleError::WrongLength`] or [`MerkleError::RootMismatch`].
pub fn verify_consistency(
    old: (u64, &Digest),
    new: (u64, &Digest),
    proof: &[Digest],
) -> Result<(), MerkleError> {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    if old_size > new_size {
        return Err(MerkleError::OutOfRange);
    }
    if old_size == 0 || old_size == new_size {
        let expected = if old_size == 0 { empty_root() } else { *new_root };
        return match (proof, *old_root == expected) {
            ([], true) => Ok(()),
            ([], false) => Err(MerkleError::RootMismatch),
            _ => Err(MerkleError::WrongLength),
        };
    }
    let mut edge = Edge { node: old_size - 1, last: new_size - 1 };
    edge.skip(edge.node.trailing_ones());
    let (seed, rest) = if old_size.is_power_of_two() {
        (old_root, proof)
    } else {
        proof.split_first().ok_or(MerkleError::WrongLength)?
    };
    let (mut old_hash, mut new_hash) = (*seed, *seed);
    for sibling in rest {
        if edge.last == 0 {
            return Err(MerkleError::WrongLength);
        }
        if edge.is_right() {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        edge.climb();
    }
    if edge.last != 0 {
        return Err(MerkleError::WrongLength);
    }
    let both = old_hash == *old_root && new_hash == *new_root;
    if both { Ok(()) } else { Err(MerkleError::RootMismatch) }
}

/// A node and the last node of its level, on the way up.
struct Edge {
    node: u64,
    last: u64,
}

impl Edge {
    /// Whether the sibling is to the left: an odd node, or one without a right sibling, which
    /// rises until it has one to the left.
    const fn is_right(&self) -> bool {
        self.node & 1 == 1 || self.node == self.last
    }

    /// One level up, past the levels at which a node without a right sibling just rises.
    const fn climb(&mut self) {
        if self.node == self.last && self.node & 1 == 0 {
            // Zero has no left sibling at any level: it is the root.
            self.skip(if self.node == 0 { 0 } else { self.node.trailing_zeros() });
        }
        self.skip(1);
    }

    const fn skip(&mut self, levels: u32) {
        self.node = match self.node.checked_shr(levels) {
            Some(node) => node,
            None => 0,
        };
        self.last = match self.last.checked_shr(levels) {
            Some(last) => last,
            None => 0,
        };
    }
}

/// The largest power of two below `n`, for `n >= 2`: where RFC 6962 splits a tree.
const fn split(n: u64) -> u64 {
    1 << (n.saturating_sub(1) | 1).ilog2()
}

/// The hash of leaves `start..end`, a subtree in the sense of RFC 6962.
fn range_hash<R>(read: &R, start: u64, end: u64) -> Result<Digest, MerkleError>
where
    R: Fn(u8, u64) -> Option<Digest>,
{
    let leaves = end - start;
    if leaves.is_power_of_two() {
        let level = u8::try_from(leaves.trailing_zeros()).unwrap_or(u8::MAX);
        let index = start >> level;
        return read(level, index).ok_or(MerkleError::MissingNode { level, index });
    }
    let middle = start + split(leaves);
    let left = range_hash(read, start, middle)?;
    let right = range_hash(read, middle, end)?;
    Ok(node_hash(&left, &right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// MTH, PATH and SUBPROOF as RFC 6962 §2.1 writes them.
    mod naive {
        use super::super::*;

        pub(super) fn k(n: usize) -> usize {
            let mut k = 1;
            while k * 2 < n {
                k *= 2;
            }
            k
        }

        pub(super) fn mth(d: &[Vec<u8>]) -> Digest {
            match d {
                [] => Digest::of(b""),
                [one] => Digest::of(&[&[0u8][..], one].concat()),
                _ => {
                    let (l, r) = d.split_at(k(d.len()));
                    Digest::of(&[&[1u8][..], mth(l).as_bytes(), mth(r).as_bytes()].concat())
                }
            }
        }

        pub(super) fn path(m: usize, d: &[Vec<u8>]) -> Vec<Digest> {
            if d.len() == 1 {
                return vec![];
            }
            let k = k(d.len());
            let (l, r) = d.split_at(k);
            if m < k {
                [path(m, l), vec![mth(r)]].concat()
            } else {
                [path(m - k, r), vec![mth(l)]].concat()
            }
        }

        pub(super) fn subproof(m: usize, d: &[Vec<u8>], b: bool) -> Vec<Digest> {
            if m == d.len() {
                return if b { vec![] } else { vec![mth(d)] };
            }
            let k = k(d.len());
            let (l, r) = d.split_at(k);
            if m <= k {
                [subproof(m, l, b), vec![mth(r)]].concat()
            } else {
                [subproof(m - k, r, false), vec![mth(l)]].concat()
            }
        }
    }

    type Nodes = HashMap<(u8, u64), Digest>;

    fn leaves(n: usize) -> Vec<Vec<u8>> {
        (0..n).map(|i| format!("leaf {i}").into_bytes()).collect()
    }

    fn grow(leaves: &[Vec<u8>]) -> (Frontier, Nodes) {
        let (mut frontier, mut nodes) = (Frontier::new(), Nodes::new());
        for leaf in leaves {
            frontier.append(leaf_hash(leaf), |n| {
                assert_eq!(nodes.insert((n.level, n.index), n.hash), None, "reported twice");
            });
        }
        (frontier, nodes)
    }

    #[test]
    fn known_roots_of_the_rfc_6962_test_data() {
        // Reference vectors of the Certificate Transparency implementation.
        let data = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ];
        let mut frontier = Frontier::new();
        assert_eq!(frontier.root(), empty_root());
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (leaf, root) in data.iter().zip(roots) {
            frontier.append(leaf_hash(&hex::decode(leaf).unwrap()), drop);
            assert_eq!(frontier.root().to_hex(), root);
        }
    }

    #[test]
    fn agrees_with_the_recursive_definition_at_every_size() {
        let all = leaves(70);
        let mut frontier = Frontier::new();
        for n in 0..=all.len() {
            let d = &all[..n];
            let (fresh, nodes) = grow(d);
            assert_eq!(frontier, fresh);
            let read = |l, i| nodes.get(&(l, i)).copied();
            let size = u64::try_from(n).unwrap();
            let root = naive::mth(d);
            assert_eq!(frontier.root(), root);
            assert_eq!(root_at(size, read), Ok(root));
            assert_eq!(Frontier::restore(size, read).as_ref(), Ok(&frontier));
            for m in 0..n {
                let index = u64::try_from(m).unwrap();
                let path = inclusion_proof(index, size, read).unwrap();
                assert_eq!(path, naive::path(m, d));
                assert_eq!(verify_inclusion(&leaf_hash(&d[m]), index, size, &path, &root), Ok(()));
                let old = index + 1;
                let proof = consistency_proof(old, size, read).unwrap();
                assert_eq!(proof, naive::subproof(m + 1, d, true));
                let old_root = naive::mth(&d[..=m]);
                assert_eq!(verify_consistency((old, &old_root), (size, &root), &proof), Ok(()));
            }
            assert_eq!(verify_consistency((0, &empty_root()), (size, &root), &[]), Ok(()));
            if let Some(leaf) = all.get(n) {
                frontier.append(leaf_hash(leaf), drop);
            }
        }
    }

    #[test]
    fn a_missing_node_and_a_range_outside_are_named() {
        let (_, nodes) = grow(&leaves(4));
        let read = |l, i| nodes.get(&(l, i)).copied();
        let missing = MerkleError::MissingNode { level: 0, index: 4 };
        assert_eq!(root_at(5, read), Err(missing));
        assert_eq!(inclusion_proof(0, 5, read), Err(missing));
        assert_eq!(inclusion_proof(4, 4, read), Err(MerkleError::OutOfRange));
        assert_eq!(consistency_proof(5, 4, read), Err(MerkleError::OutOfRange));
        let zero = Digest::from_bytes([0; 32]);
        assert_eq!(verify_inclusion(&zero, 4, 4, &[], &zero), Err(MerkleError::OutOfRange));
        let outside = verify_consistency((2, &zero), (1, &zero), &[]);
        assert_eq!(outside, Err(MerkleError::OutOfRange));
    }

    #[test]
    fn sizes_near_the_end_of_the_range_do_not_overflow() {
        let zero = Digest::from_bytes([0; 32]);
        let path = vec![zero; 64];
        for (index, size) in [(u64::MAX - 1, u64::MAX), (0, u64::MAX), (1 << 63, u64::MAX)] {
            assert!(verify_inclusion(&zero, index, size, &path, &zero).is_err());
            assert!(verify_consistency((index.max(1), &zero), (size, &zero), &path).is_err());
            let made = inclusion_proof(index, size, |_, _| Some(zero)).unwrap();
            assert!(verify_inclusion(&zero, index, size, &made, &zero).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_other_index_size_path_or_root_passes(
            n in 1usize..300, pick in any::<prop::sample::Index>(),
            bit in any::<prop::sample::Index>(), other in 0u64..400,
        ) {
            let d = leaves(n);
            let (frontier, nodes) = grow(&d);
            let read = |l, i| nodes.get(&(l, i)).copied();
            let (m, size, root) = (pick.index(n), frontier.size(), frontier.root());
            let index = u64::try_from(m).unwrap();
            let leaf = leaf_hash(&d[m]);
            let path = inclusion_proof(index, size, read).unwrap();
            prop_assert_eq!(&path, &naive::path(m, &d));
            if other != index {
                prop_assert!(verify_inclusion(&leaf, other, size, &path, &root).is_err());
            }
            let flip = |d: &Digest, bit: usize| {
                let mut bytes = *d.as_bytes();
                bytes[bit / 8] ^= 1 << (bit % 8);
                Digest::from_bytes(bytes)
            };
            let at = bit.index(256);
            prop_assert!(verify_inclusion(&flip(&leaf, at), index, size, &path, &root).is_err());
            prop_assert!(verify_inclusion(&leaf, index, size, &path, &flip(&root, at)).is_err());
            let longer = [path.clone(), vec![root]].concat();
            prop_assert!(verify_inclusion(&leaf, index, size, &longer, &root).is_err());
            for i in 0..path.len() {
                let mut bad = path.clone();
                bad[i] = flip(&bad[i], at);
                prop_assert!(verify_inclusion(&leaf, index, size, &bad, &root).is_err());
                prop_assert!(verify_inclusion(&leaf, index, size, &path[..i], &root).is_err());
            }
            let (old, old_root) = (index + 1, naive::mth(&d[..=m]));
            let proof = consistency_proof(old, size, read).unwrap();
            prop_assert_eq!(&proof, &naive::subproof(m + 1, &d, true));
            let check = |old_root: &Digest, proof: &[Digest]| {
                verify_consistency((old, old_root), (size, &root), proof)
            };
            prop_assert_eq!(check(&old_root, &proof), Ok(()));
            prop_assert!(check(&flip(&old_root, at), &proof).is_err());
            for i in 0..proof.len() {
                let mut bad = proof.clone();
                bad[i] = flip(&bad[i], at);
                prop_assert!(check(&old_root, &bad).is_err());
                prop_assert!(check(&old_root, &proof[..i]).is_err());
            }
        }
    }
}
