//! A picture of figures: bars, in charts one below the other.

use std::fmt::Write as _;

const LEFT: f64 = 300.0;
const WIDTH: f64 = 380.0;
const STEP: f64 = 18.0;

/// Bars on one scale.
pub struct Chart {
    /// What is drawn full, what pale, and in which unit.
    pub title: String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// Two figures of one thing.
pub struct Bar {
    /// What they are of.
    pub name: String,
    /// The full bar and the pale one below it.
    pub values: [f64; 2],
    /// What is written beside them.
    pub words: String,
    /// Whether it is the one that all is about.
    pub is_ours: bool,
    /// Whether it stands apart from the one above.
    pub is_apart: bool,
}

/// The picture, as SVG.
pub fn svg(charts: &[Chart]) -> String {
    let mut drawn = String::new();
    let mut y = 4.0;
    for chart in charts.iter().filter(|chart| !chart.bars.is_empty()) {
        y += STEP;
        let _ = writeln!(drawn, "<text x=\"20\" y=\"{:.0}\" font-size=\"13\">{}</text>", y - 2.0, chart.title);
        y += STEP / 2.0;
        let most = chart.bars.iter().flat_map(|bar| bar.values).fold(f64::MIN_POSITIVE, f64::max);
        for bar in &chart.bars {
            y += if bar.is_apart { STEP / 2.0 } else { 0.0 };
            draw(&mut drawn, bar, y, WIDTH / most);
            y += STEP;
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{drawn}</svg>\n",
        y + 8.0
    )
}

fn draw(drawn: &mut String, bar: &Bar, y: f64, scale: f64) {
    let colour = if bar.is_ours { "#c0392b" } else { "#7f8c8d" };
    let (text, end) = (y + 10.0, LEFT + bar.values[0].max(bar.values[1]) * scale + 6.0);
    let _ = writeln!(drawn, "<text x=\"{}\" y=\"{text:.0}\" text-anchor=\"end\">{}</text>", LEFT - 8.0, bar.name);
    for (value, offset, opacity) in [(bar.values[0], 0.0, 1.0), (bar.values[1], 7.0, 0.5)] {
        let _ = writeln!(
            drawn,
            "<rect x=\"{LEFT}\" y=\"{:.0}\" width=\"{:.1}\" height=\"6\" fill=\"{colour}\" opacity=\"{opacity}\"/>",
            y + offset,
            value * scale
        );
    }
    let _ = writeln!(drawn, "<text x=\"{end:.0}\" y=\"{text:.0}\">{}</text>", bar.words);
}
