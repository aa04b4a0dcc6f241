//! The socket file: made so that nobody else can reach it, not even for a moment, and replaced
//! only when nobody listens on it.
//!
//! INVARIANT: the file appears under its name with mode 0600, in a directory that no other user
//! can write to.

use super::Bound;
use countersign_core::world::World;
use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
};
use tokio::net::{UnixListener, UnixStream};

/// Listens at `path`.
pub(super) async fn bind(path: &Path, world: &World) -> io::Result<Bound> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_private(parent)?;
    refuse_occupied(path).await?;
    // No `umask` here: the socket is made in a directory that is closed to others, given its
    // mode, and only then moved to its place.
    let nursery = parent.join(format!(".{}", hex::encode(world.random::<3>())));
    fs::DirBuilder::new().mode(0o700).create(&nursery)?;
    let bound = bind_in(&nursery, path);
    let removed = fs::remove_dir_all(&nursery);
    let bound = bound?;
    removed?;
    Ok(bound)
}

fn bind_in(nursery: &Path, path: &Path) -> io::Result<Bound> {
    let made = nursery.join("s");
    let listener = UnixListener::bind(&made)?;
    fs::set_permissions(&made, fs::Permissions::from_mode(0o600))?;
    let found = fs::symlink_metadata(&made)?;
    fs::rename(&made, path)?;
    Ok(Bound { listener, owner: found.uid(), inode: found.ino() })
}

/// Makes the directory with mode 0700 where it is missing; refuses one that others can write to.
fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let mode = fs::metadata(dir)?.permissions().mode();
    if mode & 0o022 == 0 {
        return Ok(());
    }
    let dir = dir.display();
    Err(io::Error::new(
        ErrorKind::PermissionDenied,
        format!("others can write to `{dir}`, where the admin socket belongs: chmod 700 it"),
    ))
}

/// Refuses a path at which somebody listens, or at which something else than a socket lies.
async fn refuse_occupied(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let shown = path.display();
    if !found.file_type().is_socket() {
        let message = format!("`{shown}` is there already and is no socket");
        return Err(io::Error::new(ErrorKind::AlreadyExists, message));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            let message = format!("another process serves the admin socket `{shown}`");
            Err(io::Error::new(ErrorKind::AddrInUse, message))
        }
    }
}

/// Removes the socket file, unless another one has taken its place.
pub(super) fn remove(path: &Path, inode: u64) {
    if fs::symlink_metadata(path).is_ok_and(|found| found.ino() == inode) {
        // Left behind it is stale, and the next start replaces it.
        let _left = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        World::new(|| countersign_core::time::UnixMs(0), |bytes| bytes.fill(7))
    }

    fn directory(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("cs-admin-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_served_one_is_not() {
        let dir = directory("stale");
        let path = dir.join("admin.sock");
        let bound = bind(&path, &world()).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(bind(&path, &world()).await.err().unwrap().kind(), ErrorKind::AddrInUse);
        drop(bound);
        let again = bind(&path, &world()).await.unwrap();
        remove(&path, again.inode.wrapping_add(1));
        assert!(path.exists(), "somebody else's");
        remove(&path, again.inode);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing is left");
        fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn other_files_and_open_directories_are_refused() {
        let dir = directory("other");
        fs::create_dir(&dir).unwrap();
        let path = dir.join("admin.sock");
        fs::write(&path, "precious").unwrap();
        assert_eq!(bind(&path, &world()).await.err().unwrap().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = bind(&dir.join("b.sock"), &world()).await.err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        fs::remove_dir_all(dir).unwrap();
    }
}
