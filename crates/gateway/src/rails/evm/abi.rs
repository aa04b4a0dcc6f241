//! The few functions and events of an EIP-3009 token, as bytes. Pure.

use countersign_core::wire::eip712::{Address, Signature, TransferAuthorization, word};

/// `transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)`:
/// the form that every version of the interface has.
const TRANSFER_VRS: [u8; 4] = [0xe3, 0xee, 0x16, 0x0e];
/// `authorizationState(address,bytes32)`.
const AUTHORIZATION_STATE: [u8; 4] = [0xe9, 0x4a, 0x01, 0x02];
/// `balanceOf(address)`.
const BALANCE_OF: [u8; 4] = [0x70, 0xa0, 0x82, 0x31];

/// `AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce)`.
pub(super) const AUTHORIZATION_USED: &str =
    "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5";
/// `AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce)`.
pub(super) const AUTHORIZATION_CANCELED: &str =
    "0x1cdd46ff242716cdaa72d159d339a485b3438398348d68f09d7c8c0a59353d81";
/// `Transfer(address indexed from, address indexed to, uint256 value)`.
pub(super) const TRANSFER: &str =
    "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef";

pub(super) fn transfer_with_authorization(
    authorization: &TransferAuthorization,
    signature: &Signature,
) -> Vec<u8> {
    let words = [
        authorization.from.to_word(),
        authorization.to.to_word(),
        word(authorization.value),
        word(u128::from(authorization.valid_after_s)),
        word(u128::from(authorization.valid_before_s)),
        authorization.nonce,
        word(u128::from(signature.v())),
        *signature.r(),
        *signature.s(),
    ];
    [TRANSFER_VRS.as_slice(), words.as_flattened()].concat()
}

pub(super) fn authorization_state(from: Address, nonce: &[u8; 32]) -> Vec<u8> {
    [AUTHORIZATION_STATE.as_slice(), &from.to_word(), nonce].concat()
}

pub(super) fn balance_of(account: Address) -> Vec<u8> {
    [BALANCE_OF.as_slice(), &account.to_word()].concat()
}

/// A number of one word; `None` for anything else or above 128 bits.
pub(super) fn number(bytes: &[u8]) -> Option<u128> {
    let word: &[u8; 32] = bytes.try_into().ok()?;
    let (high, low) = word.split_at(16);
    let low: [u8; 16] = low.try_into().ok()?;
    high.iter().all(|byte| *byte == 0).then_some(u128::from_be_bytes(low))
}

/// A bool of one word; `None` for anything but 0 and 1.
pub(super) fn boolean(bytes: &[u8]) -> Option<bool> {
    match number(bytes)? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use countersign_core::wire::eip712::keccak256;

    #[test]
    fn selectors_and_topics_are_the_hashes_of_their_signatures() {
        let selector = |text: &str| keccak256(text.as_bytes()).split_at(4).0.to_vec();
        let transfer = "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,\
                        uint8,bytes32,bytes32)";
        assert_eq!(selector(transfer), TRANSFER_VRS);
        assert_eq!(selector("authorizationState(address,bytes32)"), AUTHORIZATION_STATE);
        assert_eq!(selector("balanceOf(address)"), BALANCE_OF);
        let topic = |text: &str| format!("0x{}", hex::encode(keccak256(text.as_bytes())));
        assert_eq!(topic("AuthorizationUsed(address,bytes32)"), AUTHORIZATION_USED);
        assert_eq!(topic("AuthorizationCanceled(address,bytes32)"), AUTHORIZATION_CANCELED);
        assert_eq!(topic("Transfer(address,address,uint256)"), TRANSFER);
    }

    #[test]
    fn words_are_read_strictly() {
        assert_eq!(number(&word(5)), Some(5));
        assert_eq!(number(&[0xff; 32]), None);
        assert_eq!(number(&[]), None);
        assert_eq!(boolean(&word(1)), Some(true));
        assert_eq!(boolean(&word(2)), None);
    }
}
