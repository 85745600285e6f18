//! Bars as an SVG picture: the median of each server, with a line from the least to the most.

use std::fmt::Write;

use super::measure::Samples;

/// What is drawn: one bar for each server.
pub(crate) struct Plot {
    /// What is measured, with its unit.
    pub(crate) title: &'static str,
    bars: Vec<Bar>,
}

struct Bar {
    name: String,
    samples: Samples,
}

const WIDTH: f64 = 720.0;
/// Where the bars begin, to the right of their names.
const LEFT: f64 = 170.0;
/// Room for figures, to the right of the longest bar.
const RIGHT: f64 = 80.0;
const ROW: f64 = 28.0;
const TOP: f64 = 40.0;

impl Plot {
    pub(crate) fn new<'a>(title: &'static str, measured: impl Iterator<Item = (&'a str, &'a Samples)>) -> Self {
        let bars = measured.map(|(name, samples)| Bar { name: name.to_owned(), samples: samples.clone() });
        Self { title, bars: bars.collect() }
    }

    pub(crate) fn svg(&self) -> String {
        let height = TOP + ROW * self.bars.len() as f64 + 8.0;
        let most = self.bars.iter().map(|bar| bar.samples.most()).fold(f64::MIN_POSITIVE, f64::max);
        let scale = (WIDTH - LEFT - RIGHT) / most;
        let bars = self.bars.iter().zip(0_u32..).map(|(bar, row)| bar.svg(TOP + ROW * f64::from(row), scale));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
             <text x=\"8\" y=\"22\" font-weight=\"bold\">{}</text>\n{}</svg>\n",
            escape(self.title),
            bars.collect::<String>()
        )
    }
}

impl Bar {
    fn svg(&self, top: f64, scale: f64) -> String {
        let (median, least, most) = (self.samples.median(), self.samples.least(), self.samples.most());
        let (middle, end) = (top + 10.0, LEFT + most * scale);
        let decimals = if median < 10.0 { 2 } else { 0 };
        let mut svg = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"20\" fill=\"#6b93c7\"/>\n\
             <path d=\"M{:.1} {middle:.1}H{end:.1}\" stroke=\"#1d3557\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\">{median:.decimals$}</text>\n",
            LEFT - 8.0,
            top + 15.0,
            escape(&self.name),
            median * scale,
            LEFT + least * scale,
            end + 6.0,
            top + 15.0,
        );
        svg
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_reaches_to_the_margin_and_others_are_in_proportion() {
        let (mut wide, mut short) = (Samples::default(), Samples::default());
        wide.extend([50.0, 100.0, 100.0]);
        short.push(50.0);
        let plot = Plot::new("MiB/s & <more>", [("a", &wide), ("b", &short)].into_iter());
        let svg = plot.svg();
        assert!(svg.contains("MiB/s &amp; &lt;more>"), "{svg}");
        assert!(svg.contains("width=\"470.0\"") && svg.contains("width=\"235.0\""), "{svg}");
        assert!(svg.contains("M405.0 50.0H640.0"), "from the least to the most: {svg}");
    }
}
