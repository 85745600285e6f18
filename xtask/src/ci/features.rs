//! Feature sets: each library and program builds alone, without features, with each one, and with
//! the sets that people use.

use serde_json::Value;

use crate::shell::{self, Result, cargo};

/// Sets beyond none, the default ones, each one alone and all together.
const SETS: &[(&str, &str)] = &[
    ("bits-server", "default,negotiate"),
    ("bits-server", "default,s3,gcs,azure"),
    ("bits-server", "default,postgres"),
    ("bits-server", "default,otlp"),
];

pub(crate) fn check() -> Result<()> {
    for package in packages()? {
        lint(&package.name, &[])?;
        for set in package.sets() {
            lint(&package.name, &["--no-default-features", "--features", &set])?;
        }
    }
    Ok(())
}

struct Package {
    name: String,
    features: Vec<String>,
}

impl Package {
    fn sets(&self) -> impl Iterator<Item = String> {
        let none = (!self.features.is_empty()).then(String::new);
        let single = self.features.iter().filter(|feature| *feature != "default").cloned();
        let extra = SETS.iter().filter(|(package, _)| *package == self.name).map(|(_, set)| (*set).to_owned());
        none.into_iter().chain(single).chain(extra)
    }
}

// Chores and end-to-end tests are not published and have no features: the lints cover them.
fn packages() -> Result<Vec<Package>> {
    let metadata = shell::output(&mut cargo(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    Ok(packages.iter().filter(|package| package["publish"].is_null()).filter_map(package).collect())
}

fn package(value: &Value) -> Option<Package> {
    let name = value["name"].as_str()?.to_owned();
    let features = value["features"].as_object()?.keys().cloned().collect();
    Some(Package { name, features })
}

// Clippy rather than check: it can turn warnings into errors without building dependencies anew.
fn lint(package: &str, features: &[&str]) -> Result<()> {
    let mut clippy = cargo(["clippy", "--quiet", "--package", package]);
    shell::run(clippy.args(features).args(["--", "--deny", "warnings"]))
}
