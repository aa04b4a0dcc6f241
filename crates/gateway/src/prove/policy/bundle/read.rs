//! Bundles in directories.

use super::{
    Bundle, BundleError, FILE_BYTES_MAX, FILES_MAX, Files, MANIFEST, POLICIES, SIGNATURE, is_name,
};
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

/// The directory inside a bundle.
const TESTS: &str = "tests";
/// Files beside a bundle that are for people.
const FOR_PEOPLE: [&str; 4] = ["README.md", "LICENSE", "CHANGELOG.md", "CODEOWNERS"];

impl Bundle {
    /// Reads the bundle in a directory. Hidden files and those for people are passed over.
    ///
    /// # Errors
    /// As [`Self::of_files`], and what cannot be read.
    pub fn read(dir: &Path) -> Result<Self, BundleError> {
        let mut files = Files::new();
        read_dir(dir, "", &mut files)?;
        let tests = dir.join(TESTS);
        if tests.is_dir() {
            read_dir(&tests, &format!("{TESTS}/"), &mut files)?;
        }
        Self::of_files(files)
    }

    /// Writes manifest and signature into a directory, each whole or not at all.
    ///
    /// # Errors
    /// [`BundleError::Unreadable`].
    pub fn write_seal(&self, dir: &Path) -> Result<(), BundleError> {
        let files = self.to_files();
        for name in [MANIFEST, SIGNATURE] {
            let path = dir.join(name);
            match files.get(name) {
                Some(text) => write(dir, name, text)?,
                None if path.exists() => {
                    fs::remove_file(&path).map_err(|error| unreadable("remove", &path, &error))?;
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Writes policies into a directory, whole or not at all.
    ///
    /// # Errors
    /// [`BundleError::Unreadable`].
    pub fn write_policies(dir: &Path, text: &str) -> Result<(), BundleError> {
        write(dir, POLICIES, text)
    }
}

/// Writes a file whole or not at all.
fn write(dir: &Path, name: &str, text: &str) -> Result<(), BundleError> {
    let (path, beside) = (dir.join(name), dir.join(format!(".{name}.new")));
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, &path))
        .map_err(|error| unreadable("write", &path, &error))
}

fn unreadable(what: &str, path: &Path, error: &std::io::Error) -> BundleError {
    BundleError::Unreadable(format!("cannot {what} `{}`: {error}", path.display()))
}

fn read_dir(dir: &Path, prefix: &str, files: &mut Files) -> Result<(), BundleError> {
    let entries = fs::read_dir(dir).map_err(|error| unreadable("read", dir, &error))?;
    for entry in entries {
        let entry = entry.map_err(|error| unreadable("read", dir, &error))?;
        let own = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        let is_dir = fs::metadata(&path).is_ok_and(|found| found.is_dir());
        if own.starts_with('.') || FOR_PEOPLE.contains(&&*own) {
            continue;
        }
        if prefix.is_empty() && is_dir && own == TESTS {
            continue;
        }
        let name = format!("{prefix}{own}");
        if is_dir || !is_name(&name) {
            return Err(BundleError::UnknownFile(name));
        }
        if files.len() >= FILES_MAX {
            return Err(BundleError::TooLarge);
        }
        files.insert(name, read_file(&path)?);
    }
    Ok(())
}

fn read_file(path: &PathBuf) -> Result<String, BundleError> {
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|error| unreadable("read", path, &error))?;
    String::from_utf8(bytes)
        .map_err(|_| BundleError::Unreadable(format!("`{}` is not UTF-8", path.display())))
}
