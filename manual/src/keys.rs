//! The reference of the configuration's keys.

use std::fmt::Write;

use bits_server::config::{Config, Key, Overrides, keys};
use toml::Value;

use crate::examples;

/// What each table is about; its keys say the rest.
const TABLES: &[(&str, &str)] = &[
    ("", "Keys above all tables"),
    ("listeners", "`[[listeners]]`: more addresses, with TLS or rules of their own"),
    ("admin", "`[admin]`: health, metrics, the page and the API"),
    ("state", "`[state]`: where sessions are kept"),
    ("storage", "`[storage]`: where bytes are kept"),
    ("limits", "`[limits]`: what is allowed at once"),
    ("directories", "`[[directories]]`: virtual directories"),
    ("webhooks", "`[[webhooks]]`: who is told of what happens"),
];

/// Every key with default and example, as Markdown.
pub(crate) fn reference() -> String {
    let defaults = defaults();
    let mut text = String::new();
    let mut table = None;
    for key in keys() {
        if table != Some(key.table) {
            table = Some(key.table);
            heading(&mut text, key.table);
        }
        row(&mut text, key, &defaults);
    }
    text
}

fn heading(text: &mut String, table: &str) {
    let known = TABLES.iter().find(|(name, _)| *name == table).map(|(_, title)| (*title).to_owned());
    let title = known.unwrap_or_else(|| format!("`[{table}]`"));
    let _ = write!(text, "\n### {title}\n\n| key | default | example | is |\n| --- | --- | --- | --- |\n");
}

fn row(text: &mut String, key: &Key, defaults: &toml::Table) {
    let default = spelt(key, defaults);
    let example = examples::of(&key.path()).map_or_else(|| default.clone(), str::to_owned);
    let about = key.about.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    let file =
        if key.secret { format!(" Or `{}_file`, which names a file that holds it.", key.name) } else { String::new() };
    let _ = writeln!(text, "| `{}` | `{default}` | `{example}` | {about}{file} |", key.name);
}

/// The default in TOML; its type is what the configuration shows for it.
fn spelt(key: &Key, defaults: &toml::Table) -> String {
    let table = if key.table.is_empty() { Some(defaults) } else { within(defaults, key.table) };
    let quoted = |text: &str| format!("{text:?}");
    match table.and_then(|table| table.get(key.name)) {
        Some(Value::Array(_)) if key.default.is_empty() => "[]".to_owned(),
        Some(Value::Array(_)) => format!("[{}]", key.default.split(',').map(quoted).collect::<Vec<_>>().join(", ")),
        Some(Value::Table(_)) => "{}".to_owned(),
        // What it is by default hangs on another key.
        Some(value @ Value::Boolean(_)) if key.default.is_empty() => value.to_string(),
        Some(Value::Integer(_) | Value::Boolean(_)) => key.default.to_owned(),
        _ => quoted(key.default),
    }
}

fn within<'a>(defaults: &'a toml::Table, name: &str) -> Option<&'a toml::Table> {
    match defaults.get(name)? {
        Value::Array(tables) => tables.first()?.as_table(),
        other => other.as_table(),
    }
}

/// What a configuration shows that says next to nothing.
fn defaults() -> toml::Table {
    load(examples::SMALLEST).to_string().parse().unwrap_or_else(|error| panic!("what is shown is no TOML: {error}"))
}

/// The configuration that this text makes.
pub(crate) fn load(text: &str) -> Config {
    let path = |folder: &tempfile::TempDir| folder.path().join("bits-server.toml");
    let written = tempfile::tempdir().and_then(|folder| std::fs::write(path(&folder), text).map(|()| folder));
    let folder = written.unwrap_or_else(|error| panic!("no temporary file: {error}"));
    let loaded = Config::load(Some(&path(&folder)), std::iter::empty(), Overrides::default());
    loaded.unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where something unforeseen happens")]
mod tests {
    use super::*;

    fn documents() -> Vec<std::path::PathBuf> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let book = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
        book.chain([root.join("README.md")]).filter(|path| path.extension().is_some_and(|it| it == "md")).collect()
    }

    /// Whether it names nothing that the server was perhaps built without.
    fn is_for_this_build(block: &str) -> bool {
        let others = ["s3:", "gs:", "az:", "postgres:", "[storage.options]"];
        let kerberos = cfg!(feature = "negotiate") || !block.contains("negotiate");
        kerberos && !others.iter().any(|other| block.contains(other))
    }

    #[test]
    fn the_server_takes_every_configuration_in_the_book() {
        let mut count = 0;
        for document in documents() {
            let text = std::fs::read_to_string(&document).unwrap();
            let blocks = text.split("```toml\n").skip(1).filter_map(|rest| rest.split_once("```"));
            for (block, _) in blocks.filter(|(block, _)| is_for_this_build(block)) {
                // Its file is read with the configuration.
                let block = block.replace("secret_file = \"hook.secret\"", "secret = \"0123456789abcdef\"");
                println!("{}: {block}", document.display());
                load(&block);
                count += 1;
            }
        }
        assert!(count > 5, "{count}");
    }
}
