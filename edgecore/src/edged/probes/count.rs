//! When a row of successes or failures becomes a verdict.

use k8s_openapi::api::core::v1::Probe;

/// Counts results of one probe. Pure.
#[derive(Clone, Debug)]
pub(super) struct Count {
    success: u32,
    failure: u32,
    row: u32,
    last: Option<bool>,
    verdict: Option<bool>,
}

impl Count {
    /// Counts from `verdict`, where one stands already.
    pub(super) fn new(probe: &Probe, verdict: Option<bool>) -> Self {
        let at_least_one =
            |value: Option<i32>, default| value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default).max(1);
        Self {
            success: at_least_one(probe.success_threshold, 1),
            failure: at_least_one(probe.failure_threshold, 3),
            row: 0,
            last: None,
            verdict,
        }
    }

    /// Notes a result; the verdict that stands after it, if one does.
    pub(super) fn note(&mut self, success: bool) -> Option<bool> {
        self.row = if self.last == Some(success) { self.row.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success } else { self.failure };
        if self.row >= threshold {
            self.verdict = Some(success);
        }
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Probe::default() };
        let mut count = Count::new(&probe, Some(false));
        let results = [true, true, false, false, true, false, false, false, true, true];
        let verdicts: Vec<_> = results.iter().map(|result| count.note(*result).unwrap()).collect();
        assert_eq!(verdicts, [false, true, true, true, true, true, true, false, false, true]);
    }

    #[test]
    fn none_before_the_first_threshold() {
        let mut count = Count::new(&Probe::default(), None);
        assert_eq!([count.note(false), count.note(false), count.note(false)], [None, None, Some(false)]);
    }
}
