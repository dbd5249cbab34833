//! Plots as SVG: lines over a quantity, and bars beside names, both with the least and the greatest of their figures.
//!
//! They stand on a white ground of their own, so that they can be read on a dark page too, and have colours that
//! people with colour blindness tell apart (Okabe and Ito's). Equal figures give equal files.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: u32 = 860;
/// Height of a chart without its legend.
const HEIGHT: u32 = 420;
/// Height of a bar with what is left free beside it.
const ROW: u32 = 30;
/// Height of a line of the legend.
const LINE: u32 = 20;
/// Height of a title.
const TITLE: u32 = 34;
/// Names of the legend in one line.
const COLUMNS: usize = 2;
/// Characters of a bar's name at most; the rest is cut off.
const NAME: usize = 56;

const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(80, 80, 80),
];
const INK: RGBColor = RGBColor(34, 34, 34);
const GRID: RGBColor = RGBColor(221, 221, 221);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Failure<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

/// One figure over a quantity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    /// The quantity.
    pub(crate) x: f64,
    /// The figure, mostly a median.
    pub(crate) y: f64,
    /// The least of the figures that it is the median of.
    pub(crate) least: f64,
    /// The greatest.
    pub(crate) greatest: f64,
}

/// Points that a line connects.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Series {
    /// Its name in the legend.
    pub(crate) name: String,
    /// From left to right.
    pub(crate) points: Vec<Point>,
}

/// Lines over a quantity.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chart {
    /// What stands above it.
    pub(crate) title: String,
    /// What goes to the right, with its unit.
    pub(crate) x: String,
    /// What goes up, with its unit. The axis begins at 0, or below where a figure is.
    pub(crate) y: String,
    /// Whether equal factors have equal distances on the way to the right; no `x` is 0 then.
    pub(crate) log_x: bool,
    /// The lines.
    pub(crate) series: Vec<Series>,
}

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bar {
    /// What stands beside it.
    pub(crate) name: String,
    /// The figure, mostly a median.
    pub(crate) value: f64,
    /// The least of the figures that it is the median of.
    pub(crate) least: f64,
    /// The greatest.
    pub(crate) greatest: f64,
}

/// Bars that lie below each other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bars {
    /// What stands above them.
    pub(crate) title: String,
    /// What their lengths are, with its unit. The axis begins at 0, or below where a figure is.
    pub(crate) x: String,
    /// A line across them with its name: a bar that is to be met, say.
    pub(crate) mark: Option<(String, f64)>,
    /// From above.
    pub(crate) bars: Vec<Bar>,
}

impl Chart {
    /// Writes it; the folder is made if there is none.
    ///
    /// # Errors
    /// The file cannot be written.
    ///
    /// # Panics
    /// If there is no point at all, or a figure that is no number.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        store(path, &self.svg())
    }

    fn svg(&self) -> String {
        let xs = span(self.points().map(|point| point.x), false);
        let legend = u32::try_from(self.series.len().div_ceil(COLUMNS)).expect("few series") * LINE;
        draw(TITLE + HEIGHT + legend, |root| {
            let below = title(&root, &self.title)?;
            let (area, legend) = below.split_vertically(HEIGHT);
            if self.log_x {
                // A little to either side, so that no point lies on the frame.
                self.lines(&area, (xs.start / 1.15..xs.end * 1.15).log_scale())?;
            } else {
                let margin = (xs.end - xs.start) * 0.03;
                self.lines(&area, xs.start - margin..xs.end + margin)?;
            }
            self.legend(&legend)
        })
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        self.series.iter().flat_map(|series| &series.points)
    }

    fn lines<'a, X>(&self, area: &Area<'a>, xs: X) -> Result<(), Failure<'a>>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let ys = span(self.points().flat_map(|point| [point.y, point.least, point.greatest]), true);
        let mut chart = ChartBuilder::on(area)
            .margin_right(20)
            .x_label_area_size(46)
            .y_label_area_size(76)
            .build_cartesian_2d(xs, ys.clone())?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(font(16))
            .axis_desc_style(font(17))
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_label_formatter(&|x| number(*x))
            .y_label_formatter(&|y| number(*y))
            .draw()?;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            chart.draw_series(LineSeries::new(
                series.points.iter().map(|point| (point.x, point.y)),
                colour.stroke_width(2),
            ))?;
            for point in &series.points {
                chart.draw_series([Circle::new((point.x, point.y), 3, colour.filled())])?;
                if point.least < point.greatest {
                    let ends = [(point.x, point.least), (point.x, point.greatest)];
                    chart.draw_series([PathElement::new(ends, colour.stroke_width(1))])?;
                    for end in ends {
                        let cap = [(-4, 0), (4, 0)];
                        chart.draw_series([
                            EmptyElement::at(end) + PathElement::new(cap.to_vec(), colour.stroke_width(1))
                        ])?;
                    }
                }
            }
        }
        Ok(())
    }

    fn legend<'a>(&self, area: &Area<'a>) -> Result<(), Failure<'a>> {
        for (number, (series, colour)) in self.series.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let x = 76 + i32::try_from(number % COLUMNS * (WIDTH as usize - 76) / COLUMNS).expect("within the picture");
            let y = i32::try_from(number / COLUMNS * LINE as usize).expect("within the picture") + 10;
            area.draw(&PathElement::new([(x, y), (x + 24, y)], colour.stroke_width(3)))?;
            area.draw(&Text::new(series.name.clone(), (x + 32, y), left(16)))?;
        }
        Ok(())
    }
}

impl Bars {
    /// Writes it; the folder is made if there is none.
    ///
    /// # Errors
    /// The file cannot be written.
    ///
    /// # Panics
    /// If there is no bar at all, or a figure that is no number.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        store(path, &self.svg())
    }

    fn svg(&self) -> String {
        let count = u32::try_from(self.bars.len()).expect("few bars");
        let marked = u32::from(self.mark.is_some()) * LINE;
        draw(TITLE + marked + count * ROW + 62, |root| {
            let area = title(&root, &self.title)?;
            let (above, area) = area.split_vertically(marked);
            self.rows(&above, &area)
        })
    }

    fn rows<'a>(&self, above: &Area<'a>, area: &Area<'a>) -> Result<(), Failure<'a>> {
        let figures = self.bars.iter().flat_map(|bar| [bar.value, bar.least, bar.greatest]);
        let xs = span(figures.chain(self.mark.iter().map(|mark| mark.1)), true);
        let rows = self.bars.len() as f64;
        let names: u32 = 390;
        let mut chart = ChartBuilder::on(area)
            .margin_right(84)
            .x_label_area_size(50)
            .y_label_area_size(names)
            .build_cartesian_2d(xs, rows..0.0)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .light_line_style(WHITE)
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(font(16))
            .axis_desc_style(font(17))
            .x_desc(&self.x)
            .x_label_formatter(&|x| number(*x))
            .draw()?;
        for (at, bar) in self.bars.iter().enumerate() {
            let (top, middle, bottom) = (at as f64 + 0.2, at as f64 + 0.5, at as f64 + 0.8);
            let colour = COLOURS[0];
            chart.draw_series([Rectangle::new([(0.0, top), (bar.value, bottom)], colour.mix(0.75).filled())])?;
            if bar.least < bar.greatest {
                let ends = [(bar.least, middle), (bar.greatest, middle)];
                chart.draw_series([PathElement::new(ends, INK.stroke_width(1))])?;
                for (x, _) in ends {
                    let cap = [(x, middle - 0.12), (x, middle + 0.12)];
                    chart.draw_series([PathElement::new(cap, INK.stroke_width(1))])?;
                }
            }
            let end = chart.backend_coord(&(bar.greatest.max(bar.value).max(0.0), middle));
            // Where the bars' area begins in the picture.
            let base = area.get_base_pixel();
            let y = end.1 - base.1;
            area.draw(&Text::new(number(bar.value), (end.0 - base.0 + 8, y), left(16)))?;
            let name: String = bar.name.chars().take(NAME).collect();
            let right = font(16).pos(Pos::new(HPos::Right, VPos::Center));
            area.draw(&Text::new(name, (i32::try_from(names).expect("small") - 8, y), right))?;
        }
        if let Some((name, value)) = &self.mark {
            chart.draw_series([PathElement::new([(*value, 0.0), (*value, rows)], COLOURS[1].stroke_width(2))])?;
            let (x, _) = chart.backend_coord(&(*value, 0.0));
            let style = font(16).color(&COLOURS[1]).pos(Pos::new(HPos::Center, VPos::Center));
            above.draw(&Text::new(name.clone(), (x - above.get_base_pixel().0, 10), style))?;
        }
        Ok(())
    }
}

/// A picture on white.
fn draw(height: u32, content: impl FnOnce(Area<'_>) -> Result<(), Failure<'_>>) -> String {
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
    let drawn = root.fill(&WHITE).and_then(|()| content(root));
    drawn.unwrap_or_else(|error| panic!("a picture in memory cannot be drawn: {error}"));
    svg
}

/// Writes the title, and gives what is below it.
fn title<'a>(root: &Area<'a>, text: &str) -> Result<Area<'a>, Failure<'a>> {
    let (above, below) = root.split_vertically(TITLE);
    let style = font(21).pos(Pos::new(HPos::Center, VPos::Center));
    above.draw(&Text::new(text.to_owned(), (i32::try_from(WIDTH / 2).expect("small"), 18), style))?;
    Ok(below)
}

/// plotters takes a size for the height of a line, and writes 1 / 1.24 of it.
fn font(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

fn left(size: i32) -> TextStyle<'static> {
    font(size).pos(Pos::new(HPos::Left, VPos::Center))
}

/// From the least figure, or 0, to a little more than the greatest.
fn span(figures: impl Iterator<Item = f64>, from_zero: bool) -> Range<f64> {
    let start = if from_zero { (0.0, 0.0) } else { (f64::INFINITY, f64::NEG_INFINITY) };
    let (least, greatest) = figures.fold(start, |(least, greatest), figure| {
        assert!(figure.is_finite(), "{figure} cannot be drawn");
        (least.min(figure), greatest.max(figure))
    });
    assert!(least <= greatest, "there is nothing to draw");
    let more = (greatest - least) * 0.06;
    match (least == greatest, from_zero) {
        (true, _) => least - 0.5..least + 0.5,
        (false, true) => least - if least < 0.0 { more } else { 0.0 }..greatest + more,
        (false, false) => least..greatest,
    }
}

/// A figure as short as it can be said: three digits, none of them a zero at the end.
fn number(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 999_500.0 => (value / 1e6, "M"),
        size if size >= 9_999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        size if !(5e-7..99.95).contains(&size) => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    let text = format!("{scaled:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{}{unit}", if text == "-0" { "0" } else { text })
}

fn store(path: &Path, svg: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(log_x: bool) -> Chart {
        let point = |x, y| Point { x, y, least: y - 1.0, greatest: y + 2.0 };
        let series = |name: &str, factor: f64| Series {
            name: name.to_owned(),
            points: [1.0, 10.0, 100.0].map(|x| point(x, x * factor)).to_vec(),
        };
        Chart {
            title: "A title <&>".to_owned(),
            x: "rules".to_owned(),
            y: "µs".to_owned(),
            log_x,
            series: vec![series("ours", 1.0), series("theirs", 2.0)],
        }
    }

    #[test]
    fn a_chart_names_its_axes_and_its_lines() {
        for log_x in [false, true] {
            let svg = chart(log_x).svg();
            for text in ["A title &lt;&amp;&gt;", "rules", "µs", "ours", "theirs"] {
                assert!(svg.contains(&format!("\n{text}\n")), "{text} is missing:\n{svg}");
            }
            assert_eq!(svg.matches("<circle").count(), 6);
            assert_eq!(svg, chart(log_x).svg(), "the same figures give another file");
            let ground = svg.find("<rect").expect("a ground");
            assert!(svg[ground..].split("/>").next().is_some_and(|rect| rect.contains("#FFFFFF")), "{svg}");
        }
    }

    #[test]
    fn bars_have_names_figures_and_a_mark() {
        let bar =
            |name: &str, value: f64| Bar { name: name.to_owned(), value, least: value - 0.5, greatest: value + 0.5 };
        let bars = Bars {
            title: "Requests".to_owned(),
            x: "of no plugin".to_owned(),
            mark: Some(("the bar".to_owned(), 0.95)),
            bars: vec![bar("no plugin", 1.0), bar("below zero", -1.25), bar("ours", 2.5)],
        };
        let svg = bars.svg();
        for text in ["no plugin", "below zero", "ours", "-1.25", "2.5", "the bar"] {
            assert!(svg.contains(&format!("\n{text}\n")), "{text} is missing:\n{svg}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plots/bars.svg");
        bars.write(&path).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), svg);
    }

    #[test]
    fn one_figure_alone_can_be_drawn() {
        let mut one = chart(false);
        one.series.truncate(1);
        one.series[0].points = vec![Point { x: 5.0, y: 0.0, least: 0.0, greatest: 0.0 }];
        assert_eq!(one.svg().matches("<circle").count(), 1);
    }

    #[test]
    fn figures_are_said_shortly() {
        let cases = [(0.0, "0"), (1.0, "1"), (0.952, "0.952"), (12.34, "12.3"), (1234.0, "1234"), (45_600.0, "45.6k")];
        let others = [(1_000_000.0, "1M"), (-0.5, "-0.5"), (250_000.0, "250k"), (-1e-9, "0")];
        for (value, text) in cases.into_iter().chain(others) {
            assert_eq!(number(value), text);
        }
    }
}
