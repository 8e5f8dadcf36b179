//! Many measurements, few figures.

use std::time::Duration;

/// The value below which a share of the values lies, between neighbours in proportion; `NaN` when
/// there are none.
#[must_use]
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = share * last as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * at.fract()
}

/// The value in the middle.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Milliseconds.
#[must_use]
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A figure with three digits that matter.
#[must_use]
pub fn short(value: f64) -> String {
    match value.abs() {
        _ if value.is_nan() => "-".into(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A table in Markdown; the first column to the left, figures to the right.
#[must_use]
pub fn table(title: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let title: Vec<String> = title.iter().map(ToString::to_string).collect();
    let mut marks = vec!["---:".to_owned(); title.len()];
    if let Some(first) = marks.first_mut() {
        *first = "---".into();
    }
    let rows = rows.iter().map(|row| line(row));
    [line(&title), line(&marks)].into_iter().chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::{median, quantile, short};

    #[test]
    fn a_quantile_lies_between_its_neighbours() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.99), 4.96);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_figure_is_short() {
        assert_eq!(short(1234.5), "1234");
        assert_eq!(short(12.345), "12.3");
        assert_eq!(short(0.012_34), "0.012");
    }
}
