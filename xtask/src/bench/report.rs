//! Results as Markdown: printed, and kept in docs/benchmarks.

use std::fs;
use std::process::{Command, Stdio};

use super::{Setting, Workload};
use crate::shell::{self, Result, cargo};

/// What a workload found out.
pub(crate) struct Table {
    /// The load and what the columns mean, in sentences.
    pub(crate) notes: String,
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// The report of one workload on this machine.
pub(crate) fn render(workload: &Workload, setting: &Setting, table: &Table) -> Result<String> {
    let quick = if setting.divisor > 1 { " A quick run: the figures mean nothing." } else { "" };
    Ok(format!(
        "# {}\n\n{}. {}{quick}\n\n{}\n{}\n",
        workload.name,
        workload.about,
        table.notes,
        markdown(table),
        surroundings()?
    ))
}

/// Keeps `report` under today's date.
pub(crate) fn save(name: &str, report: &str) -> Result<()> {
    let folder = shell::root().join("docs/benchmarks");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}-{name}.md", today()?));
    fs::write(&path, report)?;
    eprintln!("written to {}", path.display());
    Ok(())
}

fn markdown(table: &Table) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head = line(&table.columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>());
    let rule = line(&vec!["---".to_owned(); table.columns.len()]);
    [head, rule].into_iter().chain(table.rows.iter().map(|row| line(row))).collect()
}

fn surroundings() -> Result<String> {
    let facts = [
        ("Date", today()?),
        ("Version", version()?),
        (
            "Processor",
            format!("{} × {}", std::thread::available_parallelism()?, proc_field("/proc/cpuinfo", "model name")?),
        ),
        ("Memory", proc_field("/proc/meminfo", "MemTotal")?),
        ("Kernel", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned()),
        ("Rust", shell::output(&mut cargo(["--version"]))?.trim().to_owned()),
        ("nginx", nginx_version()?),
    ];
    Ok(facts.iter().map(|(name, fact)| format!("- {name}: {fact}\n")).collect())
}

fn today() -> Result<String> {
    Ok(shell::output(Command::new("date").args(["-u", "+%F"]))?.trim().to_owned())
}

fn version() -> Result<String> {
    let mut describe = Command::new("git");
    describe.args(["describe", "--always", "--dirty"]).current_dir(shell::root());
    Ok(format!("{} ({})", env!("CARGO_PKG_VERSION"), shell::output(&mut describe)?.trim()))
}

// It says its version on its standard error.
fn nginx_version() -> Result<String> {
    let Some(nginx) = shell::find("nginx") else { return Ok("none".to_owned()) };
    let said = Command::new(nginx).arg("-v").stdout(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&said.stderr).trim().trim_start_matches("nginx version: ").to_owned())
}

fn proc_field(file: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(file)?;
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(field, _)| field.trim() == name);
    Ok(value.map_or("unknown", |(_, value)| value.trim()).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_markdown() {
        let rows = vec![vec!["a".to_owned(), "1".to_owned()]];
        let table = Table { notes: String::new(), columns: vec!["server", "rate"], rows };
        assert_eq!(markdown(&table), "| server | rate |\n| --- | --- |\n| a | 1 |\n");
    }
}
