//! Evidence that is good once cannot be doubled either.

use countersign_core::{
    policy::Decision,
    proof::{PaidX402, VerifiedCredential, VerifiedWork},
};

fn clone<T: Clone>() {}

fn main() {
    clone::<PaidX402>();
    clone::<VerifiedCredential>();
    clone::<VerifiedWork>();
    clone::<Decision>();
}
