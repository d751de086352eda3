//! Cells of the tables that `kubectl get` shows, as kubectl's own printers would print them.

mod cluster;
mod event;
mod pod;
mod service;
mod workload;

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(super) use self::cluster::*;
pub(super) use self::event::*;
pub(super) use self::pod::*;
pub(super) use self::service::*;
pub(super) use self::workload::*;

pub(super) const NONE: &str = "<none>";
const UNKNOWN: &str = "<unknown>";

/// A string field, or `<none>`.
fn text_or_none(value: &Value) -> Value {
    match value.as_str() {
        Some(text) if !text.is_empty() => json!(text),
        _ => json!(NONE),
    }
}

/// A string field, empty if it is not there.
pub(super) fn text(value: &Value) -> Value {
    json!(value.as_str().unwrap_or(""))
}

/// Items of a list, none if it is not there.
fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// How long ago a time was, as `kubectl` says it: `5m12s`.
pub fn age(time: &str, now: OffsetDateTime) -> String {
    match OffsetDateTime::parse(time, &Rfc3339) {
        Ok(time) => human_duration((now - time).whole_seconds()),
        Err(_) => UNKNOWN.to_owned(),
    }
}

pub(super) fn age_cell(object: &Value, now: OffsetDateTime) -> Value {
    json!(
        object["metadata"]["creationTimestamp"]
            .as_str()
            .map_or_else(|| UNKNOWN.into(), |time| age(time, now))
    )
}

/// The creation time itself, for kinds that show it.
pub(super) fn created(object: &Value, _: OffsetDateTime) -> Value {
    object["metadata"]["creationTimestamp"].clone()
}

/// Seconds as `duration.HumanDuration` prints them: two units where they matter, one beyond.
pub fn human_duration(seconds: i64) -> String {
    let pair = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let years = days / 365;
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => pair(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_as_kubectl_prints_them() {
        const DAY: i64 = 86_400;
        for (seconds, expected) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600, "8h"),
            (2 * DAY - 1, "47h"),
            (2 * DAY, "2d"),
            (2 * DAY + 3600, "2d1h"),
            (8 * DAY, "8d"),
            (2 * 365 * DAY, "2y"),
            (2 * 365 * DAY + DAY, "2y1d"),
            (9 * 365 * DAY, "9y"),
        ] {
            assert_eq!(human_duration(seconds), expected);
        }
        let now = OffsetDateTime::from_unix_timestamp(1_000_000_000).unwrap();
        assert_eq!(age("2001-09-09T01:45:40Z", now), "60s");
        assert_eq!(age("yesterday", now), "<unknown>");
    }
}
