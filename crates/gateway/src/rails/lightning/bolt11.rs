//! BOLT11 invoices as nodes make them: read and checked before anybody sees them.

use super::NodeError;
use countersign_core::time::UnixMs;
use lightning_invoice::{Bolt11Invoice, Currency};
use std::str::FromStr as _;

/// A BOLT11 invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invoice {
    /// Its text.
    pub bolt11: String,
    /// SHA-256 of the preimage.
    pub payment_hash: [u8; 32],
    /// What it asks, in millisatoshi.
    pub amount_msat: u64,
    /// When it lapses.
    pub expires_at: UnixMs,
}

impl Invoice {
    /// Reads an invoice of a network: signature, checksum and required fields are the parser's
    /// business.
    ///
    /// # Errors
    /// [`NodeError::Nonsense`]: no invoice, of another network, or without an amount.
    pub fn read(bolt11: &str, network: &Currency) -> Result<Self, NodeError> {
        let invoice = Bolt11Invoice::from_str(bolt11).map_err(|_| NodeError::Nonsense)?;
        if invoice.currency() != *network {
            return Err(NodeError::Nonsense);
        }
        let amount_msat = invoice.amount_milli_satoshis().ok_or(NodeError::Nonsense)?;
        let expires_at = invoice.expires_at().ok_or(NodeError::Nonsense)?;
        let expires_at_ms =
            u64::try_from(expires_at.as_millis()).map_err(|_| NodeError::Nonsense)?;
        Ok(Self {
            bolt11: bolt11.to_owned(),
            payment_hash: super::hash(&invoice.payment_hash().to_string())?,
            amount_msat,
            expires_at: UnixMs(expires_at_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invoice_for_real_money_is_nonsense_in_the_sandbox() {
        // The specification's example for mainnet.
        let mainnet = "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5\
                       qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxq\
                       zpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3\
                       qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh";
        assert!(Invoice::read(mainnet, &Currency::Bitcoin).is_ok());
        assert_eq!(Invoice::read(mainnet, &Currency::Regtest), Err(NodeError::Nonsense));
        assert_eq!(Invoice::read("lnbcrt1", &Currency::Regtest), Err(NodeError::Nonsense));
    }
}
