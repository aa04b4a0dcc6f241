//! A hold, and what is on its way to one or from it, cannot be cloned.

use countersign_store::{Finished, Hold, Reserved, Settling};

fn clone<T: Clone>() {}

fn main() {
    clone::<Hold>();
    clone::<Settling>();
    clone::<Finished>();
    clone::<Reserved>();
}
