//! The rows, one after the other, each way in turn and over again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::nebula;
use crate::rows::{Place, Round, Row, Way};
use crate::system::System;
use crate::tunnels;

/// What a row gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) row: Row,
    pub(crate) rounds: Vec<Round>,
    /// Round trip time, as a TCP handshake takes it.
    pub(crate) trip: Duration,
}

/// How the rows are run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner<'a> {
    pub(crate) repository: &'a Path,
    /// Name of the lab.
    pub(crate) lab: &'a str,
    /// One short round each, to see that all works.
    pub(crate) quick: bool,
    /// Leave the last lab up.
    pub(crate) keep: bool,
}

/// Runs rows, place by place: each has a lab of its own. What one row does not bring to an end is said and left out.
pub(crate) fn run(manner: Manner<'_>, rows: Vec<Row>) -> Result<Vec<Outcome>> {
    if nebula::version().is_none() {
        eprintln!("nebula is not installed (apt-get install nebula): its columns stay empty");
    }
    let mut places: BTreeMap<Place, Vec<Row>> = BTreeMap::new();
    for row in rows {
        places.entry(row.place).or_default().push(row);
    }
    let last = places.keys().next_back().copied();
    let mut outcomes = Vec::new();
    for (place, rows) in places {
        if place == Place::Loopback {
            outcomes.extend(rows.into_iter().filter_map(|row| alone(row, manner.quick)));
            continue;
        }
        let mut system = System::up(manner.repository, manner.lab, place)?;
        for row in rows {
            let name = row.name.clone();
            match measure(&mut system, row, manner.quick) {
                Ok(outcome) => outcomes.push(outcome),
                Err(error) => eprintln!("{name}: {error:#}"),
            }
        }
        if !manner.keep || Some(place) != last {
            system.remove()?;
        }
    }
    Ok(outcomes)
}

/// What needs no lab.
fn alone(row: Row, quick: bool) -> Option<Outcome> {
    let load = if quick { row.load.quick() } else { row.load };
    eprintln!("{} ({})", row.name, row.under);
    match tunnels::measure(load) {
        Ok(sample) => {
            eprintln!("  {}", sample.shown(load));
            let rounds = vec![Round::from([(Way::Tunnel, sample)])];
            Some(Outcome { row, rounds, trip: Duration::ZERO })
        }
        Err(error) => {
            eprintln!("{}: {error:#}", row.name);
            None
        }
    }
}

fn measure(system: &mut System, row: Row, quick: bool) -> Result<Outcome> {
    let begun = Instant::now();
    if row.place == Place::Wan {
        system.set_wan(row.wan.parse()?)?;
    }
    if row.services > 0 {
        system.add_services(row.services).context("many Services")?;
    }
    let trip = system.round_trip().context("the round trip time")?;
    eprintln!("{} ({}; RTT {:.2} ms)", row.name, row.under, trip.as_secs_f64() * 1e3);
    let (load, rounds) = if quick { (row.load.quick(), 1) } else { (row.load, row.rounds) };
    let ways = || row.ways.iter().filter(|way| **way != Way::Nebula || nebula::version().is_some());
    let mut taken = Vec::with_capacity(rounds);
    for number in 1..=rounds {
        let mut round = Round::new();
        for way in ways() {
            match system.carry(*way).and_then(|()| system.measure(*way, load)) {
                Ok(sample) => {
                    eprintln!("  {number}/{rounds} {:<14} {}", way.name(), sample.shown(load));
                    round.insert(*way, sample);
                }
                Err(error) => eprintln!("  {number}/{rounds} {:<14} {error:#}", way.name()),
            }
        }
        taken.push(round);
    }
    eprintln!("  {} s", begun.elapsed().as_secs());
    Ok(Outcome { row, rounds: taken, trip })
}
