//! Errors that leave no doubt about money: nothing was paid for the call that ends in one.
//!
//! INVARIANT: no token, key, credential or argument value enters an error.

use crate::{problem::Problem, secret::SecretError, wallet::WalletError};
use std::fmt;

/// Why an exchange with a server gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// No connection: the server has seen nothing.
    Unreachable,
    /// The connection ended before the answer did: the server may have acted.
    Lost,
    /// The answer did not come in time: the server may have acted.
    TimedOut,
    /// The answer is larger than the limit.
    TooLarge,
    /// The answer is not of this protocol.
    NotMcp,
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "the server cannot be reached",
            Self::Lost => "the connection ended before the answer",
            Self::TimedOut => "the server did not answer in time",
            Self::TooLarge => "the answer is larger than the limit",
            Self::NotMcp => "the answer is not MCP over streamable HTTP",
        })
    }
}

/// Why there is no outcome.
#[derive(Clone, Debug)]
pub enum ClientError {
    /// The address is not an http or https URL.
    BadUrl,
    /// Plain http to another machine, where tokens and payments can be read on the way.
    PlainHttp,
    /// The arguments, the `_meta` or the capabilities are not a JSON object without duplicate
    /// keys, or a header cannot carry what it must.
    BadInput,
    /// No answer, and no payment was on its way.
    Transport(TransportError),
    /// The server refused the opening or the list.
    Refused(Box<Problem>),
    /// The server answered with a JSON-RPC error.
    Rpc {
        /// Its code.
        code: i64,
        /// Its message.
        message: String,
    },
    /// The server speaks no version that we do.
    Version,
    /// The wallet.
    Wallet(WalletError),
    /// A secret.
    Secret(SecretError),
    /// The directory of credentials cannot be used.
    Cache(std::io::ErrorKind),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadUrl => f.write_str("the address is not an http or https URL"),
            Self::PlainHttp => f.write_str("plain http to another machine is refused: use https"),
            Self::BadInput => f.write_str("the input is not a JSON object that can be sent"),
            Self::Transport(error) => error.fmt(f),
            Self::Refused(problem) => problem.fmt(f),
            Self::Rpc { code, message } => write!(f, "the server answered {code}: {message}"),
            Self::Version => f.write_str("the server speaks no version of MCP that we do"),
            Self::Wallet(error) => error.fmt(f),
            Self::Secret(error) => error.fmt(f),
            Self::Cache(kind) => write!(f, "the directory of credentials: {kind}"),
        }
    }
}

impl std::error::Error for TransportError {}

impl std::error::Error for ClientError {}

impl From<TransportError> for ClientError {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

impl From<WalletError> for ClientError {
    fn from(error: WalletError) -> Self {
        Self::Wallet(error)
    }
}

impl From<SecretError> for ClientError {
    fn from(error: SecretError) -> Self {
        Self::Secret(error)
    }
}
