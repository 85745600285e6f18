//! What is logged.

use std::fmt;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::setting::{Raw, Setting, quoted};

/// What is logged: a level, or levels by target.
#[derive(Clone)]
pub struct LogFilter {
    written: String,
    targets: Targets,
}

impl LogFilter {
    /// `info`, or `info,bits_engine=debug`. The error says what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        // A word alone would be a target, all of whose lines are written, and nobody else's.
        let is_level = |part: &str| part.starts_with(char::is_alphabetic) && part.parse::<LevelFilter>().is_ok();
        let known = text.split(',').all(|part| is_level(part) || part.contains('='));
        let targets = text.parse().ok().filter(|_| known);
        let targets = targets.ok_or_else(|| {
            format!("{text:?} is no level; write error, warn, info, debug, trace or off, or target=level pairs joined by commas")
        })?;
        Ok(Self { written: text.to_owned(), targets })
    }

    /// The filter of log lines.
    pub fn targets(&self) -> Targets {
        self.targets.clone()
    }
}

impl PartialEq for LogFilter {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for LogFilter {}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFilter").field(&self.written).finish()
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Setting for LogFilter {
    fn read(raw: &Raw) -> Result<Self, String> {
        Self::parse(raw.text("a level in quotes, such as \"info\"")?)
    }

    fn show(&self) -> String {
        quoted(&self.written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets_are_taken_and_words_are_not() {
        for good in ["info", "off", "DEBUG", "warn,bits_engine=debug", "audit=info"] {
            assert_eq!(LogFilter::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", " ", "loud", "5", "info,bits_engine", "info,bits_engine=loud", "a=b=c"] {
            assert!(LogFilter::parse(bad).unwrap_err().contains("is no level"), "{bad}");
        }
    }
}
