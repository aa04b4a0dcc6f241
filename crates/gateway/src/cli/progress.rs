//! A bar on the terminal while work is done: how far it has come, and what may still be expected.

use countersign_client::{WorkObserver, WorkProgress};
use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::Arc,
};

/// Cells of the bar.
const WIDTH: u64 = 30;

/// Draws a bar on standard error; `None` where nobody sees it.
pub(super) fn work_bar() -> Option<WorkObserver> {
    if !io::stderr().is_terminal() {
        return None;
    }
    Some(Arc::new(|progress| {
        // What cannot be drawn is not worth ending a call for.
        let _gone = io::stderr().write_all(bar(progress).as_bytes());
    }))
}

/// The bar is full at three times the average, which nineteen of twenty searches do not reach.
fn bar(progress: WorkProgress) -> String {
    if progress.is_over {
        return "\r\x1b[K".to_owned();
    }
    let WorkProgress { hashes, expected, .. } = progress;
    let full = u128::from(expected).saturating_mul(3).max(1);
    let cells = u128::from(hashes).saturating_mul(u128::from(WIDTH)) / full;
    let cells = usize::try_from(cells.min(u128::from(WIDTH))).unwrap_or(0);
    let width = usize::try_from(WIDTH).unwrap_or(0);
    let drawn = format!("{:<width$}", "#".repeat(cells));
    format!("\rworking [{drawn}] {} of about {} hashes\x1b[K", short(hashes), short(expected))
}

/// A number with three digits at most.
fn short(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{}k", number / 1_000),
        1_000_000..1_000_000_000 => format!("{}M", number / 1_000_000),
        _ => format!("{}G", number / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_and_goes() {
        let at = |hashes, is_over| bar(WorkProgress { hashes, expected: 4_000_000, is_over });
        assert!(at(0, false).contains(&format!("[{}] 0 of about 4M hashes", " ".repeat(30))));
        assert!(at(4_000_000, false).contains(&format!(
            "[{}{}] 4M",
            "#".repeat(10),
            " ".repeat(20)
        )));
        assert!(at(u64::MAX, false).contains(&"#".repeat(30)));
        assert_eq!(at(9, true), "\r\x1b[K");
    }
}
