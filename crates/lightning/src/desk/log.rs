//! The node's own log lines, to standard error.

use ldk_node::logger::{LogLevel, LogRecord, LogWriter};
use std::io::{self, Write as _};

pub(crate) struct Stderr {
    pub(crate) least: LogLevel,
}

impl LogWriter for Stderr {
    fn log(&self, record: LogRecord<'_>) {
        if record.level >= self.least {
            let line = format!("{} {}: {}\n", record.level, record.module_path, record.args);
            let _unheard = io::stderr().write_all(line.as_bytes());
        }
    }
}
