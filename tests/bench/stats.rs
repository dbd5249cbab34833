//! Medians and spreads.

/// The middle of some figures, with the least and the greatest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Between these the median of ever more such figures lies, by 95 in 100; of less than six figures, all of them.
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// There is one figure, which says nothing of how far others may be from it.
    pub(crate) alone: bool,
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
        let median = f64::midpoint(low, high);
        // As many figures are below the true median as heads among so many coins.
        let count = figures.len();
        let outside = (count as f64 / 2.0 - 0.98 * (count as f64).sqrt()).floor().max(0.0) as usize;
        Spread { median, min, max, low: figures[outside], high: figures[count - 1 - outside], alone: count == 1 }
    }

    /// How far from `value` the true median may be.
    pub(crate) fn off(&self, value: f64) -> f64 {
        if self.alone {
            return f64::INFINITY;
        }
        (self.low - value).abs().max((self.high - value).abs())
    }

    /// `median (min–max)` with this many decimals.
    pub(crate) fn show(&self, decimals: usize) -> String {
        let Spread { median, min, max, .. } = self;
        format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
    }

    /// The same with signs.
    pub(crate) fn show_signed(&self, decimals: usize) -> String {
        let Spread { median, min, max, .. } = self;
        format!("{median:+.decimals$} ({min:+.decimals$} to {max:+.decimals$})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_figures_the_surer_the_median() {
        let interval = |count: i32| {
            let spread = Spread::of((1..=count).map(f64::from));
            (spread.low, spread.high)
        };
        assert_eq!(interval(5), (1.0, 5.0));
        // As tables of the sign test have them.
        assert_eq!(interval(12), (3.0, 10.0));
        assert_eq!(interval(100), (41.0, 60.0));
        assert!((Spread::of([0.97, 1.0, 1.01]).off(1.0) - 0.03).abs() < 1e-9);
        assert_eq!(Spread::of([1.0]).off(1.0), f64::INFINITY);
    }

    #[test]
    fn the_median_stands_in_the_middle() {
        let three = Spread { median: 2.0, min: 1.0, max: 3.0, low: 1.0, high: 3.0, alone: false };
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), three);
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of([1.0]).show(2), "1.00 (1.00–1.00)");
        assert_eq!(Spread::of([-1.0, 1.0]).show_signed(1), "+0.0 (-1.0 to +1.0)");
    }
}
