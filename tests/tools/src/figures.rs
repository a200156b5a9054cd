//! What a set of samples says.

/// Values in the order of their size.
#[derive(Clone, Default)]
pub struct Sorted(Vec<f64>);

impl Sorted {
    /// Sorts.
    pub fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// All of them.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// The value that this part of all (0 to 1) does not exceed.
    pub fn quantile(&self, part: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = (part * last as f64).ceil() as usize;
        self.0.get(index).copied().unwrap_or(f64::NAN)
    }

    /// The one in the middle.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}
