//! Shows how an upload or a download gets on: a bar on a terminal, plain lines elsewhere.

use std::{
    fmt::Write,
    io::IsTerminal,
    time::{Duration, Instant},
};

use bits_client::{DownloadEvent, DownloadJob, Event, Failure, Job};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// The time between two plain lines.
const PERIOD: Duration = Duration::from_secs(5);
/// Pauses shorter than this are not worth a line.
const WORTH_A_LINE: Duration = Duration::from_millis(100);

/// Where progress goes.
pub(crate) enum Show {
    Bar(ProgressBar),
    Lines(Lines),
}

/// Plain lines on standard error.
pub(crate) struct Lines {
    name: String,
    size: u64,
    shown: Instant,
    /// The offset at the last line.
    offset: u64,
}

impl Show {
    /// For a file of this name and size, of which so much is done.
    pub(crate) fn new(name: &str, size: u64, offset: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines(Lines { name: name.to_owned(), size, shown: Instant::now(), offset });
        }
        Self::bar(name, size, offset, ProgressDrawTarget::stderr())
    }

    fn bar(name: &str, size: u64, offset: u64, target: ProgressDrawTarget) -> Self {
        let bar = ProgressBar::with_draw_target(Some(size), target);
        bar.set_style(style());
        bar.set_prefix(name.to_owned());
        bar.set_position(offset);
        bar.reset_eta();
        bar.enable_steady_tick(Duration::from_millis(250));
        Self::Bar(bar)
    }

    /// Follows an upload.
    pub(crate) fn event(&mut self, job: &Job, event: Event<'_>) {
        match event {
            Event::Sending { offset } | Event::Acknowledged { offset } => self.at(offset),
            Event::Waiting { pause, failure } => self.waiting(pause, failure, job.next_offset()),
            Event::HostLeft => {
                self.say("the host that the server named gives no progress; going back to the original one")
            }
            Event::FragmentRefused { length } => {
                self.say(&format!("the server does not take fragments of {}; sending less", HumanBytes(length)));
            }
            _ => {}
        }
    }

    /// Follows a download.
    pub(crate) fn download(&mut self, job: &DownloadJob, event: DownloadEvent<'_>) {
        match event {
            DownloadEvent::Found => self.resize(job.size().unwrap_or(0)),
            DownloadEvent::Received { offset } => self.at(offset),
            DownloadEvent::Waiting { pause, failure } => self.waiting(pause, failure, job.received),
            _ => {}
        }
    }

    fn waiting(&mut self, pause: Duration, failure: &Failure, offset: u64) {
        if pause < WORTH_A_LINE {
            return self.say(&failure.to_string());
        }
        self.say(&format!("{failure}; trying again in {}", seconds(pause)));
        self.at(offset);
    }

    fn resize(&mut self, size: u64) {
        match self {
            Self::Bar(bar) => bar.set_length(size),
            Self::Lines(lines) => lines.size = size,
        }
    }

    /// One line, above the bar where there is one.
    pub(crate) fn say(&self, text: &str) {
        match self {
            Self::Bar(bar) => {
                // Not within suspend, which holds the bar's lock.
                let name = bar.prefix();
                bar.suspend(|| eprintln!("{name}: {text}"));
            }
            Self::Lines(lines) => eprintln!("{}: {text}", lines.name),
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }

    fn at(&mut self, offset: u64) {
        match self {
            Self::Bar(bar) => {
                let back = offset < bar.position();
                bar.set_position(offset);
                if back {
                    bar.reset_eta();
                }
            }
            Self::Lines(lines) => lines.at(offset, Instant::now()),
        }
    }
}

impl Lines {
    fn at(&mut self, offset: u64, now: Instant) {
        let passed = now - self.shown;
        if passed >= PERIOD {
            eprintln!("{}: {}", self.name, progress(offset, self.size, offset.saturating_sub(self.offset), passed));
            self.shown = now;
            self.offset = offset;
        }
    }
}

/// `45 % (1.20 GiB of 2.60 GiB), 35.10 MiB/s, 42 seconds left`.
fn progress(offset: u64, size: u64, sent: u64, passed: Duration) -> String {
    let percent = u128::from(offset) * 100 / u128::from(size.max(1));
    let rate = rate(sent, passed);
    let mut text = format!("{percent} % ({} of {}), {}/s", HumanBytes(offset), HumanBytes(size), HumanBytes(rate));
    if let Some(left) = (size.saturating_sub(offset)).checked_div(rate) {
        text += &format!(", {} left", HumanDuration(Duration::from_secs(left)));
    }
    text
}

/// Bytes per second.
pub(crate) fn rate(bytes: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1000 / time.as_millis().max(1)).unwrap_or(u64::MAX)
}

/// A pause, in whole seconds from one on.
fn seconds(pause: Duration) -> String {
    if pause < Duration::from_secs(1) {
        return format!("{} ms", pause.as_millis());
    }
    format!("{} s", pause.as_secs_f64().round())
}

fn style() -> ProgressStyle {
    let template =
        "{prefix} [{bar:30}] {percent} % {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}{time_left}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("=> ").with_key("time_left", time_left)
}

/// Nothing where nothing moves: that takes for ever, not no time.
fn time_left(state: &ProgressState, text: &mut dyn Write) {
    if state.per_sec() >= 1.0 {
        // The bar's own buffer takes all text.
        let _ = write!(text, ", {:#} left", HumanDuration(state.eta()));
    }
}

#[cfg(test)]
mod tests {
    use indicatif::InMemoryTerm;

    use super::*;

    #[test]
    fn a_line_has_share_bytes_rate_and_time_left() {
        let line = progress(512 << 20, 1 << 30, 256 << 20, Duration::from_secs(4));
        assert_eq!(line, "50 % (512.00 MiB of 1.00 GiB), 64.00 MiB/s, 8 seconds left");
        assert_eq!(progress(0, 0, 0, Duration::ZERO), "0 % (0 B of 0 B), 0 B/s");
        assert_eq!(progress(0, 10, 0, PERIOD), "0 % (0 B of 10 B), 0 B/s");
    }

    #[test]
    fn a_bar_follows_every_event_and_goes_back_too() {
        let terminal = InMemoryTerm::new(5, 100);
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let mut show = Show::bar("name", 1000, 0, target);
        let source = bits_client::Fingerprint { size: 1000, modified: None, identity: None };
        let job = Job::new("http://server/f".parse().unwrap(), source);
        show.event(&job, Event::SessionCreated);
        show.event(&job, Event::Sending { offset: 500 });
        let failure = bits_client::Failure::SessionLost;
        for pause in [Duration::ZERO, Duration::from_secs(2)] {
            show.event(&job, Event::Waiting { pause, failure: &failure });
        }
        show.event(&job, Event::HostLeft);
        show.event(&job, Event::FragmentRefused { length: 9 });
        show.event(&job, Event::Acknowledged { offset: 250 });
        let Show::Bar(bar) = &show else { unreachable!("made as a bar") };
        assert_eq!(bar.position(), 250);
        bar.force_draw();
        let shown = terminal.contents();
        assert!(shown.contains("name [=======>") && shown.contains("25 % 250 B/1000 B"), "{shown}");
        assert!(shown.contains("/s"), "{shown}");
        show.end();
        assert_eq!(terminal.contents(), "");
    }

    #[test]
    fn the_time_left_is_shown_while_something_moves() {
        let terminal = InMemoryTerm::new(5, 100);
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let Show::Bar(bar) = Show::bar("name", 1 << 40, 0, target) else { unreachable!("made as a bar") };
        bar.force_draw();
        let waiting = terminal.contents();
        assert!(waiting.contains("0 B/s") && !waiting.contains("left"), "{waiting}");
        let until = Instant::now() + Duration::from_secs(20);
        while !(terminal.contents().contains("/s, ") && terminal.contents().contains(" left")) {
            assert!(Instant::now() < until, "{}", terminal.contents());
            bar.inc(1 << 20);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn pauses_are_rounded() {
        assert_eq!(seconds(Duration::from_millis(1600)), "2 s");
        assert_eq!(seconds(Duration::from_millis(160)), "160 ms");
    }
}
