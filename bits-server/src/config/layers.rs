//! The layers of a configuration, one over the other: file, environment, flags. What is left is
//! one raw value for a key, with the place where it was given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::{Location, Problems};
use super::keys::{self, REPEATED, Section, TABLES, dotted, unknown_key, unknown_variable};
use super::setting::{Raw, Setting};
use super::{DirectoryConfig, Overrides, StorageConfig, secret};

/// The raw values of all tables.
#[derive(Debug)]
pub(super) struct Layers {
    /// All but repeated ones, by name; the top under the empty one.
    tables: BTreeMap<&'static str, Table>,
    /// Repeated ones by name, where the file has them: one for each `[[...]]`.
    repeated: BTreeMap<&'static str, Vec<Table>>,
    /// Where relative paths start: the folder of the file.
    base: PathBuf,
}

/// The raw values of one table.
#[derive(Debug)]
pub(super) struct Table {
    name: &'static str,
    location: Location,
    values: BTreeMap<String, Value>,
}

#[derive(Debug)]
struct Value {
    raw: Raw,
    location: Location,
    /// The file that it was read from, where the key named one.
    file: Option<PathBuf>,
}

impl Value {
    fn new(raw: Raw, location: Location) -> Self {
        Self { raw, location, file: None }
    }

    /// The secret that the file holds which `raw` names.
    fn from_file(base: &Path, raw: &Raw, location: Location) -> Result<Self, String> {
        let file = secret::path(base, raw)?;
        Ok(Self { raw: secret::from_file(&file)?, location, file: Some(file) })
    }
}

impl Layers {
    /// Nothing but defaults.
    pub(super) fn empty() -> Self {
        let tables = TABLES.into_iter().filter(|name| !REPEATED.contains(name)).chain([""]);
        let tables = tables.map(|name| (name, Table::new(name, Location::Default))).collect();
        Self { tables, repeated: BTreeMap::new(), base: PathBuf::new() }
    }

    /// Puts the file at the bottom. Text that is no TOML is reported and nothing of it used.
    pub(super) fn add_file(&mut self, path: &Path, text: &str, problems: &mut Problems) {
        let file = File { path, text };
        self.base = file.base().to_owned();
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = error.span().map_or(1, |span| file.line(span.start));
            problems
                .add_without_key(Location::Line(path.to_owned(), line), format!("no valid TOML: {}", error.message()));
        }
        if errors.is_empty() {
            for (key, value) in document.get_ref() {
                self.add_top(&file, key, value, problems);
            }
        }
    }

    /// Puts the environment over it.
    pub(super) fn add_environment(&mut self, env: impl Iterator<Item = (String, String)>, problems: &mut Problems) {
        for (name, text) in env.filter(|(name, _)| name.starts_with("BITS__")) {
            if let Err(message) = self.add_variable(&name, text) {
                let key = name["BITS__".len()..].to_ascii_lowercase().replace("__", ".");
                problems.add(&Location::Variable(name), key, message);
            }
        }
    }

    /// Puts the flags on top.
    pub(super) fn add_flags(&mut self, flags: &Overrides) {
        if !flags.listen.is_empty() {
            let raw = Raw::List(flags.listen.iter().cloned().map(Raw::Text).collect());
            self.top_mut().insert("listen", Value::new(raw, Location::Flag("--listen")));
        }
    }

    /// The files that secrets were read from.
    pub(super) fn secret_files(&self) -> Vec<PathBuf> {
        let tables = self.tables.values().chain(self.repeated.values().flatten());
        tables.flat_map(|table| table.values.values()).filter_map(|value| value.file.clone()).collect()
    }

    /// The table that `T` is read from, which is any but a repeated one.
    pub(super) fn table<T: Section>(&self) -> &Table {
        &self.tables[T::TABLE]
    }

    /// The tables that `T` is read from, which is a repeated one; none where the file has no such key.
    pub(super) fn repeated<T: Section>(&self) -> Option<&[Table]> {
        self.repeated.get(T::TABLE).map(Vec::as_slice)
    }

    fn top_mut(&mut self) -> &mut Table {
        self.tables.entry("").or_insert_with(|| Table::new("", Location::Default))
    }

    fn add_top(&mut self, file: &File<'_>, key: &Key<'_>, value: &Spanned<DeValue<'_>>, problems: &mut Problems) {
        let name = key.get_ref().as_ref();
        let location = file.location(key);
        if let Some(repeated) = REPEATED.into_iter().find(|repeated| *repeated == name) {
            let tables = file.repeated(repeated, &location, value.get_ref(), problems);
            self.repeated.extend(tables.map(|tables| (repeated, tables)));
        } else if let Some(table) = self.tables.get_mut(name).filter(|_| !name.is_empty()) {
            table.location = location;
            table.add(file, value.get_ref(), problems);
        } else {
            self.top_mut().add_value(file, key, value, problems);
        }
    }

    fn add_variable(&mut self, name: &str, text: String) -> Result<(), String> {
        let lower = name["BITS__".len()..].to_ascii_lowercase();
        if REPEATED.iter().any(|repeated| lower.starts_with(repeated)) {
            return Err(FILE_ONLY.to_owned());
        }
        if name.starts_with("BITS__STORAGE__OPTIONS__") {
            return self.add_option(name, text);
        }
        let known = keys::find_variable(name);
        let table = known.and_then(|(key, in_file)| Some((key.name, in_file, self.tables.get_mut(key.table)?)));
        let (key, in_file, table) = table.ok_or_else(|| unknown_variable(name))?;
        if matches!(table.location(key), Location::Variable(_)) {
            return Err(GIVEN_TWICE.to_owned());
        }
        let (raw, location) = (Raw::Text(text), Location::Variable(name.to_owned()));
        let value = if in_file { Value::from_file(&self.base, &raw, location)? } else { Value::new(raw, location) };
        table.insert(key, value);
        Ok(())
    }
}

impl Layers {
    /// One more option of the object stores.
    fn add_option(&mut self, variable: &str, text: String) -> Result<(), String> {
        let name = variable["BITS__STORAGE__OPTIONS__".len()..].to_ascii_lowercase();
        let table = self.tables.get_mut(StorageConfig::TABLE).ok_or_else(|| unknown_variable(variable))?;
        let mut options = match table.values.remove("options").map(|value| value.raw) {
            Some(Raw::Table(options)) => options,
            _ => Vec::new(),
        };
        options.retain(|(other, _)| !other.eq_ignore_ascii_case(&name));
        options.push((name, Raw::Text(text)));
        table.insert("options", Value::new(Raw::Table(options), Location::Variable(variable.to_owned())));
        Ok(())
    }
}

impl Table {
    pub(super) fn new(name: &'static str, location: Location) -> Self {
        Self { name, location, values: BTreeMap::new() }
    }

    /// The value of a key; one that is wrong is reported, and the default taken to go on.
    pub(super) fn read<T: Setting>(&self, name: &str, default: &str, problems: &mut Problems) -> T {
        let Some(value) = self.values.get(name) else { return T::declared(default) };
        T::read(&value.raw).unwrap_or_else(|message| {
            problems.add(&value.location, dotted(self.name, name), message);
            T::declared(default)
        })
    }

    /// Where a key was given, or else the table.
    pub(super) fn location(&self, name: &str) -> &Location {
        self.values.get(name).map_or(&self.location, |value| &value.location)
    }

    /// Whether a key was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    fn insert(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }

    fn add(&mut self, file: &File<'_>, value: &DeValue<'_>, problems: &mut Problems) {
        match value {
            DeValue::Table(table) => table.iter().for_each(|(key, value)| self.add_value(file, key, value, problems)),
            _ => problems.add(&self.location, self.name, raw(value).not(&format!("a table {}", header(self.name)))),
        }
    }

    fn add_value(&mut self, file: &File<'_>, key: &Key<'_>, value: &Spanned<DeValue<'_>>, problems: &mut Problems) {
        let name = key.get_ref().as_ref();
        let location = file.location(key);
        let value = raw(value.get_ref());
        let found = keys::find(self.name, name).ok_or_else(|| unknown_key(self.name, name));
        let read = found.and_then(|(key, in_file)| {
            let at = location.clone();
            let value = if in_file { Value::from_file(file.base(), &value, at)? } else { Value::new(value, at) };
            let twice = self.values.contains_key(key.name);
            if twice { Err(GIVEN_TWICE.to_owned()) } else { Ok((key.name, value)) }
        });
        match read {
            Ok((key, value)) => self.insert(key, value),
            Err(message) => problems.add(&location, dotted(self.name, name), message),
        }
    }
}

type Key<'a> = Spanned<toml::de::DeString<'a>>;

const GIVEN_TWICE: &str = "the secret is given both as it is and as a file; remove one";
const FILE_ONLY: &str = "repeated tables come from the file only; remove the variable and write a [[...]] table there";

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> File<'a> {
    fn base(&self) -> &'a Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn repeated(
        &self,
        name: &'static str,
        location: &Location,
        value: &DeValue<'_>,
        problems: &mut Problems,
    ) -> Option<Vec<Table>> {
        match value {
            // `check` shows that there are none so.
            DeValue::Array(items) if !items.is_empty() || name != DirectoryConfig::TABLE => {
                return Some(items.iter().map(|item| self.one_of(name, item, problems)).collect());
            }
            DeValue::Array(_) => {
                problems.add(location, name, format!("is empty; write at least one {}", header(name)));
            }
            _ => problems.add(location, name, raw(value).not(&format!("a table {}", header(name)))),
        }
        None
    }

    fn one_of(&self, name: &'static str, item: &Spanned<DeValue<'_>>, problems: &mut Problems) -> Table {
        let mut table = Table::new(name, Location::Line(self.path.to_owned(), self.line(item.span().start)));
        table.add(self, item.get_ref(), problems);
        table
    }

    fn location(&self, key: &Key<'_>) -> Location {
        Location::Line(self.path.to_owned(), self.line(key.span().start))
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }
}

fn header(table: &str) -> String {
    if REPEATED.contains(&table) { format!("[[{table}]]") } else { format!("[{table}]") }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or(Raw::Other("a number out of range"), Raw::Integer),
        DeValue::Boolean(value) => Raw::Bool(*value),
        DeValue::Array(items) => Raw::List(list(items)),
        DeValue::Table(table) => {
            Raw::Table(table.iter().map(|(key, value)| (key.get_ref().to_string(), raw(value.get_ref()))).collect())
        }
        DeValue::Float(_) => Raw::Other("a fraction"),
        DeValue::Datetime(_) => Raw::Other("a date"),
    }
}

fn list(items: &DeArray<'_>) -> Vec<Raw> {
    items.iter().map(|item| raw(item.get_ref())).collect()
}
