//! The results, for people and for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use crate::nebula;
use crate::rows::{Figure, Goal};
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
    use std::time::Duration;

    use super::*;
    use crate::rows::{self, Round, Sample, Way};

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
    fn what_is_missed_says_how_far() {
        let of = |outcome: &Outcome| lines(outcome).next().unwrap()[6].clone();
        assert_eq!(of(&outcome("wan-20-0.5", 90.0, 10.0)), "no: 50 % of it");
        assert_eq!(of(&outcome("echo", 20_300.0, 20_000.0)), "no: 3.0 times it");
        assert_eq!(of(&outcome("wan-20-2", 90.0, 10.0)), "");
        let nothing = Outcome { rounds: Vec::new(), ..outcome("echo", 0.0, 0.0) };
        assert_eq!(of(&nothing), "not measured");
    }
}
