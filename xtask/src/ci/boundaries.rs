//! The architecture's absences: what a crate must not know about is not among its dependencies.

use crate::shell::{self, Result, cargo};

/// What one crate may depend on.
struct Boundary {
    package: &'static str,
    /// Features besides the default ones.
    features: &'static str,
    /// Everything that it may name in its manifest. Empty: anything.
    direct: &'static [&'static str],
    /// What must not be there even at second hand.
    absent: &'static [&'static str],
}

// Sockets come with mio, whoever opens them.
const BOUNDARIES: &[Boundary] = &[
    Boundary {
        package: "bits-core",
        features: "",
        direct: &["async-trait", "bytes", "futures-core", "http", "percent-encoding", "sha2", "thiserror", "uuid"],
        absent: &["tokio", "mio", "rustix", "getrandom", "rand", "hyper", "sqlx-core", "object_store", "config"],
    },
    Boundary {
        package: "bits-engine",
        features: "",
        direct: &[
            "async-trait",
            "bits-core",
            "bytes",
            "futures-core",
            "futures-util",
            "http",
            "jiff",
            "percent-encoding",
            "thiserror",
            "tokio",
            "tokio-util",
            "tracing",
            "uuid",
        ],
        absent: &["mio", "rustix", "hyper", "axum", "reqwest", "sqlx-core", "object_store", "config", "toml", "clap"],
    },
    Boundary {
        package: "bits-store-fs",
        features: "",
        direct: &[
            "async-trait",
            "bits-core",
            "bytes",
            "cap-std",
            "futures-util",
            "rustix",
            "thiserror",
            "tokio",
            "tracing",
        ],
        absent: &["mio", "hyper", "reqwest", "sqlx-core", "object_store", "config", "clap"],
    },
    Boundary {
        package: "bits-store-object",
        features: "s3,gcs,azure",
        direct: &[
            "async-trait",
            "bits-core",
            "bytes",
            "futures-core",
            "futures-util",
            "http",
            "object_store",
            "reqwest",
            "rustls",
            "thiserror",
            "tokio",
            "tracing",
            "url",
            "uuid",
        ],
        absent: &["bits-engine", "sqlx-core", "config", "clap", "aws-lc-rs", "openssl-sys"],
    },
    Boundary {
        package: "bits-store-sql",
        features: "",
        direct: &[
            "async-trait",
            "bits-core",
            "futures-util",
            "serde_json",
            "sqlx",
            "thiserror",
            "tokio",
            "tokio-util",
            "tracing",
            "uuid",
        ],
        absent: &["hyper", "reqwest", "object_store", "config", "clap"],
    },
    Boundary {
        package: "bits-client",
        features: "",
        direct: &[],
        absent: &["bits-engine", "bits-server", "bits-store-fs", "bits-store-sql", "sqlx-core", "object_store"],
    },
    Boundary {
        package: "bits-server",
        features: "",
        direct: &[],
        absent: &[
            "bits-client",
            "libgssapi",
            "object_store",
            "openssl-sys",
            "opentelemetry",
            "sqlx-postgres",
            "sqlx-macros",
        ],
    },
];

pub(crate) fn check() -> Result<()> {
    eprintln!("checking what crates depend on");
    let mut broken = Vec::new();
    for boundary in BOUNDARIES {
        broken.extend(boundary.violations(&boundary.tree()?));
    }
    if broken.is_empty() { Ok(()) } else { Err(format!("boundaries are crossed:\n{}", broken.join("\n")).into()) }
}

impl Boundary {
    fn tree(&self) -> Result<String> {
        let edges = ["--edges", "normal", "--prefix", "depth", "--format", " {p}"];
        let package = ["tree", "--package", self.package, "--features", self.features];
        shell::output(cargo(package).args(edges))
    }

    /// `tree` is a line per dependency: its depth and its name.
    fn violations(&self, tree: &str) -> Vec<String> {
        tree.lines().filter_map(dependency).filter_map(|(depth, name)| self.violation(depth, name)).collect()
    }

    fn violation(&self, depth: u32, name: &str) -> Option<String> {
        let package = self.package;
        if self.absent.contains(&name) {
            return Some(format!(
                "  {package} depends on {name}: see `cargo tree --package {package} --invert {name}`"
            ));
        }
        let allowed = depth != 1 || self.direct.is_empty() || self.direct.contains(&name);
        (!allowed).then(|| format!("  {package} names {name}, which is not on its list in {}", file!()))
    }
}

fn dependency(line: &str) -> Option<(u32, &str)> {
    let mut words = line.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDARY: Boundary = Boundary { package: "a", features: "", direct: &["b"], absent: &["evil"] };

    #[test]
    fn what_is_on_the_list_may_bring_its_own() {
        assert_eq!(BOUNDARY.violations("0 a v1.0.0 (/a)\n1 b v1.0.0\n2 c v1.0.0\n2 d v1.0.0 (*)"), [""; 0]);
    }

    #[test]
    fn what_is_not_on_the_list_is_refused() {
        assert!(BOUNDARY.violations("0 a v1.0.0\n1 c v1.0.0")[0].starts_with("  a names c,"));
    }

    #[test]
    fn what_must_be_absent_is_found_at_any_depth() {
        assert!(BOUNDARY.violations("0 a v1.0.0\n1 b v1.0.0\n2 evil v1.0.0")[0].starts_with("  a depends on evil:"));
    }
}
