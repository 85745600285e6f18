//! Log lines on standard error, and which of them are written.

use std::io::IsTerminal;

use tracing_subscriber::{
    Layer, Registry, filter::Targets, layer::SubscriberExt, reload::Handle, util::SubscriberInitExt,
};

#[cfg(feature = "otlp")]
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogFilter;
#[cfg(feature = "otlp")]
use crate::otlp;

/// Decides which lines are written.
#[derive(Clone, Debug)]
pub(crate) struct LogControl {
    /// None where `RUST_LOG` decides.
    filter: Option<Handle<Targets, Registry>>,
}

impl LogControl {
    /// Writes lines from now on: those that `RUST_LOG` asks for, and else those of `filter`.
    pub(crate) fn install(filter: &LogFilter) -> Result<Self, String> {
        let variable = std::env::var("RUST_LOG").unwrap_or_default();
        let by_variable = !variable.is_empty();
        let wanted = match by_variable {
            true => variable.parse().map_err(|error| {
                format!("RUST_LOG: {error}; write a level, or `target=level` pairs joined by commas")
            })?,
            false => filter.targets(),
        };
        let (targets, handle) = tracing_subscriber::reload::Layer::new(wanted);
        let ansi = std::io::stderr().is_terminal();
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
        tracing_subscriber::registry().with(lines.with_filter(targets)).with(spans()).init();
        Ok(Self { filter: (!by_variable).then_some(handle) })
    }

    /// Whether `RUST_LOG` decides.
    pub(crate) fn is_fixed(&self) -> bool {
        self.filter.is_none()
    }

    /// Writes the lines of `filter` from now on, unless `RUST_LOG` decides.
    pub(crate) fn set(&self, filter: &LogFilter) {
        if let Some(handle) = &self.filter {
            // It fails only where nothing is logged any more.
            let _ = handle.reload(filter.targets());
        }
    }
}

/// What collects spans for traces, where they are wanted.
#[cfg(feature = "otlp")]
fn spans<S: tracing::Subscriber + for<'a> LookupSpan<'a>>() -> Option<impl Layer<S>> {
    otlp::is_wanted().then(|| otlp::Collector.with_filter(otlp::Collector::filter()))
}

#[cfg(not(feature = "otlp"))]
fn spans() -> tracing_subscriber::layer::Identity {
    tracing_subscriber::layer::Identity::new()
}
