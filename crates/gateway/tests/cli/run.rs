//! Runs the binary in a directory of its own.

use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// A directory that is removed at the end, and the binary in it.
pub(super) struct Site {
    pub(super) dir: PathBuf,
}

/// How a run ended.
pub(super) struct Ran {
    pub(super) exit: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Ran {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{} {}", self.out, self.err))
    }

    /// The sentence and the next action of the error.
    pub(super) fn error(&self) -> (String, String) {
        let said: Value =
            serde_json::from_str(&self.err).unwrap_or_else(|_| panic!("{}", self.err));
        assert_eq!(said["exit"], self.exit, "{said}");
        let text = |member: &str| said["error"][member].as_str().unwrap_or_default().to_owned();
        (text("message"), text("next"))
    }
}

impl Site {
    pub(super) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("cs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        Self { dir }
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
        command.current_dir(&self.dir).args(args).env_clear().env("HOME", &self.dir);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end; its output is no terminal, so it is JSON.
    pub(super) fn run(&self, args: &[&str]) -> Ran {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { exit: status.code().unwrap_or(-1), out: text(stdout), err: text(stderr) }
    }

    /// Runs it, expects it to end well, and reads what it prints.
    pub(super) fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(args);
        assert_eq!(ran.exit, 0, "{args:?}: {} {}", ran.out, ran.err);
        ran.json()
    }

    /// Starts it, and returns the first line that it prints on the chosen output.
    pub(super) fn start(&self, args: &[&str], line_on: Line) -> (Running, String) {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        // Kept open until the process ends: it may have more to say.
        let mut outputs: Vec<Box<dyn BufRead>> = vec![
            Box::new(BufReader::new(child.stdout.take().unwrap())),
            Box::new(BufReader::new(child.stderr.take().unwrap())),
        ];
        let at = match line_on {
            Line::Out => 0,
            Line::Err => 1,
        };
        outputs[at].read_line(&mut line).unwrap();
        (Running(child, outputs), line)
    }

    pub(super) fn write(&self, name: &str, text: &str, mode: u32) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Where a started process says that it is ready.
#[derive(Clone, Copy)]
pub(super) enum Line {
    Out,
    Err,
}

/// A process that ends with the test.
pub(super) struct Running(Child, #[allow(dead_code, reason = "kept open")] Vec<Box<dyn BufRead>>);

impl Running {
    /// Asks it to end as an operator does, and returns its exit code.
    pub(super) fn terminate(&mut self) -> Option<i32> {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.0.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something holds, at most ten seconds.
pub(super) fn wait_until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..200 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{what} did not happen in ten seconds");
}

/// Whether a path has these permissions.
pub(super) fn has_mode(path: &Path, mode: u32) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o777 == mode)
}
