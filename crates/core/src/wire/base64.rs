//! Base64 as clients really send it: either alphabet, padded or not.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const EITHER_PADDING: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const EITHER_PADDING_URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Decodes either alphabet, padded or not; `None` for anything else, two alphabets in one text
/// included.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let url_safe = text.contains(['-', '_']);
    let engine = if url_safe { &EITHER_PADDING_URL } else { &EITHER_PADDING };
    engine.decode(text).ok()
}

/// Decodes the standard alphabet with padding, and nothing else.
pub(super) fn decode_standard(text: &str) -> Option<Vec<u8>> {
    general_purpose::STANDARD.decode(text).ok()
}

/// Encodes in the standard alphabet with padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    general_purpose::STANDARD.encode(bytes)
}

/// Encodes in the URL-safe alphabet without padding.
pub(super) fn encode_url(bytes: &[u8]) -> String {
    general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_a_client_uses_decodes_and_no_other() {
        let bytes = [0xfb, 0xef, 0xff, 0x01];
        for text in ["++//AQ==", "++//AQ", "--__AQ==", "--__AQ"] {
            assert_eq!(decode(text).as_deref(), Some(bytes.as_slice()), "{text}");
        }
        for text in ["+-//AQ==", "++//AQ=x", "++/ /AQ==", "++//AR", "A", "é"] {
            assert_eq!(decode(text), None, "{text}");
        }
        assert_eq!(decode_standard("++//AQ"), None);
    }
}
