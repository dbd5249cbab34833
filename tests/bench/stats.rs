//! Medians and spreads.

/// The middle of some figures, with the least and the greatest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of any number of figures but none.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (figures.first(), figures.last()) else { panic!("the median of no figures") };
        let (low, high) = (figures[(figures.len() - 1) / 2], figures[figures.len() / 2]);
        Spread { median: f64::midpoint(low, high), min, max }
    }

    /// `median (min–max)` with this many decimals.
    pub(crate) fn show(&self, decimals: usize) -> String {
        let Spread { median, min, max } = self;
        format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
    }

    /// The same with signs.
    pub(crate) fn show_signed(&self, decimals: usize) -> String {
        let Spread { median, min, max } = self;
        format!("{median:+.decimals$} ({min:+.decimals$} to {max:+.decimals$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of([1.0]).show(2), "1.00 (1.00–1.00)");
        assert_eq!(Spread::of([-1.0, 1.0]).show_signed(1), "+0.0 (-1.0 to +1.0)");
    }
}
