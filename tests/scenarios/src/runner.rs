//! Runs promises and prints how each of them fared.

use std::time::Instant;

use crate::mechanism::Mechanism;
use crate::promise::{Need, Promise};
use crate::world::World;

/// How a promise fared.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// All results of a run.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<(String, String, Outcome)>,
}

impl Report {
    /// Takes in a check that was run before: `NAME=passed`, `NAME=failed` or `NAME=skipped: REASON`.
    pub(crate) fn add_check(&mut self, line: &str) {
        let (name, result) = line.split_once('=').unwrap_or((line, "failed"));
        let outcome = match result.split_once(':') {
            None if result == "passed" => Outcome::Passed,
            Some(("skipped", reason)) => Outcome::Skipped(reason.trim().to_owned()),
            _ => Outcome::Failed("its output is above".into()),
        };
        self.lines.push((name.to_owned(), String::new(), outcome));
    }

    /// Something that went wrong beside the promises.
    pub(crate) fn add_failure(&mut self, name: &str, error: &anyhow::Error) {
        self.add(name, "", Outcome::Failed(format!("{error:#}")));
    }

    fn add(&mut self, name: &str, sentence: &str, outcome: Outcome) {
        self.lines.push((name.to_owned(), sentence.to_owned(), outcome));
    }

    fn count(&self, which: fn(&Outcome) -> bool) -> usize {
        self.lines.iter().filter(|(_, _, outcome)| which(outcome)).count()
    }

    /// Whether nothing failed.
    pub(crate) fn is_good(&self) -> bool {
        self.count(|outcome| matches!(outcome, Outcome::Failed(_))) == 0
    }

    /// The list, and the line of figures that ends it.
    pub(crate) fn print(&self) {
        println!("\nPromises:");
        for (name, sentence, outcome) in &self.lines {
            let (word, why) = match outcome {
                Outcome::Passed => ("passed ", None),
                Outcome::Failed(why) => ("FAILED ", Some(why)),
                Outcome::Skipped(why) => ("skipped", Some(why)),
            };
            println!("  {word}  {name:<26} {sentence}");
            if let Some(why) = why {
                println!("{:38}{}", "", why.replace('\n', &format!("\n{:38}", "")));
            }
        }
        println!(
            "\n{} passed, {} failed, {} skipped",
            self.count(|outcome| matches!(outcome, Outcome::Passed)),
            self.count(|outcome| matches!(outcome, Outcome::Failed(_))),
            self.count(|outcome| matches!(outcome, Outcome::Skipped(_))),
        );
    }
}

/// Runs each promise once.
pub(crate) fn run(promises: &[Promise], world: &mut World, report: &mut Report) {
    for promise in promises {
        let outcome = match missing(promise) {
            Some(reason) => Outcome::Skipped(reason),
            None => timed(promise, world),
        };
        report.add(promise.name, promise.sentence, outcome);
    }
}

/// Breaks each mechanism once; every promise that rests on it must fail meanwhile.
pub(crate) fn sabotage(promises: &[Promise], world: &mut World, report: &mut Report) {
    for mechanism in Mechanism::ALL {
        let resting: Vec<_> = promises.iter().filter(|p| p.rests_on.contains(mechanism)).collect();
        if resting.is_empty() {
            continue;
        }
        println!("\nsabotage: {}", mechanism.sentence());
        world.sabotage(Some(*mechanism));
        for promise in resting {
            let name = format!("{}: {}", mechanism.name(), promise.name);
            let outcome = match missing(promise) {
                Some(reason) => Outcome::Skipped(reason),
                None => red(tried(promise, world), mechanism.sentence()),
            };
            report.add(&name, "fails without what it rests on", outcome);
        }
        world.sabotage(None);
    }
}

fn missing(promise: &Promise) -> Option<String> {
    promise.needs.iter().copied().find_map(Need::missing)
}

/// Where a run of a promise ended.
enum End {
    /// The scenario itself succeeded, and all was mended.
    Passed,
    /// The scenario itself failed, in a world that was ready.
    Failed(String),
    /// The world was not ready, or could not be mended: it says nothing about the promise.
    World(String),
}

/// How a sabotaged run fared: only a failure of the scenario itself shows that it sees what is broken.
fn red(end: End, broken: &str) -> Outcome {
    match end {
        End::Failed(_) => Outcome::Passed,
        End::Passed => Outcome::Failed(format!("passed although {broken}")),
        End::World(why) => Outcome::Failed(format!("not tried: {why}")),
    }
}

fn timed(promise: &Promise, world: &mut World) -> Outcome {
    match tried(promise, world) {
        End::Passed => Outcome::Passed,
        End::Failed(why) | End::World(why) => Outcome::Failed(why),
    }
}

fn tried(promise: &Promise, world: &mut World) -> End {
    println!("\n{}: {}", promise.name, promise.sentence);
    let started = Instant::now();
    let ready = if promise.needs.contains(&Need::System) { world.ready() } else { Ok(()) };
    let result = ready.map(|()| (promise.scenario)(world));
    let undone = world.undo();
    let seconds = started.elapsed().as_secs_f32();
    let (error, end): (_, fn(String) -> End) = match (result, undone) {
        (Ok(Ok(())), Ok(())) => {
            println!("  passed in {seconds:.1} s");
            return End::Passed;
        }
        (Ok(Err(error)), Ok(())) => (error, End::Failed),
        (Err(error), _) | (Ok(Ok(())), Err(error)) => (error, End::World),
        (Ok(Err(error)), Err(undone)) => (error.context(format!("{undone:#}; before that")), End::World),
    };
    println!("  FAILED after {seconds:.1} s: {error:#}");
    end(format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_scenario_s_own_failure_is_red() {
        for (end, good) in [
            (End::Failed("no answer".into()), true),
            (End::Passed, false),
            (End::World("the lab did not come up".into()), false),
        ] {
            assert_eq!(matches!(red(end, "it is broken"), Outcome::Passed), good);
        }
    }
}
