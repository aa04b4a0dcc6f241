//! A pinned certificate: TLS to a machine of the operator's own, which signs for itself.
//!
//! INVARIANT: exactly this certificate is accepted, and only from who has its key. Names and dates
//! in it count for nothing: whoever pins says which machine is meant.

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use std::{fmt, sync::Arc};

/// A certificate that is pinned.
#[derive(Clone)]
pub struct Pin(Arc<Pinned>);

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
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| PinError)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        Ok(Self(Arc::new(Pinned { certificate: certificate.into_owned(), provider })))
    }

    /// TLS under the pin.
    pub(super) fn tls(&self) -> Option<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.0.provider));
        let builder = builder.with_safe_default_protocol_versions().ok()?;
        let verifier: Arc<dyn ServerCertVerifier> = Arc::<Pinned>::clone(&self.0);
        Some(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
    }
}

#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if end_entity.as_ref() == self.certificate.as_ref() {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("another certificate than the pinned one".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
