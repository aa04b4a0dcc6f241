//! Files: reading one, finding out its notation, and the way from text to [`Config`].

use super::{
    Config, ReadFrom, check,
    finding::{ConfigErrors, Finding, Warning, sort},
    raw::RawConfig,
    report::{At, Found, Mend, Report, mended, with_lines},
    resolve,
    template::{self, RawTemplateFile},
    tree::Tree,
};
use countersign_core::digest::Digest;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde::de::{DeserializeOwned, DeserializeSeed};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, fmt, io::Read as _, path::Path};

/// Largest file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `.yaml`, `.yml`.
    Yaml,
    /// `.toml`.
    Toml,
    /// `.json`.
    Json,
}

impl Format {
    /// By a file's extension.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "yaml" | "yml" => Some(Self::Yaml),
            "toml" => Some(Self::Toml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    /// Reads a text with a seed. Messages of the parsers are kept, their quotations of the file
    /// are not: these may hold secrets.
    pub(super) fn with<'t, S: DeserializeSeed<'t>>(
        self,
        text: &'t str,
        seed: S,
    ) -> Result<S::Value, Finding> {
        match self {
            Self::Yaml => {
                let parser = serde_yaml_ng::Deserializer::from_str(text);
                seed.deserialize(parser).map_err(|error| {
                    let line = error.location().map(|at| at.line());
                    broken(self, &error.to_string(), line)
                })
            }
            Self::Json => {
                let mut parser = serde_json::Deserializer::from_str(text);
                let read = seed.deserialize(&mut parser);
                read.and_then(|value| parser.end().map(|()| value)).map_err(|error| {
                    let line = Some(error.line()).filter(|line| *line > 0);
                    broken(self, &error.to_string(), line)
                })
            }
            Self::Toml => {
                let read = toml::Deserializer::parse(text).and_then(|toml| seed.deserialize(toml));
                read.map_err(|error| {
                    let line = error.span().map(|span| {
                        let before = text.bytes().take(span.start);
                        before.filter(|b| *b == b'\n').count().saturating_add(1)
                    });
                    broken(self, error.message(), line)
                })
            }
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yaml => "YAML",
            Self::Toml => "TOML",
            Self::Json => "JSON",
        })
    }
}

fn broken(format: Format, message: &str, line: Option<usize>) -> Finding {
    // The position is told once, by the line.
    let message = message.split(" at line ").next().unwrap_or(message);
    let message = message.lines().next().unwrap_or(message);
    Finding::new("", format!("not valid {format}: {message}"))
        .at_line(line.and_then(|line| u32::try_from(line).ok()))
}

/// What a configuration takes from outside its file.
#[derive(Clone, Default)]
pub struct Surroundings {
    env: BTreeMap<String, String>,
}

impl Surroundings {
    /// The process's environment. Variables that are not UTF-8 are absent.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self { env: std::env::vars_os().filter_map(text).collect() }
    }

    /// With a variable set: tests, and flags that override the environment.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(super) fn env(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str)
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Surroundings({} variables)", self.env.len())
    }
}

/// Reads a file in the process's own surroundings.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    load_with(path, &Surroundings::of_process())
}

/// Reads a file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_with(
    path: &Path,
    surroundings: &Surroundings,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let file = path.display().to_string();
    let refused = |finding| ConfigErrors::new(file.clone(), vec![finding]);
    let Some(format) = Format::of(path) else {
        let finding = Finding::new("", "the file's name does not say what it is");
        return Err(refused(finding.hint("end it in .yaml, .yml, .toml or .json")));
    };
    let text = read_text(path, MAX_FILE_BYTES)
        .map_err(|message| refused(Finding::new("", format!("the file {message}"))))?;
    let dir = path.parent().unwrap_or(Path::new(""));
    let (config, warnings) = load_text(&text, format, dir, surroundings)
        .map_err(|errors| ConfigErrors { file: file.clone(), ..errors })?;
    let read_from = ReadFrom { file: path.to_owned(), digest: Digest::of(text.as_bytes()) };
    Ok((Config { read_from: Some(read_from), ..config }, warnings))
}

/// Reads a text as if it stood in a file in `dir`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_text(
    text: &str,
    format: Format,
    dir: &Path,
    surroundings: &Surroundings,
) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let refused = |findings| ConfigErrors::new("configuration", findings);
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(refused(vec![Finding::new("", "the file is larger than 1 MiB")]));
    }
    let tree = Tree::read(text, format).map_err(|finding| refused(vec![finding]))?;
    let mut report = Report::default();
    let config = understand(tree, dir, surroundings, &mut report);
    let problems = with_lines(report.problems, text, format);
    match config {
        Some(config) if problems.is_empty() => {
            let mut warnings = with_lines(report.warnings, text, format);
            sort(&mut warnings);
            Ok((config, warnings))
        }
        _ if problems.is_empty() => {
            Err(refused(vec![Finding::new("", "the configuration could not be understood")]))
        }
        _ => Err(refused(problems)),
    }
}

/// From the tree to the configuration; `None`, or any problem in the report, refuses it.
fn understand(
    tree: Tree,
    dir: &Path,
    surroundings: &Surroundings,
    report: &mut Report,
) -> Option<Config> {
    for duplicate in tree.duplicates {
        let found = Found::new(At(duplicate), "this member occurs twice");
        let mut found = found.hint("keep one of them");
        found.occurrence = 1;
        report.problems.push(found);
    }
    if tree.root.is_null() {
        let hint = "start from the output of `countersign init`";
        report.problem(&At::top(), "the file is empty", hint);
        return None;
    }
    if tree.root.get("mcp_server").is_some() {
        let template: RawTemplateFile = read(tree.root, report)?;
        let raw = template::convert(template, surroundings, report)?;
        let mut inner = Report::default();
        let config = resolve::resolve(raw, dir, surroundings, &mut inner);
        report.problems.extend(inner.problems.into_iter().map(template::translate));
        report.warnings.extend(inner.warnings.into_iter().map(template::translate));
        return config;
    }
    let raw: RawConfig = read(tree.root, report)?;
    resolve::resolve(raw, dir, surroundings, report)
}

/// Checks a tree against its type's schema and reads it, mending what can be for the sake of
/// finding more.
fn read<T: DeserializeOwned + JsonSchema>(root: Value, report: &mut Report) -> Option<T> {
    let found = check::check(&schema_of::<T>(), &root);
    let tree = mended(root, &found);
    report.problems.extend(found);
    match serde_json::from_value(tree?) {
        Ok(raw) => Some(raw),
        Err(_) if !report.problems.is_empty() => None,
        Err(error) => {
            // The checker and the types disagree. Refuse; the message names types, not values.
            let kind = error.classify();
            let message = format!("the file does not fit the schema ({kind:?})");
            report.problems.push(Found::new(At::top(), message).mend(Mend::Stop));
            None
        }
    }
}

/// The text of a file of limited size, or what is wrong with it.
pub(super) fn read_text(path: &Path, max_bytes: u64) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut bytes = Vec::new();
    let mut limited = file.take(max_bytes.saturating_add(1));
    limited.read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max_bytes {
        return Err(format!("is larger than {max_bytes} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}

/// The JSON Schema of a configuration file, generated from the types, members sorted.
#[must_use]
pub fn schema() -> Value {
    schema_of::<RawConfig>()
}

fn schema_of<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    sorted(generator.into_root_schema_for::<T>().to_value())
}

/// The same with every object's members in order, whatever map the parser was built with, and
/// without defaults of nothing.
pub(crate) fn sorted(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let said = |(name, value): &(String, Value)| name != "default" || !value.is_null();
            let members: BTreeMap<String, Value> = members.into_iter().filter(said).collect();
            let sort = |(name, value)| (name, sorted(value));
            Value::Object(members.into_iter().map(sort).collect::<Map<_, _>>())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}
