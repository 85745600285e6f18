//! Which traces are sent: the same ones on every server, since the session's id alone decides.

use std::env;

use opentelemetry::TraceId;

/// Ids are random in their last 56 bits: what stands before is partly the version of the GUID.
const RANDOM: u64 = (1 << 56) - 1;

/// The share of traces that are sent, by the least of their random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ratio {
    /// Above all of them: none is sent.
    least: u64,
}

impl Ratio {
    const ALL: Self = Self { least: 0 };
    const NONE: Self = Self { least: RANDOM + 1 };

    /// As `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` say; all where they say nothing.
    pub(super) fn from_environment() -> Result<Self, String> {
        let read = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        Self::parse(read("OTEL_TRACES_SAMPLER").as_deref(), read("OTEL_TRACES_SAMPLER_ARG").as_deref())
    }

    fn parse(sampler: Option<&str>, argument: Option<&str>) -> Result<Self, String> {
        // No parent of a trace is believed.
        match sampler.map(|name| name.strip_prefix("parentbased_").unwrap_or(name)) {
            None | Some("always_on") => Ok(Self::ALL),
            Some("always_off") => Ok(Self::NONE),
            Some("traceidratio") => Self::of(argument.unwrap_or("1")),
            Some(_) => Err(format!(
                "OTEL_TRACES_SAMPLER: {:?} is none; write always_on, always_off or traceidratio",
                sampler.unwrap_or_default()
            )),
        }
    }

    fn of(ratio: &str) -> Result<Self, String> {
        let share = ratio.parse().ok().filter(|share: &f64| (0.0..=1.0).contains(share));
        let share = share.ok_or_else(|| format!("OTEL_TRACES_SAMPLER_ARG: {ratio:?} is no number from 0 to 1"))?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 2^56")]
        let least = ((1.0 - share) * (RANDOM + 1) as f64) as u64;
        Ok(Self { least })
    }

    /// Whether spans of this trace are sent.
    pub(super) fn keeps(self, trace: TraceId) -> bool {
        let [.., a, b, c, d, e, f, g, h] = trace.to_bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) & RANDOM >= self.least
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_share_of_sessions_is_the_one_asked_for() {
        for (sampler, share, expected) in [
            (None, None, 1.0),
            (Some("always_on"), Some("0"), 1.0),
            (Some("parentbased_always_off"), None, 0.0),
            (Some("traceidratio"), Some("0.25"), 0.25),
            (Some("parentbased_traceidratio"), Some("0.9"), 0.9),
            (Some("traceidratio"), None, 1.0),
            (Some("traceidratio"), Some("0"), 0.0),
        ] {
            let ratio = Ratio::parse(sampler, share).unwrap();
            let sent = (0..10_000).filter(|_| ratio.keeps(TraceId::from_bytes(*Uuid::new_v4().as_bytes()))).count();
            assert!((sent as f64 / 10_000.0 - expected).abs() < 0.03, "{sampler:?} {share:?}: {sent}");
        }
    }

    #[test]
    fn what_is_no_sampler_is_named() {
        assert!(Ratio::parse(Some("jaeger_remote"), None).unwrap_err().contains("jaeger_remote"));
        for bad in ["2", "-1", "half", "NaN"] {
            assert!(Ratio::parse(Some("traceidratio"), Some(bad)).unwrap_err().contains(bad));
        }
    }
}
