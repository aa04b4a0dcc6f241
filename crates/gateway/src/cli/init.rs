//! `init`: a first configuration.

use super::{out::Out, stop::Stop};
use crate::config;
use serde::Serialize;
use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
};

const FILE: &str = "countersign.yaml";

/// Where to.
#[derive(Debug, clap::Args)]
pub(super) struct Init {
    /// Directory; it is made when it is missing.
    #[arg(default_value = ".")]
    dir: PathBuf,
}

#[derive(Serialize)]
struct Written {
    file: PathBuf,
}

impl Init {
    /// Writes the file. One that is there stays as it is.
    pub(super) fn run(self, out: Out) -> Result<(), Stop> {
        let shown = self.dir.display();
        let refused = |error| Stop::usage(format_args!("cannot make `{shown}`: {error}"));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(refused)?;
        let file = self.dir.join(FILE);
        let made = fs::OpenOptions::new().write(true).create_new(true).open(&file);
        let written = made.and_then(|mut made| made.write_all(config::init_template().as_bytes()));
        written.map_err(|error| {
            let shown = file.display();
            if error.kind() == ErrorKind::AlreadyExists {
                return Stop::usage(format_args!("`{shown}` is there already"))
                    .next("remove it first, or name another directory");
            }
            Stop::usage(format_args!("cannot write `{shown}`: {error}"))
        })?;
        out.show(&Written { file }, |written| {
            let file = written.file.display();
            format!(
                "wrote {file}\n  see what it means:  countersign check --config {file}\n  \
                 its sandbox parts:  countersign sandbox\n  \
                 run it:             countersign serve --config {file}"
            )
        })
    }
}
