//! A run as a picture: how much was done over time, and the latency of the slowest messages.

use std::error::Error;
use std::path::Path;

use hdrhistogram::Histogram;
use plotters::prelude::*;

use crate::load::progress::Point;
use crate::load::report::grouped;

const SIZE: (u32, u32) = (900, 640);
const LINE: RGBColor = RGBColor(0x1F, 0x6F, 0xB4);
const FONT: (&str, u32) = ("sans-serif", 18);

/// Writes an SVG to `path`. What the run has not measured is left out.
///
/// # Errors
/// There is nothing to draw, or the file cannot be written.
pub(crate) fn draw(
    path: &Path,
    title: &str,
    points: &[Point],
    latency: Option<&Histogram<u64>>,
) -> Result<(), Box<dyn Error>> {
    let latency = latency.filter(|latency| !latency.is_empty());
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let area = area.titled(title, ("sans-serif", 22))?;
    match (points, latency) {
        ([], None) => return Err("this run has no samples to draw".into()),
        ([], Some(latency)) => draw_latency(&area, latency)?,
        (points, None) => draw_rate(&area, points)?,
        (points, Some(latency)) => {
            let halves = area.split_evenly((2, 1));
            draw_rate(&halves[0], points)?;
            draw_latency(&halves[1], latency)?;
        }
    }
    area.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_rate(area: &Area<'_>, points: &[Point]) -> Result<(), Box<dyn Error>> {
    let end = points.last().map_or(1.0, |point| point.at.as_secs_f64());
    let highest = points.iter().map(|point| point.rate).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("done per second", FONT)
        .margin(10)
        .x_label_area_size(35)
        .y_label_area_size(90)
        .build_cartesian_2d(0.0..end, 0.0..highest * 1.1)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("seconds")
        .y_label_formatter(&|rate| grouped(*rate as u64))
        .draw()?;
    chart.draw_series(LineSeries::new(
        points.iter().map(|point| (point.at.as_secs_f64(), point.rate)),
        LINE,
    ))?;
    Ok(())
}

/// Latency at each quantile; each step to the right is a tenth of the messages that are left.
fn draw_latency(area: &Area<'_>, latency: &Histogram<u64>) -> Result<(), Box<dyn Error>> {
    // One message in `one_in` is slower.
    let rarest = (latency.len() as f64).max(10.0);
    let steps = (rarest.log10() * 20.0) as u32;
    let line: Vec<(f64, f64)> = (0..=steps)
        .map(|step| {
            let one_in = 10f64.powf(f64::from(step) / 20.0);
            (one_in, latency.value_at_quantile(1.0 - 1.0 / one_in).max(1) as f64 / 1_000.0)
        })
        .collect();
    let (lowest, highest) = (line[0].1 / 1.5, latency.max() as f64 / 1_000.0 * 1.5);
    let mut chart = ChartBuilder::on(area)
        .caption("latency by percentile", FONT)
        .margin(10)
        .x_label_area_size(35)
        .y_label_area_size(90)
        .build_cartesian_2d((1.0..rarest).log_scale(), (lowest..highest).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("percent of messages that were as fast or faster")
        .y_desc("microseconds")
        .x_label_formatter(&|one_in| percent(*one_in))
        .y_label_formatter(&|micros| grouped(*micros as u64))
        .draw()?;
    chart.draw_series(LineSeries::new(line, LINE))?;
    Ok(())
}

/// All but one in so many, as percent.
fn percent(one_in: f64) -> String {
    let digits = (one_in.log10() - 2.0).ceil().max(0.0) as usize;
    format!("{:.digits$}", 100.0 - 100.0 / one_in)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn percents_have_the_digits_that_tell_them_apart() {
        let texts: Vec<String> = [1.0, 10.0, 100.0, 1e3, 1e5].into_iter().map(percent).collect();
        assert_eq!(texts, ["0", "90", "99", "99.9", "99.999"]);
    }

    #[test]
    fn a_picture_has_what_was_measured_and_nothing_measured_is_an_error() {
        let path = std::env::temp_dir().join(format!("mqtt-load-plot-{}.svg", std::process::id()));
        let points = [1, 2, 3].map(|at| Point { at: Duration::from_secs(at), rate: 1_000.0 });
        let mut latency = Histogram::new(3).expect("a histogram");
        (1..10_000).for_each(|micros| latency.record(micros * 1_000).expect("recorded"));
        draw(&path, "pairs", &points, Some(&latency)).expect("drawn");
        let both = std::fs::read_to_string(&path).expect("written");
        draw(&path, "idle", &points, None).expect("drawn");
        let one = std::fs::read_to_string(&path).expect("written");
        let nothing = draw(&path, "nothing", &[], None);
        std::fs::remove_file(&path).expect("removed");
        assert!(both.contains("99.9") && both.contains("done per second"), "{both}");
        assert!(!one.contains("latency by percentile") && one.contains("done per second"));
        assert!(nothing.is_err());
    }
}
