//! Which endpoint of several a flow goes to, and which are passed over for now. Pure: `now` and chance
//! come in from outside.
//!
//! The nearest take the flows: those of the own site before others, then those whose nodes are as good as
//! equally far by the paths' round trip times. Among these, of two drawn at random the one that has waited
//! longer takes the flow, whatever the connects took: equals share evenly. Only where one of the two has
//! piled up flows the other takes it. An endpoint that refused or did not answer is set aside, twice as long
//! each time it fails again, then tried again; it is used all the same where no other is left. A client of a
//! Service with session affinity keeps its endpoint from the first choice on.

mod clients;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use edgeloom_model::NodeName;
use rand::Rng;

use clients::Clients;

pub use clients::Client;

/// How long an endpoint is set aside after its first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest that an endpoint is set aside. A failure that is over for as long is forgotten.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Nodes are equally far whose round trip times differ by less than this from the nearest's: what waits in
/// queues on the way changes them by as much from one second to the next.
const NEAR: Duration = Duration::from_millis(5);
/// The same as a share of the nearest's round trip time, for long ways.
const NEAR_SHARE: f64 = 0.25;
/// An endpoint has piled up flows if it has so many times another's open flows, and so many more: a few that
/// stay open, such as watches, say nothing about how it fares.
const PILED_FACTOR: u32 = 2;
const PILED_MARGIN: u32 = 16;
/// Endpoints that are remembered; when there are more, the quarter that waited longest is forgotten.
const MAX_RECORDS: usize = 16_384;

/// An endpoint with the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointId {
    /// Node whose agent dials it; none if it is dialled from here.
    pub node: Option<NodeName>,
    /// Its address.
    pub address: SocketAddr,
}

/// An endpoint that may take a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The endpoint.
    pub id: EndpointId,
    /// Of the own site: such are tried first.
    pub preferred: bool,
    /// Round trip time to its node; none while no path to it is known to work.
    pub rtt: Option<Duration>,
}

#[derive(Debug, Default)]
struct Record {
    open: u32,
    failures: u32,
    aside_until: Option<Instant>,
    /// Count of choices at the last one of this endpoint.
    chosen: u64,
    /// When a flow was last given to it.
    used: Option<Instant>,
}

/// What is remembered of endpoints and clients.
#[derive(Debug, Default)]
pub struct Balancer {
    records: HashMap<EndpointId, Record>,
    clients: Clients,
    choices: u64,
}

impl Balancer {
    /// The candidates in the order in which they should be tried. The first counts as chosen, and becomes the
    /// one that a client with session affinity keeps for so long: its other flows, of this moment too, follow.
    pub fn order(
        &mut self,
        candidates: Vec<Candidate>,
        client: Option<(&Client, Duration)>,
        now: Instant,
        chance: &mut impl Rng,
    ) -> Vec<EndpointId> {
        let mut order = self.by_distance(candidates, now, chance);
        if let Some((client, life)) = client {
            let kept = self.clients.get(client, life, now).filter(|kept| !self.is_aside(kept, now));
            if let Some(at) = kept.and_then(|kept| order.iter().position(|id| id == kept)) {
                order[..=at].rotate_right(1);
            }
            if let Some(first) = order.first() {
                self.clients.bind(client, first, life, now);
            }
        }
        if let Some(first) = order.first() {
            self.choices += 1;
            let choices = self.choices;
            self.record(first).chosen = choices;
        }
        order
    }

    /// The candidates by preference, the winner of the draw among the best first.
    fn by_distance(
        &self,
        candidates: Vec<Candidate>,
        now: Instant,
        chance: &mut impl Rng,
    ) -> Vec<EndpointId> {
        let group = |c: &Candidate| (self.is_aside(&c.id, now), !c.preferred);
        let best = candidates.iter().map(group).min();
        let of_best = candidates.iter().filter(|c| Some(group(c)) == best);
        let nearest = of_best.filter_map(|c| c.rtt).min().unwrap_or_default();
        let mut ranked: Vec<_> = candidates
            .into_iter()
            .map(|c| ((group(&c), self.distance(&c, nearest)), self.turn(&c.id), c.id))
            .collect();
        ranked.sort_by_key(|(rank, turn, _)| (*rank, *turn));
        let equal = ranked.iter().take_while(|(rank, ..)| *rank == ranked[0].0).count();
        if equal > 1 {
            // With replacement: so that even what has piled up is drawn alone at times, and never starves.
            let (a, b) = (chance.random_range(0..equal), chance.random_range(0..equal));
            let winner = if self.is_better(&ranked[a].2, &ranked[b].2) { a } else { b };
            ranked[..=winner].rotate_right(1);
        }
        ranked.into_iter().map(|(.., id)| id).collect()
    }

    /// How far a candidate is: nothing for all that are as near as the nearest, since what differs there is
    /// noise. Where no path is known one flow at a time finds out.
    fn distance(&self, candidate: &Candidate, nearest: Duration) -> Duration {
        match candidate.rtt {
            Some(rtt) if rtt <= nearest + NEAR.max(nearest.mul_f64(NEAR_SHARE)) => Duration::ZERO,
            Some(rtt) => rtt,
            None if self.open(&candidate.id) == 0 => Duration::ZERO,
            None => Duration::MAX,
        }
    }

    fn is_better(&self, a: &EndpointId, b: &EndpointId) -> bool {
        let (open_a, open_b) = (self.open(a), self.open(b));
        let has_piled_up = |its: u32, others: u32| its > others * PILED_FACTOR + PILED_MARGIN;
        if has_piled_up(open_a, open_b) || has_piled_up(open_b, open_a) {
            open_a < open_b
        } else {
            self.turn(a) < self.turn(b)
        }
    }

    fn open(&self, id: &EndpointId) -> u32 {
        self.records.get(id).map_or(0, |record| record.open)
    }

    fn turn(&self, id: &EndpointId) -> u64 {
        self.records.get(id).map_or(0, |record| record.chosen)
    }

    /// A flow was given to the endpoint; [`Balancer::closed`] takes it back.
    pub fn opened(&mut self, id: &EndpointId, now: Instant) {
        let record = self.record(id);
        record.open += 1;
        record.used = Some(now);
    }

    /// When a flow was last given to an endpoint that a node dials, by node.
    pub fn used(&self) -> HashMap<NodeName, Instant> {
        let mut used: HashMap<NodeName, Instant> = HashMap::new();
        for (id, record) in &self.records {
            if let (Some(node), Some(at)) = (&id.node, record.used) {
                used.entry(node.clone()).and_modify(|last| *last = at.max(*last)).or_insert(at);
            }
        }
        used
    }

    /// The flow has ended.
    pub fn closed(&mut self, id: &EndpointId) {
        if let Some(record) = self.records.get_mut(id) {
            record.open = record.open.saturating_sub(1);
        }
    }

    /// The endpoint answered a connect.
    pub fn connected(&mut self, id: &EndpointId) {
        let record = self.record(id);
        record.failures = 0;
        record.aside_until = None;
    }

    /// The endpoint refused, or did not answer: it is set aside.
    pub fn failed(&mut self, id: &EndpointId, now: Instant) {
        let record = self.record(id);
        // UDP endpoints never say that they are well again: time does.
        if record.aside_until.is_some_and(|until| now >= until + LONGEST_PAUSE) {
            record.failures = 0;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << record.failures.min(10)).min(LONGEST_PAUSE);
        record.failures += 1;
        record.aside_until = Some(now + pause);
    }

    /// Whether the endpoint is passed over for now.
    pub fn is_aside(&self, id: &EndpointId, now: Instant) -> bool {
        self.records.get(id).and_then(|record| record.aside_until).is_some_and(|until| now < until)
    }

    /// How many endpoints are passed over for now.
    pub fn aside(&self, now: Instant) -> usize {
        let aside = |record: &&Record| record.aside_until.is_some_and(|until| now < until);
        self.records.values().filter(aside).count()
    }

    /// A client's flow has ended: it keeps the endpoint for so long from now on, unless another took its place.
    pub fn touch(&mut self, client: &Client, id: &EndpointId, life: Duration, now: Instant) {
        if self.clients.get(client, Duration::MAX, now).is_none_or(|kept| kept == id) {
            self.clients.bind(client, id, life, now);
        }
    }

    /// Forgets the clients whose time is out.
    pub fn expire(&mut self, now: Instant) {
        self.clients.expire(now);
    }

    fn record(&mut self, id: &EndpointId) -> &mut Record {
        if self.records.len() >= MAX_RECORDS && !self.records.contains_key(id) {
            self.forget();
        }
        self.records.entry(id.clone()).or_default()
    }

    /// Makes room for many more at once, so that not every new endpoint costs a look at all.
    fn forget(&mut self) {
        let idle = self.records.values().filter(|record| record.open == 0);
        let mut turns: Vec<u64> = idle.map(|record| record.chosen).collect();
        let quarter = (MAX_RECORDS / 4).min(turns.len().saturating_sub(1));
        if turns.is_empty() {
            return;
        }
        let (_, last, _) = turns.select_nth_unstable(quarter);
        let last = *last;
        self.records.retain(|_, record| record.open > 0 || record.chosen > last);
    }
}

#[cfg(test)]
mod tests;
