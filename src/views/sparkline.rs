//! A small line of text that shows how a value went.

/// Values kept: every other one is dropped when there are more, so that any number of trials fits.
const KEPT: usize = 64;
/// From low to high, for terminals that speak Unicode and for others.
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const PLAIN: [char; 8] = ['_', '.', ':', '-', '=', '+', '*', '#'];

/// Values in the order they came, thinned out evenly.
#[derive(Clone, Debug, Default)]
pub struct Sparkline {
    values: Vec<f64>,
    /// Values that one kept value stands for; 0 before the first.
    stride: u64,
    came: u64,
}

impl Sparkline {
    /// Takes up the next value, which is finite.
    pub fn push(&mut self, value: f64) {
        self.stride = self.stride.max(1);
        if self.came.is_multiple_of(self.stride) {
            self.values.push(value);
        }
        self.came += 1;
        if self.values.len() >= KEPT {
            let mut place = 0;
            self.values.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.stride *= 2;
        }
    }

    /// At most `columns` letters; empty before there are two values.
    #[must_use]
    pub fn draw(&self, columns: usize, unicode: bool) -> String {
        let letters = if unicode { BLOCKS } else { PLAIN };
        let count = self.values.len();
        if count < 2 || columns == 0 {
            return String::new();
        }
        let (low, high) =
            self.values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        let columns = columns.min(count);
        let letter = |column: usize| {
            // The last of the values that share a column.
            let value = self.values.get((column + 1) * count / columns - 1)?;
            let share = if high > low { (value - low) / (high - low) } else { 0.0 };
            letters.get(((share * 8.0) as usize).min(7))
        };
        (0..columns).filter_map(letter).collect()
    }
}

impl FromIterator<f64> for Sparkline {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        let mut line = Self::default();
        values.into_iter().for_each(|value| line.push(value));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = f64>) -> Sparkline {
        values.into_iter().collect()
    }

    #[test]
    fn low_is_low_and_high_is_high() {
        assert_eq!(of([0.0, 1.0, 2.0, 3.0]).draw(10, true), "▁▃▆█");
        assert_eq!(of([3.0, 0.0]).draw(10, false), "#_");
        assert_eq!(of([5.0, 5.0, 5.0]).draw(10, true), "▁▁▁");
        assert_eq!(of([5.0]).draw(10, true), "");
    }

    #[test]
    fn any_number_of_values_fits() {
        let line = of((0..100_000).map(f64::from));
        assert!(line.values.len() < KEPT);
        let drawn: Vec<char> = line.draw(8, true).chars().collect();
        assert_eq!(drawn, BLOCKS);
        assert_eq!(of([f64::MIN, f64::MAX]).draw(4, true).chars().count(), 2);
    }
}
