//! Quantities: `100m`, `1.5Gi`, `2e3`, as `k8s.io/apimachinery/pkg/api/resource` reads them.

use std::cmp::Ordering;

/// A parsed quantity, in thousandths: all that Kubernetes distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    milli: i128,
}

/// Text that is no quantity, in the server's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseError;

impl Quantity {
    /// Reads a quantity; what is finer than a thousandth is rounded away from zero.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, suffix) = rest.split_at(end);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || digits.len() > 24 {
            return Err(ParseError);
        }
        let number: i128 = format!("0{whole}{fraction}").parse().map_err(|_| ParseError)?;
        let (numerator, denominator) = scale(suffix).ok_or(ParseError)?;
        let places =
            10i128.checked_pow(u32::try_from(fraction.len()).map_err(|_| ParseError)?).ok_or(ParseError)?;
        let scaled = number.checked_mul(numerator).and_then(|n| n.checked_mul(1000)).ok_or(ParseError)?;
        let divisor = places.checked_mul(denominator).ok_or(ParseError)?;
        let milli = scaled.div_euclid(divisor) + i128::from(scaled.rem_euclid(divisor) != 0);
        Ok(Self { milli: if negative { -milli } else { milli } })
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.milli < 0
    }

    /// Whether it has no thousandths.
    pub fn is_whole(self) -> bool {
        self.milli % 1000 == 0
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.milli.cmp(&other.milli)
    }
}

/// A suffix as a fraction.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if let Some(power) = binary.iter().position(|one| *one == suffix) {
        return Some((1024i128.pow(u32::try_from(power).ok()? + 1), 1));
    }
    let decimal = ["", "k", "M", "G", "T", "P", "E"];
    if let Some(power) = decimal.iter().position(|one| *one == suffix) {
        return Some((1000i128.pow(u32::try_from(power).ok()?), 1));
    }
    let small = ["m", "u", "n"];
    if let Some(power) = small.iter().position(|one| *one == suffix) {
        return Some((1, 1000i128.pow(u32::try_from(power).ok()? + 1)));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = 10i128.checked_pow(exponent.unsigned_abs()).filter(|_| exponent.abs() <= 18)?;
    Some(if exponent < 0 { (1, power) } else { (power, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        for (text, milli) in [
            ("100m", 100),
            ("1", 1000),
            ("1.5", 1500),
            (".5", 500),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("2e3", 2_000_000),
            ("-1k", -1_000_000),
            ("1n", 1),
            ("+3", 3000),
        ] {
            assert_eq!(Quantity::parse(text).map(|quantity| quantity.milli), Ok(milli), "{text}");
        }
        for bad in ["", "x", "1x", "1..2", "m", "1e", "1e99", "--1", "99999999999999999999999999E"] {
            assert_eq!(Quantity::parse(bad), Err(ParseError), "{bad}");
        }
    }
}
