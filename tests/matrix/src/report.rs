//! The results, for people and for programs.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::cells::Cell;
use crate::run::Outcome;

/// Between these lines of a page stands the table.
const BEGIN: &str = "<!-- matrix: begin -->";
const END: &str = "<!-- matrix: end -->";

const HEAD: [&str; 6] = ["cell", "predicted", "found", "first byte, ms", "final path, ms", "as predicted"];

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    cell: &'a Cell,
    outcome: &'a Outcome,
    as_predicted: bool,
}

/// The cells, row by row.
fn rows(results: &[(Cell, Outcome)]) -> impl Iterator<Item = [String; 6]> {
    results.iter().map(|(cell, outcome)| {
        let (name, predicted) = (cell.name.clone(), over(cell.predicted.name(), cell.carrier));
        let word = if outcome.is_good(cell) { "yes" } else { "NO" };
        match outcome {
            Outcome::Found(found) => {
                let path = over(found.path.name(), found.carrier.as_deref());
                let size = found.datagram.map_or(String::new(), |bytes| format!(", {bytes} bytes"));
                let path = format!("{path} ({}{size})", format!("{:?}", found.way).to_lowercase());
                let times = [found.first_byte_ms, found.final_path_ms].map(|ms| format!("{ms:.0}"));
                let [first, last] = times;
                [name, predicted, path, first, last, word.into()]
            }
            Outcome::Failed(why) => [name, predicted, why.clone(), String::new(), String::new(), word.into()],
        }
    })
}

fn over(path: &str, carrier: Option<&str>) -> String {
    carrier.map_or(path.to_owned(), |carrier| format!("{path} over {carrier}"))
}

/// The table on a terminal, and the line that sums it up.
pub(crate) fn print(results: &[(Cell, Outcome)]) {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(HEAD);
    rows(results).for_each(|row| {
        table.add_row(row);
    });
    println!("{table}\n{}", summary(results));
}

fn summary(results: &[(Cell, Outcome)]) -> String {
    let bad = results.iter().filter(|(cell, outcome)| !outcome.is_good(cell)).count();
    let mut direct: Vec<f64> = results
        .iter()
        .filter_map(|(_, outcome)| match outcome {
            Outcome::Found(found) if found.path.is_direct() => Some(found.final_path_ms),
            _ => None,
        })
        .collect();
    direct.sort_by(f64::total_cmp);
    let at = |share: usize| direct.get((direct.len() * share / 100).min(direct.len().saturating_sub(1)));
    let times = match (at(50), at(100)) {
        (Some(half), Some(most)) => format!("; direct after {half:.0} ms (p50), {most:.0} ms at most"),
        _ => String::new(),
    };
    format!("{} cells: {} as predicted, {bad} not{times}", results.len(), results.len() - bad)
}

/// Writes everything as JSON.
pub(crate) fn write_json(results: &[(Cell, Outcome)], path: &Path) -> Result<()> {
    let lines: Vec<_> = results
        .iter()
        .map(|(cell, outcome)| Line { cell, outcome, as_predicted: outcome.is_good(cell) })
        .collect();
    let text = serde_json::to_string_pretty(&lines)?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// Puts the table into a page, between its two marks.
pub(crate) fn write_page(results: &[(Cell, Outcome)], path: &Path) -> Result<()> {
    let page = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let page =
        replace(&page, results).with_context(|| format!("{}: no lines {BEGIN} and {END}", path.display()))?;
    std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))
}

fn replace(page: &str, results: &[(Cell, Outcome)]) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    let mut text = format!("{before}{BEGIN}\n{}\n\n", summary(results));
    let mut line = |cells: &[String]| writeln!(text, "| {} |", cells.join(" | ")).ok();
    line(&HEAD.map(str::to_owned));
    line(&HEAD.map(|_| "---".to_owned()));
    rows(results).for_each(|row| {
        line(&row);
    });
    Some(text + END + after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_last_one() {
        let cell = crate::cells::all().remove(0);
        let results = [(cell, Outcome::Failed("no relay".into()))];
        let page = format!("# Title\n{BEGIN}\nold\n{END}\nrest\n");
        let page = replace(&page, &results).unwrap();
        assert!(page.starts_with("# Title\n") && page.ends_with(&format!("{END}\nrest\n")), "{page}");
        assert!(page.contains("| eim-eif-kept / eim-eif-kept | punched | no relay |  |  | NO |"), "{page}");
        assert!(page.contains("0 as predicted, 1 not") && !page.contains("old"), "{page}");
        assert_eq!(replace(&page, &results).unwrap(), page);
        assert_eq!(replace("no marks", &results), None);
    }
}
