//! Whether a fragment costs the server no more instructions than it did: runs the benchmark
//! `tests/benches/fragment`, which holds the limit.

#[path = "../../../tests/benches/fragment/figure.rs"]
mod figure;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tools;
use crate::shell::{self, Result, cargo};
use crate::test::WORKSPACE;

use figure::{COUNTED, FIGURE};

pub(super) fn check() -> Result<()> {
    let runner = tools::GUNGRAUN.require(true)?;
    let summary = output().join("summary.json");
    // That of an earlier run says nothing of one that breaks off.
    let _ = fs::remove_file(&summary);
    let ran = bench(&runner);
    let Ok(summary) = fs::read_to_string(summary) else { return ran };
    eprintln!("a fragment costs {} instructions; the figure is {FIGURE}", instructions(&summary)? / COUNTED);
    ran.map_err(|error| {
        format!(
            "{error}: find out what has grown with `callgrind_annotate --inclusive=yes {}`; if it must be so, change \
             the figure in tests/benches/fragment/figure.rs",
            output().join("callgrind.server.out").display()
        )
        .into()
    })
}

/// Builds the benchmark and the server as the tests have them, and runs it.
fn bench(runner: &Path) -> Result<()> {
    let mut build = cargo(["build", "--bins"]);
    let mut bench = cargo(["bench", "--profile", "dev"]);
    for command in [&mut build, &mut bench] {
        // Compiled in.
        command.args(WORKSPACE).args(["--bench", "fragment"]).env("GUNGRAUN_RUNNER", runner);
    }
    shell::run(&mut build)?;
    let server = shell::target_dir().join("debug/bits-server");
    shell::run(bench.args(["--", "--save-summary=json"]).env("BITS_SERVER_BIN", server))
}

/// Where gungraun writes what it has found.
fn output() -> PathBuf {
    shell::target_dir().join("gungraun/tests/fragment/cost/server")
}

/// The sum of a benchmark, by its summary.
fn instructions(summary: &str) -> Result<u64> {
    let summary: Value = serde_json::from_str(summary)?;
    let sum = summary.pointer("/profiles/0/data/total/metrics/Ir/values/new").and_then(Value::as_u64);
    Ok(sum.ok_or("gungraun has written no sum")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_benchmark_is_found() {
        let summary = r#"{"profiles": [{"data": {"total": {"metrics": {"Ir": {"values": {"new": 574}}}}}}]}"#;
        assert_eq!(instructions(summary).unwrap(), 574);
        assert!(instructions(r#"{"profiles": []}"#).is_err());
    }
}
