//! `fsck`: whether the database keeps the ledger's invariants.

use super::{Shared, out::Out, stop::Stop};
use countersign_store::{Checked, fsck};

/// Checks the configuration's data directory, and says what does not fit.
pub(super) fn run(shared: &Shared, out: Out) -> Result<(), Stop> {
    let dir = shared.load_quietly()?.0.data_dir;
    if !dir.is_dir() {
        return Err(Stop::usage(format_args!("there is no data directory at `{}`", dir.display()))
            .next("name the configuration with --config, or run the gateway first"));
    }
    let checked = fsck(&dir).map_err(anyhow::Error::from)?;
    out.show(&checked, text)?;
    if checked.findings.is_empty() { Ok(()) } else { Err(Stop::failed()) }
}

fn text(checked: &Checked) -> String {
    let Checked { records, calls, transfers, findings } = checked;
    let looked = format!("{records} records, {calls} calls, {transfers} bookings of money");
    if findings.is_empty() {
        return format!("sound: {looked}");
    }
    let mut lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    lines.push(format!(
        "unsound: {looked}. Keep the data directory as it is, and compare it with the published \
         log (`countersign audit verify`)"
    ));
    lines.join("\n")
}
