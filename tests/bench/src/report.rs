//! The results, for people and for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::nebula;
use crate::rows::{self, Figure, Goal, Round};
use crate::run::Outcome;
use crate::stats::{Spread, short};

/// Between these lines of a page stands the table.
const BEGIN: &str = "<!-- bench: begin -->";
const END: &str = "<!-- bench: end -->";

const HEAD: [&str; 7] = ["row", "what", "under", "goal", "result", "rounds", "reached"];

/// The lines of one row.
fn lines(outcome: &Outcome) -> impl Iterator<Item = [String; 7]> {
    outcome.row.figures.iter().map(|figure| {
        let result = figure.result(&outcome.rounds, outcome.trip);
        let [shown, rounds] = result.map_or([String::from("-"), String::new()], |spread| {
            let unit = figure.formula.unit();
            let Spread { median, least, most } = spread;
            let rounds =
                if least == most { String::new() } else { format!("{} to {}", short(least), short(most)) };
            [format!("{}{unit}", short(median)), rounds]
        });
        let reached = verdict(figure, result);
        let goal = figure.goal.map(|goal| shown_goal(goal, figure.formula.unit())).unwrap_or_default();
        let row = &outcome.row;
        [row.name.clone(), figure.what.clone(), row.under.clone(), goal, shown, rounds, reached]
    })
}

fn shown_goal(goal: Goal, unit: &str) -> String {
    match goal {
        Goal::AtLeast(least) => format!("≥ {}{unit}", plain(least)),
        Goal::AtMost(most) => format!("≤ {}{unit}", plain(most)),
    }
}

/// A number as it is said, without digits that are none.
fn plain(value: f64) -> String {
    format!("{value}")
}

/// Whether a goal is reached, and where not, which part of it is.
fn verdict(figure: &Figure, result: Option<Spread>) -> String {
    let Some(goal) = figure.goal else { return String::new() };
    let Some(Spread { median, .. }) = result else { return "not measured".into() };
    if goal.is_reached(median) {
        return "yes".into();
    }
    match goal {
        Goal::AtLeast(least) => format!("no: {:.0} % of it", median / least * 100.0),
        Goal::AtMost(most) => format!("no: {:.1} times it", median / most),
    }
}

/// The medians of every way, row by row: what the ratios are made of.
fn medians(outcome: &Outcome) -> String {
    let shown = outcome.row.ways.iter().filter_map(|way| {
        let values = |of: fn(&crate::rows::Sample) -> Option<f64>| -> Vec<f64> {
            outcome.rounds.iter().filter_map(|round| round.get(way).and_then(of)).collect()
        };
        let value = Spread::of(&values(|sample| Some(sample.value)))?.median;
        Some(format!("{} {}", way.name(), short(value)))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// The table on a terminal.
pub(crate) fn print(outcomes: &[Outcome]) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(HEAD);
    outcomes.iter().flat_map(lines).for_each(|line| {
        table.add_row(line);
    });
    println!("{table}");
}

/// Writes everything as JSON, all samples with it.
pub(crate) fn write_json(outcomes: &[Outcome], path: &Path) -> Result<()> {
    let rows: Vec<Value> = outcomes.iter().map(as_json).collect();
    let text = serde_json::to_string_pretty(&json!({ "machine": machine(), "rows": rows }))?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// What is read back of the JSON; the rest follows from it.
#[derive(Deserialize)]
struct Written {
    rows: Vec<WrittenRow>,
}

#[derive(Deserialize)]
struct WrittenRow {
    row: String,
    rtt_ms: f64,
    rounds: Vec<Round>,
}

/// The outcomes that a file of [`write_json`] holds, of rows that there still are.
pub(crate) fn read_json(path: &Path) -> Result<Vec<Outcome>> {
    let wrong = || format!("{}: no results of this program", path.display());
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let Written { rows } = serde_json::from_str(&text).with_context(wrong)?;
    let known = rows::all();
    let outcome = |written: WrittenRow| {
        let row = known.iter().find(|row| row.name == written.row)?.clone();
        let trip = Duration::try_from_secs_f64(written.rtt_ms / 1e3).ok()?;
        Some(Outcome { row, rounds: written.rounds, trip })
    };
    Ok(rows.into_iter().filter_map(outcome).collect())
}

/// Puts new outcomes before earlier ones of the same row, in the order of the rows.
pub(crate) fn merge(new: Vec<Outcome>, earlier: Vec<Outcome>) -> Vec<Outcome> {
    let mut all: Vec<Outcome> = Vec::new();
    for outcome in new.into_iter().chain(earlier) {
        if all.iter().all(|known| known.row.name != outcome.row.name) {
            all.push(outcome);
        }
    }
    let order: Vec<String> = rows::all().into_iter().map(|row| row.name).collect();
    all.sort_by_key(|outcome| order.iter().position(|name| *name == outcome.row.name));
    all
}

fn as_json(outcome: &Outcome) -> Value {
    let row = &outcome.row;
    let figures: Vec<Value> = row
        .figures
        .iter()
        .map(|figure| {
            let result = figure.result(&outcome.rounds, outcome.trip);
            json!({
                "what": figure.what,
                "goal": figure.goal,
                "unit": figure.formula.unit().trim(),
                "result": result,
                "reached": figure.goal.zip(result).map(|(goal, result)| goal.is_reached(result.median)),
            })
        })
        .collect();
    json!({
        "row": row.name,
        "under": row.under,
        "place": row.place,
        "load": row.load.words().join(" "),
        "unit": row.load.unit(),
        "rtt_ms": outcome.trip.as_secs_f64() * 1e3,
        "figures": figures,
        "rounds": outcome.rounds,
    })
}

fn machine() -> Value {
    let kernel = Command::new("uname").arg("-r").output();
    let kernel = kernel.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": kernel.unwrap_or_default(),
        "mtu": 1500,
        "nebula": nebula::version(),
    })
}

/// Puts the table into a page, between its two marks.
pub(crate) fn write_page(outcomes: &[Outcome], path: &Path) -> Result<()> {
    let page = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let page = replace(&page, outcomes)
        .with_context(|| format!("{}: no lines {BEGIN} and {END}", path.display()))?;
    fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}

fn replace(page: &str, outcomes: &[Outcome]) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    let mut text = format!("{before}{BEGIN}\n");
    let mut line = |cells: &[String]| writeln!(text, "| {} |", cells.join(" | ")).ok();
    line(&HEAD.map(str::to_owned));
    line(&HEAD.map(|_| "---".to_owned()));
    outcomes.iter().flat_map(lines).for_each(|cells| {
        line(&cells);
    });
    let head = ["row", "medians of each way", "unit", "RTT, ms"];
    text.push('\n');
    let mut line = |cells: [String; 4]| writeln!(text, "| {} |", cells.join(" | ")).ok();
    line(head.map(str::to_owned));
    line(head.map(|_| "---".to_owned()));
    for outcome in outcomes {
        let trip = short(outcome.trip.as_secs_f64() * 1e3);
        line([outcome.row.name.clone(), medians(outcome), outcome.row.load.unit().into(), trip]);
    }
    Some(text + END + after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Sample, Way};

    fn outcome(name: &str, service: f64, tcp: f64) -> Outcome {
        let row = rows::all().into_iter().find(|row| row.name == name).unwrap();
        let sample = |value| Sample { value, ..Sample::default() };
        let rounds = vec![Round::from([(Way::Service, sample(service)), (Way::Tcp, sample(tcp))])];
        Outcome { row, rounds, trip: Duration::from_millis(20) }
    }

    #[test]
    fn a_table_takes_the_place_of_the_last_one() {
        let outcomes = [outcome("gigabit", 940.0, 950.0)];
        let page = format!("# Title\n{BEGIN}\nold\n{END}\nrest\n");
        let page = replace(&page, &outcomes).unwrap();
        assert!(page.starts_with("# Title\n") && page.ends_with(&format!("{END}\nrest\n")), "{page}");
        let line =
            "| gigabit | bulk, one stream, to plain TCP | RTT 1 ms, 1 Gbit/s | ≥ 0.95 | 0.99 |  | yes |";
        assert!(page.contains(line) && !page.contains("old"), "{page}");
        assert!(page.contains("| gigabit | Service 940, TCP 950 | Mbit/s | 20.0 |"), "{page}");
        assert_eq!(replace(&page, &outcomes).unwrap(), page);
        assert_eq!(replace("no marks", &outcomes), None);
    }

    #[test]
    fn what_was_written_is_read_back_and_replaced_row_by_row() {
        let file = tempfile::NamedTempFile::new().unwrap();
        write_json(&[outcome("gigabit", 1.0, 2.0), outcome("echo", 3.0, 4.0)], file.path()).unwrap();
        let merged = merge(vec![outcome("echo", 5.0, 6.0)], read_json(file.path()).unwrap());
        let values: Vec<_> =
            merged.iter().map(|o| (o.row.name.as_str(), o.rounds[0][&Way::Service].value)).collect();
        assert_eq!(values, [("gigabit", 1.0), ("echo", 5.0)]);
        assert_eq!(merged[0].trip, Duration::from_millis(20));
        fs::write(file.path(), "[]").unwrap();
        assert!(read_json(file.path()).is_err());
    }

    #[test]
    fn what_is_missed_says_how_far() {
        let of = |outcome: &Outcome| lines(outcome).next().unwrap()[6].clone();
        assert_eq!(of(&outcome("wan-20-0.5", 90.0, 10.0)), "no: 50 % of it");
        assert_eq!(of(&outcome("echo", 20_300.0, 20_000.0)), "no: 3.0 times it");
        assert_eq!(of(&outcome("wan-20-2", 90.0, 10.0)), "");
        let nothing = Outcome { rounds: Vec::new(), ..outcome("echo", 0.0, 0.0) };
        assert_eq!(of(&nothing), "not measured");
    }
}
