//! `policy fmt`: a bundle's policies as Cedar's own formatter writes them, comments and
//! annotations kept.
//!
//! INVARIANT: what is written means the same: the formatter compares both texts policy by policy,
//! and a text that loses a comment is not written.

use super::{read, refused};
use crate::{
    cli::{
        out::{Out, note},
        stop::Stop,
    },
    prove::policy::{Bundle, BundleError, Engine},
};
use cedar_policy_formatter::{Config, policies_str_to_pretty};
use serde::Serialize;
use std::path::Path;

/// What became of the file.
#[derive(Serialize)]
struct Formatted {
    file: &'static str,
    /// It is not in the form, or was not.
    differs: bool,
    /// The first line that is not, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
}

/// Writes the policies anew; with `is_check` only says whether it would.
pub(super) fn fmt(dir: &Path, is_check: bool, out: Out) -> Result<(), Stop> {
    let bundle = read(dir)?;
    let old = bundle.policies();
    let new = formatted(&bundle)?;
    let differs = old != new;
    if differs && !is_check {
        Bundle::write_policies(dir, &new).map_err(refused)?;
        if bundle.manifest().is_some() {
            note("manifest and signature are of the old text: make them anew");
        }
    }
    let same = old.lines().zip(new.lines()).take_while(|(old, new)| old == new).count();
    let line = differs.then(|| same.saturating_add(1));
    let formatted = Formatted { file: "policies.cedar", differs, line };
    out.show(&formatted, |found| match (found.line, is_check) {
        (None, _) => "formatted already".to_owned(),
        (Some(_), false) => "formatted".to_owned(),
        (Some(line), true) => format!("{}:{line}: not formatted", found.file),
    })?;
    if is_check && differs { Err(Stop::failed()) } else { Ok(()) }
}

fn formatted(bundle: &Bundle) -> Result<String, Stop> {
    let old = bundle.policies();
    let config = Config { line_width: 100, indent_width: 4 };
    let new = policies_str_to_pretty(old, &config).map_err(|error| {
        // Its own words name no place; those of loading do.
        let flaws = Engine::of(bundle).err().map(BundleError::from);
        flaws.map_or_else(|| Stop::usage(format_args!("cannot format: {error}")), refused)
    })?;
    if comments(&new) == comments(old) {
        return Ok(new);
    }
    Err(Stop::usage("a comment would be lost: the file is left as it is"))
}

/// The words of all comments, in order. A `//` in a string counts too, on both sides.
fn comments(text: &str) -> Vec<&str> {
    let remarks = text.lines().filter_map(|line| Some(line.split_once("//")?.1));
    remarks.flat_map(str::split_whitespace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UGLY: &str = "// Before.\n@id(\"a\")@reason(\"A\")\n  permit(principal ,action,\n\n\n\
        resource)when{ // Why.\n context.price.micros<=1 };\n// Last.\n";

    fn fmt(text: &str) -> String {
        formatted(&Bundle::of_texts(Engine::BUILTIN_SCHEMA, text)).unwrap()
    }

    #[test]
    fn comments_and_annotations_stay_and_formatting_again_changes_nothing() {
        expect_test::expect![[r#"
            // Before.
            @id("a")
            @reason("A")
            permit (principal, action, resource)
            when
            { // Why.
                context.price.micros <= 1
            };
            // Last.
        "#]]
        .assert_eq(&fmt(UGLY));
        assert_eq!(fmt(&fmt(UGLY)), fmt(UGLY));
    }

    #[test]
    fn the_built_in_policies_are_in_the_form() {
        assert_eq!(fmt(Engine::BUILTIN_POLICIES), Engine::BUILTIN_POLICIES);
    }

    #[test]
    fn what_is_no_policy_is_told_with_its_place() {
        let bundle =
            Bundle::of_texts(Engine::BUILTIN_SCHEMA, "permit (principal, action resource);");
        let stop = formatted(&bundle).unwrap_err().to_string();
        assert!(stop.contains("policies:1:27"), "{stop}");
    }
}
