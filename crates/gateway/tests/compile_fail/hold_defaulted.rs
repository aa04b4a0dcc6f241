//! A hold, and what is on its way to one or from it, cannot be defaulted.

use countersign_store::{Finished, Hold, Reserved, Settling};

fn default<T: Default>() {}

fn main() {
    default::<Hold>();
    default::<Settling>();
    default::<Finished>();
    default::<Reserved>();
}
