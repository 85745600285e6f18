//! A small plot of the last hour, as SVG within the page.

use maud::{Markup, html};

use super::tally::MINUTES;

const WIDTH: f64 = 240.0;
const HEIGHT: f64 = 48.0;

/// What is plotted.
pub(super) struct Plot<'a> {
    pub(super) title: &'static str,
    /// Names the colours.
    pub(super) class: &'static str,
    /// The latest value, in words.
    pub(super) now: String,
    /// The same and more for those who do not see it.
    pub(super) about: String,
    pub(super) values: &'a [f64],
}

impl Plot<'_> {
    pub(super) fn draw(&self) -> Markup {
        let top = self.values.iter().copied().fold(0.0, f64::max);
        let points = points(self.values, top);
        html! {
            figure class=(self.class) {
                figcaption { span.soft { (self.title) } strong { (self.now) } }
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(self.about) {
                    line.base x1="0" x2=(WIDTH) y1=(HEIGHT - 1.0) y2=(HEIGHT - 1.0) {}
                    @if top > 0.0 {
                        polygon.area points=(format!("0,{HEIGHT} {points} {WIDTH},{HEIGHT}")) {}
                        polyline.line points=(points) {}
                    }
                }
            }
        }
    }
}

fn points(values: &[f64], top: f64) -> String {
    let step = WIDTH / (MINUTES - 1) as f64;
    let point = |(at, value): (usize, &f64)| {
        let height = if top > 0.0 { value / top } else { 0.0 };
        format!("{:.1},{:.1}", at as f64 * step, HEIGHT - 1.0 - height * (HEIGHT - 4.0))
    };
    values.iter().enumerate().map(point).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_value_touches_the_top() {
        let mut values = [0.0; MINUTES];
        values[MINUTES - 1] = 8.0;
        let points = points(&values, 8.0);
        assert!(points.starts_with("0.0,47.0 ") && points.ends_with(" 240.0,3.0"), "{points}");
    }
}
