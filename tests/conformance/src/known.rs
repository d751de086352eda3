//! Differences that stay, each with its reason.

/// Case, step (0: any), a part of the difference's text, and why it stays.
const KNOWN: &[(&str, usize, &str, &str)] = &[];

/// The reason, if every one of the differences has one; the first is told.
pub(crate) fn reason(case: &str, index: usize, differences: &[String]) -> Option<&'static str> {
    let of = |difference: &String| {
        KNOWN
            .iter()
            .find(|(one, step, part, _)| {
                (*one == "*" || *one == case) && (*step == 0 || *step == index) && difference.contains(part)
            })
            .map(|(_, _, _, reason)| *reason)
    };
    let reasons: Option<Vec<&str>> = differences.iter().map(of).collect();
    reasons.and_then(|reasons| reasons.first().copied())
}
