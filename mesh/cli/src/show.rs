//! How things look: aligned columns, units, and colour on a terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use edgeloom_api::admin::Timestamp;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Space between columns.
const GAP: &str = "   ";

/// How a cell is coloured on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

/// A cell of a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub(crate) fn new(text: impl ToString, tone: Tone) -> Self {
        Self { text: text.to_string(), tone }
    }
}

impl<T: ToString> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Tone::Plain)
    }
}

/// Rows under a header.
#[derive(Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub(crate) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// A table without a header: names and what they stand for.
    pub(crate) fn bare() -> Self {
        Self::new(&[])
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as text: columns aligned to the left, no blanks at the ends of lines.
    pub(crate) fn text(&self, colour: bool) -> String {
        let length = |text: &str| text.chars().count();
        let header: Vec<_> = self.header.iter().map(Cell::from).collect();
        let header = (!header.is_empty()).then_some(&header);
        let mut widths = Vec::new();
        for row in header.into_iter().chain(&self.rows) {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(length(&cell.text));
            }
        }
        let mut text = String::new();
        for row in header.into_iter().chain(&self.rows) {
            for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = if index == 0 { "" } else { GAP };
                let last = index + 1 == row.len();
                let pad = if last { 0 } else { width - length(&cell.text) };
                let _ = write!(text, "{gap}{}{:pad$}", paint(cell, colour), "");
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    pub(crate) fn print(&self) -> io::Result<()> {
        io::stdout().write_all(self.text(colour()).as_bytes())
    }
}

fn paint(cell: &Cell, colour: bool) -> String {
    let code = match cell.tone {
        Tone::Good => 32,
        Tone::Warning => 33,
        Tone::Bad => 31,
        Tone::Plain => return cell.text.clone(),
    };
    if colour { format!("\x1b[{code}m{}\x1b[0m", cell.text) } else { cell.text.clone() }
}

/// Whether the output goes to a person who wants colour (<https://no-color.org>).
fn colour() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints JSON as a person can read it too.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Says on a terminal that something takes a while, and for how long it has.
pub(crate) fn spinner(what: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
    let progress = ProgressBar::new_spinner().with_style(style).with_message(what.to_owned());
    progress.enable_steady_tick(Duration::from_millis(100));
    progress
}

/// Prints a line.
pub(crate) fn line(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

/// Bytes with a binary unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Milliseconds, finer where they are few.
pub(crate) fn milliseconds(value: f64) -> String {
    if value < 10.0 { format!("{value:.2} ms") } else { format!("{value:.1} ms") }
}

/// How long ago something was, as kubectl has it: `5m`, `3h`, `2d`.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = (now - then).whole_seconds().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long until something, or `over`. What was asked for as 24h a second ago is still that.
pub(crate) fn until(then: Timestamp, now: Timestamp) -> String {
    if then <= now {
        return "over".to_owned();
    }
    let minute = Duration::from_secs(60);
    let long = then - now > minute * 2;
    age(now, if long { then + minute } else { then })
}

/// The time now.
pub(crate) fn now() -> Timestamp {
    std::time::SystemTime::now().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_end_without_blanks() {
        let mut table = Table::new(&["NODE", "PATH", "RTT"]);
        table.row(["edge-a".into(), Cell::new("direct", Tone::Good), "20 ms".into()]);
        table.row(["b".into(), Cell::new("relayed by x", Tone::Warning), "".into()]);
        let want = "\
NODE     PATH           RTT
edge-a   direct         20 ms
b        relayed by x
";
        assert_eq!(table.text(false), want);
        let coloured = table.text(true);
        assert!(coloured.contains("\x1b[32mdirect\x1b[0m         20 ms"), "{coloured:?}");
    }

    #[test]
    fn units() {
        for (count, want) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (100 << 20, "100.0 MiB")] {
            assert_eq!(bytes(count), want);
        }
        assert_eq!((milliseconds(0.123), milliseconds(20.55)), ("0.12 ms".to_owned(), "20.6 ms".to_owned()));
    }

    #[test]
    fn ages() {
        let at = |seconds| Timestamp::from_unix_timestamp(seconds).unwrap();
        for (seconds, want) in [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(age(at(0), at(seconds)), want);
        }
        assert_eq!((until(at(5), at(5)), until(at(65), at(5))), ("over".to_owned(), "60s".to_owned()));
        assert_eq!(until(at(86_400), at(1)), "24h");
    }
}
