//! Quantities: `100m`, `1.5Gi`, `2e3`, as `k8s.io/apimachinery/pkg/api/resource` reads and writes them.

use std::cmp::Ordering;
use std::fmt;

/// Billionths in one: nothing finer is kept.
const NANO: i128 = 1_000_000_000;

/// A parsed quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// The family of suffixes that a quantity was written with, and is written with again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

/// Text that is no quantity, in the server's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseError;

const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

impl Quantity {
    /// Reads a quantity; what is finer than a billionth is rounded away from zero.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, suffix) = rest.split_at(end);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || digits.len() > 20 {
            return Err(ParseError);
        }
        let number: i128 = format!("0{whole}{fraction}").parse().map_err(|_| ParseError)?;
        let (nano, format) = scale(suffix).ok_or(ParseError)?;
        let places = u32::try_from(fraction.len()).map_err(|_| ParseError)?;
        let divisor = 10i128.checked_pow(places).ok_or(ParseError)?;
        let scaled = number.checked_mul(nano).ok_or(ParseError)?;
        let nano = scaled / divisor + i128::from(scaled % divisor != 0);
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that needs none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let whole = self.nano / NANO;
        if self.format == Format::Binary && self.nano % NANO == 0 && whole.abs() >= 1024 {
            let (mut number, mut suffix) = (whole, "");
            for next in BINARY {
                if number % 1024 != 0 {
                    break;
                }
                (number, suffix) = (number / 1024, next);
            }
            return write!(f, "{number}{suffix}");
        }
        let (mut number, mut power) = (self.nano, 0);
        while number % 1000 == 0 && power + 1 < DECIMAL.len() {
            (number, power) = (number / 1000, power + 1);
        }
        match self.format {
            // Suffixes stand for powers of a thousand from 10^-9 on.
            Format::Exponent if power != 3 => write!(f, "{number}e{}", (power as i32 - 3) * 3),
            _ => write!(f, "{number}{}", DECIMAL[power]),
        }
    }
}

/// A suffix as billionths, and its family.
fn scale(suffix: &str) -> Option<(i128, Format)> {
    if let Some(power) = BINARY.iter().position(|one| *one == suffix) {
        return Some((NANO * 1024i128.pow(u32::try_from(power).ok()? + 1), Format::Binary));
    }
    if let Some(power) = DECIMAL.iter().position(|one| *one == suffix) {
        return Some((1000i128.pow(u32::try_from(power).ok()?), Format::Decimal));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let power = u32::try_from(exponent + 9).ok().filter(|power| *power <= 27)?;
    Some((10i128.pow(power), Format::Exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, canonical) in [
            ("100m", "100m"),
            ("1000m", "1"),
            ("1", "1"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            (".5", "500m"),
            ("1Ki", "1Ki"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("0.5Ki", "512"),
            ("2e3", "2e3"),
            ("-1000k", "-1M"),
            ("1n", "1n"),
            ("+3", "3"),
            ("0", "0"),
            ("1500", "1500"),
        ] {
            assert_eq!(
                Quantity::parse(text).map(|quantity| quantity.to_string()),
                Ok(canonical.into()),
                "{text}"
            );
        }
        for bad in ["", "x", "1x", "1..2", "m", "1e", "1e99", "--1", "999999999999999999999999E"] {
            assert_eq!(Quantity::parse(bad), Err(ParseError), "{bad}");
        }
        assert!(Quantity::parse("1Gi").unwrap() > Quantity::parse("1G").unwrap());
    }
}
