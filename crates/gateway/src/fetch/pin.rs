//! A pinned certificate: TLS to a machine of the operator's own, which signs for itself.

use countersign_client::trusting;
use std::{fmt, sync::Arc};

/// A certificate that is pinned: exactly this one is accepted, whatever name and dates it has.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin(Arc<str>);

/// A text that holds no certificate in PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinError;

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is no certificate in PEM")
    }
}

impl std::error::Error for PinError {}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin")
    }
}

impl Pin {
    /// The first certificate of a PEM text.
    ///
    /// # Errors
    /// There is none.
    pub fn from_pem(pem: &str) -> Result<Self, PinError> {
        trusting(pem).map(|_| Self(pem.into())).ok_or(PinError)
    }

    /// The certificate, in PEM.
    pub(super) fn pem(&self) -> &str {
        &self.0
    }
}
