//! A hold does not come from outside as bytes.

use countersign_store::{Finished, Hold, Settling};
use serde::de::DeserializeOwned;

fn read<T: DeserializeOwned>() {}

fn main() {
    read::<Hold>();
    read::<Settling>();
    read::<Finished>();
}
