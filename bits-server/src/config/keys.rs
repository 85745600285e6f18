//! Declares keys: once, with name, type, default and a sentence. Reading, `check` and
//! documentation all follow the declaration.

use super::{Admin, DirectoryConfig, Limits, ListenerConfig, Root, StateConfig, StorageConfig, WebhookConfig};

/// A key of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The table that holds it, empty for the top.
    pub table: &'static str,
    /// Its name within the table.
    pub name: &'static str,
    /// The value that holds where none is given, as the environment would spell it.
    pub default: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Whether it may hold a secret, which can then be given as a file under this name and `_file`.
    pub secret: bool,
}

impl Key {
    /// The name with its table: `limits.connections`.
    pub fn path(&self) -> String {
        dotted(self.table, self.name)
    }

    /// The environment variable that sets it, if it is not in a repeated table.
    pub fn variable(&self) -> Option<String> {
        let path = self.path().to_ascii_uppercase().replace('.', "__");
        (!REPEATED.contains(&self.table)).then(|| format!("BITS__{path}"))
    }
}

/// All keys, in the order in which they are documented.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    let sections = [
        Root::KEYS,
        ListenerConfig::KEYS,
        Admin::KEYS,
        StateConfig::KEYS,
        StorageConfig::KEYS,
        Limits::KEYS,
        DirectoryConfig::KEYS,
        WebhookConfig::KEYS,
    ];
    sections.into_iter().flatten()
}

/// A table of the configuration as a type.
pub(super) trait Section: Sized {
    /// Its name, empty for the top.
    const TABLE: &'static str;
    /// Its keys.
    const KEYS: &'static [Key];

    /// Reads every key; one that is wrong is reported and keeps its default.
    fn read(table: &super::layers::Table, problems: &mut super::error::Problems) -> Self;

    /// Every key with its value as TOML.
    fn show(&self) -> Vec<(&'static str, String)>;
}

/// Declares a table: a struct of its keys.
macro_rules! section {
    (
        $(#[doc = $section_about:literal])+
        $visibility:vis struct $section:ident in $table:literal;
        now { $( $(#[doc = $about:literal])+ $name:ident: $type:ty = $default:literal; )* }
        $(later {})?
    ) => {
        $(#[doc = $section_about])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        $visibility struct $section {
            $( $(#[doc = $about])+ pub $name: $type, )*
        }

        impl $crate::config::keys::Section for $section {
            const TABLE: &'static str = $table;
            const KEYS: &'static [$crate::config::Key] = &[
                $( $crate::config::Key {
                    table: $table,
                    name: stringify!($name),
                    default: $default,
                    about: concat!($($about),+).trim_ascii(),
                    secret: <$type as $crate::config::setting::Setting>::SECRET,
                }, )*
            ];

            fn read(
                table: &$crate::config::layers::Table,
                problems: &mut $crate::config::error::Problems,
            ) -> Self {
                Self { $( $name: table.read(stringify!($name), $default, problems), )* }
            }

            fn show(&self) -> Vec<(&'static str, String)> {
                use $crate::config::setting::Setting;
                vec![
                    $( (stringify!($name), self.$name.show()), )*
                ]
            }
        }
    };
}
pub(super) use section;

/// `name` within `table`, the way messages and people write it.
pub(super) fn dotted(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

/// The key that `name` within `table` sets, and whether it names a file that holds the value.
pub(super) fn find(table: &str, name: &str) -> Option<(&'static Key, bool)> {
    let known = |name: &str| keys().find(|key| key.table == table && key.name == name);
    let from_file = || known(name.strip_suffix("_file")?).filter(|key| key.secret);
    known(name).map(|key| (key, false)).or_else(|| Some((from_file()?, true)))
}

/// The same for an environment variable.
pub(super) fn find_variable(variable: &str) -> Option<(&'static Key, bool)> {
    let known = |name: &str| keys().find(|key| key.variable().is_some_and(|variable| variable == name));
    let from_file = || known(variable.strip_suffix("_FILE")?).filter(|key| key.secret);
    known(variable).map(|key| (key, false)).or_else(|| Some((from_file()?, true)))
}

/// Says that a key does not exist, and which one may have been meant.
pub(super) fn unknown_key(table: &str, name: &str) -> String {
    let tables = TABLES.iter().map(|table| ("", *table));
    let all = keys().map(|key| (key.table, key.name)).chain(tables);
    let distance = |(at, other): &(&str, &str)| (strsim::osa_distance(name, other), *at != table);
    let nearest = all.min_by_key(distance).map(|(table, name)| dotted(table, name)).unwrap_or_default();
    format!("there is no such key; did you mean {nearest}?")
}

/// Says that an environment variable sets nothing, and which one may have been meant.
pub(super) fn unknown_variable(name: &str) -> String {
    let all = keys().filter_map(Key::variable);
    let upper = name.to_ascii_uppercase();
    let nearest = all.min_by_key(|other| strsim::osa_distance(&upper, other)).unwrap_or_default();
    format!("there is no such key; did you mean {nearest}?")
}

/// The tables below the top.
pub(super) const TABLES: [&str; 7] = [
    Admin::TABLE,
    StateConfig::TABLE,
    StorageConfig::TABLE,
    Limits::TABLE,
    ListenerConfig::TABLE,
    DirectoryConfig::TABLE,
    WebhookConfig::TABLE,
];

/// The tables that may stand more than once.
pub(super) const REPEATED: [&str; 3] = [ListenerConfig::TABLE, DirectoryConfig::TABLE, WebhookConfig::TABLE];
