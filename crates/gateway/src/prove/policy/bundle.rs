//! A bundle on its way in: its files by name, the manifest over them, the signature over that.
//!
//! The manifest names a revision, a time in which the bundle may be used, and the SHA-256 of each
//! file. The signature is a C2SP signed note (<https://c2sp.org/signed-note>), the form in which
//! the log's checkpoints are signed, over a line that says what it is, the revision, and the
//! SHA-256 of the manifest.
//!
//! INVARIANT: names are a closed list. A file that nobody would read is refused: it may be a
//! misspelt one that somebody relies on.
//! INVARIANT: with a manifest, the files are exactly those that it lists, byte for byte.
//!
//! Does not parse policies (`load`), run tests (`trial`), or say what is in force (`live`).

mod error;
mod read;

pub use error::BundleError;

use super::Engine;
use countersign_core::{
    audit::checkpoint::{SignerKey, VerifierKey, open_note, sign_note},
    digest::Digest,
    time::UnixMs,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The schema's file.
pub(super) const SCHEMA: &str = "schema.cedarschema";
/// The policies' file.
pub(super) const POLICIES: &str = "policies.cedar";
/// The manifest's file.
pub(super) const MANIFEST: &str = "manifest.json";
/// The signature's file.
pub(super) const SIGNATURE: &str = "manifest.sig";
/// The words of intents; the built-in ones where it is missing, as with the three below.
pub(super) const INTENTS: &str = "intents.json";
/// The numbers of risk.
pub(super) const RISK: &str = "risk.json";
/// The tiers of trust.
pub(super) const TIERS: &str = "tiers.json";
/// The sentences of reasons.
pub(super) const REASONS: &str = "reasons.json";

/// What a bundle says of things of its own: their schema, the policies about them, and those that
/// it knows. None where they are missing.
pub(super) const ACCESS: [&str; 3] = ["access.cedarschema", "access.cedar", "access.json"];

/// The form of manifests that this program reads.
const FORMAT: &str = "countersign-bundle/1";
/// The first line under a signature: no note about anything else can be taken for one.
const SIGNED: &str = "countersign policy bundle";
/// The largest revision: what JSON carries exactly (RFC 7493 §2.2).
const REVISION_MAX: u64 = (1 << 53) - 1;
/// Most files.
const FILES_MAX: usize = 512;
/// The longest file, in bytes.
const FILE_BYTES_MAX: usize = 1 << 20;
/// All files together, in bytes: what the admin API takes, and the store keeps.
const BUNDLE_BYTES_MAX: usize = 4 << 20;

/// Texts by file name.
pub type Files = BTreeMap<String, String>;

/// A bundle, parsed as far as its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    files: Files,
    seal: Option<Seal>,
}

/// The manifest as it was read, and the signature over it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seal {
    manifest: Manifest,
    text: String,
    note: Option<String>,
}

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: String,
    /// Rises with every activation; from 1.
    pub revision: u64,
    /// Not to be used before this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<UnixMs>,
    /// Not to be used from this moment on: then every call is denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after_ms: Option<UnixMs>,
    /// SHA-256 of every other file, in hex.
    pub files: BTreeMap<String, Digest>,
}

impl Manifest {
    /// Whether the bundle may be used now.
    ///
    /// # Errors
    /// [`BundleError::NotYet`], [`BundleError::Expired`].
    pub fn check_time(&self, now: UnixMs) -> Result<(), BundleError> {
        if let Some(from) = self.not_before_ms.filter(|from| now < *from) {
            return Err(BundleError::NotYet(from));
        }
        match self.not_after_ms {
            Some(end) if now >= end => Err(BundleError::Expired(end)),
            Some(_) | None => Ok(()),
        }
    }

    /// What is signed.
    fn signed_text(&self, text: &str) -> String {
        format!("{SIGNED}\n{}\n{}\n", self.revision, Digest::of(text.as_bytes()))
    }
}

impl Bundle {
    /// The bundle in the binary: no manifest, no tests.
    #[must_use]
    pub fn builtin() -> Self {
        let files = [
            (SCHEMA, Engine::BUILTIN_SCHEMA),
            (POLICIES, Engine::BUILTIN_POLICIES),
            (INTENTS, Engine::BUILTIN_INTENTS),
            (RISK, Engine::BUILTIN_RISK),
            (TIERS, Engine::BUILTIN_TIERS),
            (REASONS, Engine::BUILTIN_REASONS),
        ];
        let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
        Self { files: Files::from(files), seal: None }
    }

    /// A bundle of a schema and policies alone.
    #[must_use]
    pub fn of_texts(schema: &str, policies: &str) -> Self {
        let files = [(SCHEMA, schema), (POLICIES, policies)];
        let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
        Self { files: Files::from(files), seal: None }
    }

    /// A bundle of files, manifest and signature among them where there are any.
    ///
    /// # Errors
    /// A name, a size, the manifest's form, or a file that is needed and missing.
    pub fn of_files(mut files: Files) -> Result<Self, BundleError> {
        check_shape(&files)?;
        let note = files.remove(SIGNATURE);
        let seal = match (files.remove(MANIFEST), note) {
            (Some(text), note) => Some(Seal { manifest: read_manifest(&text)?, text, note }),
            (None, Some(_)) => return Err(BundleError::Missing(MANIFEST)),
            (None, None) => None,
        };
        let bundle = Self { files, seal };
        if bundle.file(SCHEMA).is_none() {
            return Err(BundleError::Missing(SCHEMA));
        }
        match bundle.file(POLICIES) {
            Some(_) => Ok(bundle),
            None => Err(BundleError::Missing(POLICIES)),
        }
    }

    /// The text of a file.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&str> {
        self.files.get(name).map(String::as_str)
    }

    /// The text of its policies.
    #[must_use]
    pub fn policies(&self) -> &str {
        self.file(POLICIES).unwrap_or_default()
    }

    /// The files with tests.
    pub fn tests(&self) -> impl Iterator<Item = (&str, &str)> {
        let files = self.files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        files.filter(|(name, _)| is_test(name))
    }

    /// SHA-256 over the files' names and texts; manifest and signature do not enter.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut parts: Vec<&[u8]> = vec![b"policy-bundle/2"];
        for (name, text) in &self.files {
            parts.extend([name.as_bytes(), text.as_bytes()]);
        }
        Digest::of_parts(&parts)
    }

    /// Its manifest, if it has one.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        self.seal.as_ref().map(|seal| &seal.manifest)
    }

    /// Whether there is a signature, valid or not.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.seal.as_ref().is_some_and(|seal| seal.note.is_some())
    }

    /// Its revision, if it has one.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        self.manifest().map(|manifest| manifest.revision)
    }

    /// All files, manifest and signature among them.
    #[must_use]
    pub fn to_files(&self) -> Files {
        let mut files = self.files.clone();
        if let Some(seal) = &self.seal {
            files.insert(MANIFEST.to_owned(), seal.text.clone());
            files.extend(seal.note.clone().map(|note| (SIGNATURE.to_owned(), note)));
        }
        files
    }

    /// Writes a manifest over the files as they are. A signature over an older one is dropped.
    ///
    /// # Errors
    /// [`BundleError::Manifest`]: a revision out of range, or a time that is over before it began.
    pub fn seal(
        &mut self,
        revision: u64,
        not_before_ms: Option<UnixMs>,
        not_after_ms: Option<UnixMs>,
    ) -> Result<(), BundleError> {
        let digest = |(name, text): (&String, &String)| (name.clone(), Digest::of(text.as_bytes()));
        let files = self.files.iter().map(digest).collect();
        let format = FORMAT.to_owned();
        let manifest = Manifest { format, revision, not_before_ms, not_after_ms, files };
        let text = serde_json::to_string_pretty(&manifest)
            .map_err(|error| BundleError::Manifest(error.to_string()))?;
        let text = format!("{text}\n");
        self.seal = Some(Seal { manifest: read_manifest(&text)?, text, note: None });
        Ok(())
    }

    /// The files alone, without manifest and signature: what it would answer at any time.
    #[must_use]
    pub fn unsealed(self) -> Self {
        Self { seal: None, ..self }
    }

    /// Signs the manifest.
    ///
    /// # Errors
    /// [`BundleError::NoManifest`]; [`BundleError::Changed`] when the files are not those that it
    /// lists; [`BundleError::Signature`].
    pub fn sign(&mut self, key: &SignerKey) -> Result<(), BundleError> {
        self.check_digests()?;
        let seal = self.seal.as_mut().ok_or(BundleError::NoManifest)?;
        let signed = seal.manifest.signed_text(&seal.text);
        seal.note = Some(sign_note(&signed, key).map_err(BundleError::Signature)?);
        Ok(())
    }

    /// Whether the bundle is what its maker made: signed by `key` where one is asked for, and
    /// every file as the manifest lists it. Without a key a bundle needs no manifest.
    ///
    /// # Errors
    /// [`BundleError::NoManifest`], [`BundleError::NotSigned`], [`BundleError::Signature`],
    /// [`BundleError::Changed`].
    pub fn check_seal(&self, key: Option<&VerifierKey>) -> Result<(), BundleError> {
        match (&self.seal, key) {
            (None, Some(_)) => return Err(BundleError::NoManifest),
            (Some(seal), Some(key)) => {
                let note = seal.note.as_deref().ok_or(BundleError::NotSigned)?;
                let text = open_note(note, key).map_err(BundleError::Signature)?;
                if text != seal.manifest.signed_text(&seal.text) {
                    return Err(BundleError::Changed(vec![MANIFEST.to_owned()]));
                }
            }
            (Some(_) | None, None) => {}
        }
        self.check_digests()
    }

    fn check_digests(&self) -> Result<(), BundleError> {
        let Some(seal) = &self.seal else { return Ok(()) };
        let listed = &seal.manifest.files;
        let is_as_listed = |name: &String| {
            let text = self.files.get(name).map(|text| Digest::of(text.as_bytes()));
            text.is_some() && text.as_ref() == listed.get(name)
        };
        let mut changed: Vec<String> =
            listed.keys().chain(self.files.keys()).filter(|n| !is_as_listed(n)).cloned().collect();
        changed.sort();
        changed.dedup();
        if changed.is_empty() { Ok(()) } else { Err(BundleError::Changed(changed)) }
    }
}

fn check_shape(files: &Files) -> Result<(), BundleError> {
    if let Some(name) = files.keys().find(|name| !is_name(name)) {
        return Err(BundleError::UnknownFile(name.clone()));
    }
    let total: usize = files.values().map(String::len).fold(0, usize::saturating_add);
    let longest = files.values().map(String::len).max().unwrap_or(0);
    match files.len() > FILES_MAX || longest > FILE_BYTES_MAX || total > BUNDLE_BYTES_MAX {
        true => Err(BundleError::TooLarge),
        false => Ok(()),
    }
}

fn read_manifest(text: &str) -> Result<Manifest, BundleError> {
    let manifest: Manifest =
        serde_json::from_str(text).map_err(|error| BundleError::Manifest(error.to_string()))?;
    let wrong = |text: &str| Err(BundleError::Manifest(text.to_owned()));
    if manifest.format != FORMAT {
        return wrong("`format` is not `countersign-bundle/1`");
    }
    if !(1..=REVISION_MAX).contains(&manifest.revision) {
        return wrong("`revision` is a whole number from 1 to 9007199254740991");
    }
    if let (Some(from), Some(end)) = (manifest.not_before_ms, manifest.not_after_ms)
        && from >= end
    {
        return wrong("`not_after_ms` is not after `not_before_ms`");
    }
    Ok(manifest)
}

fn is_name(name: &str) -> bool {
    let known = [SCHEMA, POLICIES, MANIFEST, SIGNATURE, INTENTS, RISK, TIERS, REASONS];
    known.contains(&name) || ACCESS.contains(&name) || is_test(name)
}

/// Whether it is a plain name of a JSON file among the tests.
fn is_test(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    name.strip_prefix("tests/").and_then(|name| name.strip_suffix(".json")).is_some_and(|stem| {
        !stem.is_empty() && stem.len() <= 64 && !stem.starts_with('.') && stem.bytes().all(plain)
    })
}

#[cfg(test)]
mod tests;
