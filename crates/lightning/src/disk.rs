//! What lies in the data directory beside the node's own files: the lock and the API's token.
//!
//! Owns the modes: the directory is its owner's alone, and so is the token. Two processes on one
//! directory would each sign channel states that the other does not know: the lock forbids it.

use crate::world;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Makes the directory if need be, and holds it until the file is dropped.
pub(crate) fn take(data_dir: &Path) -> Result<File, String> {
    let says = |why: io::Error| format!("data_dir {}: {why}", data_dir.display());
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(says)?;
    let mode = fs::metadata(data_dir).map_err(says)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!("data_dir {}: others may enter it (chmod 700)", data_dir.display()));
    }
    let path = data_dir.join("lock");
    let lock = private().create(true).truncate(false).write(true).open(path).map_err(says)?;
    lock.try_lock()
        .map_err(|_| format!("data_dir {}: another process has it", data_dir.display()))?;
    Ok(lock)
}

/// The API's token, made at the first start.
pub(crate) fn token(data_dir: &Path) -> Result<String, String> {
    let path = data_dir.join("api.token");
    let says = |why: io::Error| format!("{}: {why}", path.display());
    match fs::read_to_string(&path) {
        Ok(token) => check(&path, token.trim()),
        Err(why) if why.kind() == io::ErrorKind::NotFound => {
            let token = hex::encode(world::random().map_err(says)?);
            let mut file = private().create_new(true).write(true).open(&path).map_err(says)?;
            file.write_all(token.as_bytes()).map_err(says)?;
            file.sync_all().map_err(says)?;
            sync_dir(data_dir).map_err(says)?;
            Ok(token)
        }
        Err(why) => Err(says(why)),
    }
}

fn check(path: &Path, token: &str) -> Result<String, String> {
    let mode = fs::metadata(path).map_err(|why| why.to_string())?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!("{}: others can read it (chmod 600)", path.display()));
    }
    if token.len() < 32 {
        return Err(format!("{}: too short to be a token", path.display()));
    }
    Ok(token.to_owned())
}

/// How a file is opened that is its owner's alone.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!(
            "countersign-lightning-{name}-{}",
            hex::encode(world::random().unwrap())
        ));
        dir.join("data")
    }

    #[test]
    fn one_process_a_directory() {
        let dir = scratch("lock");
        let held = take(&dir).unwrap();
        assert!(take(&dir).unwrap_err().contains("another process has it"));
        drop(held);
        take(&dir).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let dir = scratch("mode");
        drop(take(&dir).unwrap());
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(take(&dir).unwrap_err().contains("others may enter it"));
    }

    #[test]
    fn the_token_is_made_once_and_is_nobody_elses() {
        let dir = scratch("token");
        let _held = take(&dir).unwrap();
        let made = token(&dir).unwrap();
        assert_eq!(made.len(), 64);
        assert_eq!(token(&dir).unwrap(), made);
        let path = dir.join("api.token");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(token(&dir).unwrap_err().contains("others can read it"));
    }
}
