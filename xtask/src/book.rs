//! `cargo xtask book`: the book in `docs`, its generated parts and its site.

use crate::{
    ci::tools,
    shell::{self, Result, cargo},
};

/// Renews what the code says, then builds the site into `<target>/book`.
pub(crate) fn run() -> Result<()> {
    shell::run(&mut cargo(["run", "--quiet", "--package", "manual", "--", "book"]))?;
    let site = shell::target_dir().join("book");
    tools::run(&tools::MDBOOK, &["build", "docs", "--dest-dir", &site.to_string_lossy()])?;
    eprintln!("open {}", site.join("index.html").display());
    Ok(())
}
