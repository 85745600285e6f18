//! Results as Markdown: printed, and kept in docs/benchmarks.

use std::fs;
use std::process::Command;

use super::plot::Plot;
use super::{Setting, Workload};
use crate::shell::{self, Result, cargo};

/// What a workload found out.
pub(crate) struct Table {
    /// The load and what the columns mean, in sentences.
    pub(crate) notes: String,
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) plots: Vec<Plot>,
    /// Names of servers with what they were told.
    pub(crate) settings: Vec<(&'static str, String)>,
}

/// The report of one workload on this machine.
pub(crate) fn render(workload: &Workload, setting: &Setting, table: &Table) -> Result<String> {
    let quick = if setting.divisor > 1 { " A quick run: the figures mean nothing." } else { "" };
    Ok(format!(
        "# {}\n\n{}. {}{quick}\n\n{}\n{}## Machine\n\n{}\n## Settings\n{}",
        workload.name,
        workload.about,
        table.notes,
        markdown(table),
        pictures(workload.name, table)?,
        surroundings(setting)?,
        settings(table)
    ))
}

/// Keeps `report` and its pictures under today's date.
pub(crate) fn save(name: &str, report: &str, table: &Table) -> Result<()> {
    let folder = shell::root().join("docs/benchmarks");
    fs::create_dir_all(&folder)?;
    for (number, plot) in table.plots.iter().enumerate() {
        fs::write(folder.join(picture(name, number)?), plot.svg())?;
    }
    let path = folder.join(format!("{}-{name}.md", today()?));
    fs::write(&path, report)?;
    eprintln!("written to {}", path.display());
    Ok(())
}

fn pictures(name: &str, table: &Table) -> Result<String> {
    let lines = table.plots.iter().enumerate();
    lines.map(|(number, plot)| Ok(format!("![{}]({})\n\n", plot.title, picture(name, number)?))).collect()
}

fn picture(name: &str, number: usize) -> Result<String> {
    Ok(format!("{}-{name}-{}.svg", today()?, number + 1))
}

fn settings(table: &Table) -> String {
    table.settings.iter().map(|(name, text)| format!("\n{name}:\n\n```\n{text}```\n")).collect()
}

fn markdown(table: &Table) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head = line(&table.columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>());
    let rule = line(&vec!["---".to_owned(); table.columns.len()]);
    [head, rule].into_iter().chain(table.rows.iter().map(|row| line(row))).collect()
}

fn surroundings(setting: &Setting) -> Result<String> {
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
    ];
    let facts = facts.iter().map(|(name, fact)| format!("- {name}: {fact}\n"));
    Ok(facts.chain(setting.programs.versions()?.iter().map(|version| format!("- {version}\n"))).collect())
}

fn today() -> Result<String> {
    Ok(shell::output(Command::new("date").args(["-u", "+%F"]))?.trim().to_owned())
}

fn version() -> Result<String> {
    let mut describe = Command::new("git");
    describe.args(["describe", "--always", "--dirty"]).current_dir(shell::root());
    Ok(format!("{} ({})", env!("CARGO_PKG_VERSION"), shell::output(&mut describe)?.trim()))
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
        let columns = vec!["server", "rate"];
        let table = Table { notes: String::new(), columns, rows, plots: Vec::new(), settings: Vec::new() };
        assert_eq!(markdown(&table), "| server | rate |\n| --- | --- |\n| a | 1 |\n");
    }
}
