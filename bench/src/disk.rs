//! The directory that databases are in, and how fast its disk is.

use anyhow::{Context as _, Result};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A directory that goes with the run.
#[derive(Debug)]
pub(crate) struct Dir(PathBuf);

impl Dir {
    /// A fresh one below `parent`.
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        let dir = parent.join(std::process::id().to_string());
        fs::create_dir_all(&dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// How often 4 KiB can be appended and synced, one after the other, in a second.
    pub(crate) fn syncs_per_s(&self) -> Result<f64> {
        let path = self.0.join("syncs");
        let mut file = fs::File::create(&path)?;
        let begun = Instant::now();
        let mut syncs = 0u32;
        while begun.elapsed() < Duration::from_secs(1) {
            file.write_all(&[7; 4096])?;
            file.sync_data()?;
            syncs += 1;
        }
        let rate = f64::from(syncs) / begun.elapsed().as_secs_f64();
        fs::remove_file(path)?;
        Ok(rate)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _left_behind = fs::remove_dir_all(&self.0);
    }
}
