//! The statements of the versions that may work on today's schema, as files: what a step of the
//! schema must leave working.

use std::{fs, path::PathBuf};

use crate::{migrations::STEPS, statements::Statements};

/// The names and texts of each version from the oldest on that the newest step still lets work.
pub(crate) fn versions(database: &str) -> impl Iterator<Item = Vec<(String, String)>> {
    let newest = &STEPS[STEPS.len() - 1];
    (newest.oldest..=newest.version).map(move |version| {
        let path = file(database, version);
        let text = fs::read_to_string(&path).unwrap_or_else(|_| {
            panic!("{} is missing: CONTRIBUTING.md, \"Changing the schema\", says how it is made", path.display())
        });
        let statements: Vec<_> = text.split("-- ").filter_map(|part| part.trim().split_once('\n')).collect();
        assert!(statements.len() > 40, "{} holds {} statements", path.display(), statements.len());
        statements.into_iter().map(|(name, sql)| (name.to_owned(), sql.to_owned())).collect()
    })
}

/// Writes the file of this version.
pub(crate) fn freeze(database: &str, statements: &Statements) {
    let parts = statements.all().into_iter().map(|(name, sql)| format!("-- {name}\n{sql}\n\n"));
    fs::write(file(database, crate::migrations::NEWEST), parts.collect::<String>()).unwrap();
}

fn file(database: &str, version: i64) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("frozen").join(format!("{database}-{version}.sql"))
}
