//! Which endpoint of several a flow goes to, and which are passed over for now. Pure: `now` and chance
//! come in from outside.
//!
//! Of two endpoints drawn at random the less loaded one takes the flow: load is the open flows times the
//! measured time to connect. An endpoint that refused or did not answer is set aside, twice as long each
//! time it fails again, then tried by one flow; it is used all the same where no other is left.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use edgeloom_model::{NodeName, ServiceKey};
use rand::Rng;

/// How long an endpoint is set aside after its first failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest that an endpoint is set aside.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Endpoints whose loads differ by less than this factor share flows in turn: one connect's time is noise.
const EVEN: f64 = 1.3;
/// Weight of a new sample in the smoothed time to connect.
const SAMPLE_WEIGHT: f64 = 0.25;
/// Endpoints that are remembered; those that were not used for longest are forgotten first.
const MAX_RECORDS: usize = 16_384;
/// Clients that keep their endpoint by session affinity; as above.
const MAX_CLIENTS: usize = 65_536;

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
}

/// A client of a Service port with session affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// Its address.
    pub ip: IpAddr,
    /// The Service.
    pub service: ServiceKey,
    /// The Service's port.
    pub port: u16,
}

#[derive(Debug, Default)]
struct Record {
    open: u32,
    failures: u32,
    aside_until: Option<Instant>,
    connect_ms: Option<f64>,
    /// Count of choices at the last one of this endpoint.
    chosen: u64,
    /// When a flow was last given to it.
    used: Option<Instant>,
}

/// What is remembered of endpoints and clients.
#[derive(Debug, Default)]
pub struct Balancer {
    records: HashMap<EndpointId, Record>,
    clients: HashMap<Client, (EndpointId, Instant)>,
    choices: u64,
}

impl Balancer {
    /// The candidates in the order in which they should be tried. The first counts as chosen.
    pub fn order(
        &mut self,
        mut candidates: Vec<Candidate>,
        client: Option<(&Client, Duration)>,
        now: Instant,
        chance: &mut impl Rng,
    ) -> Vec<EndpointId> {
        self.choices += 1;
        let kept = client.and_then(|(client, life)| self.kept(client, life, now));
        candidates.sort_by(|a, b| {
            let group = |c: &Candidate| (self.is_aside(&c.id, now), !c.preferred);
            let cost = |c: &Candidate| self.cost(&c.id);
            group(a)
                .cmp(&group(b))
                .then(cost(a).total_cmp(&cost(b)))
                .then(self.turn(&a.id).cmp(&self.turn(&b.id)))
        });
        self.draw(&mut candidates, now, chance);
        if let Some(at) = kept.and_then(|kept| candidates.iter().position(|c| c.id == kept))
            && !self.is_aside(&candidates[at].id, now)
        {
            candidates[..=at].rotate_right(1);
        }
        let order: Vec<_> = candidates.into_iter().map(|candidate| candidate.id).collect();
        if let Some(first) = order.first() {
            let choices = self.choices;
            self.record(first).chosen = choices;
        }
        order
    }

    /// Puts the better of two that are drawn at random from the first group to the front.
    fn draw(&self, candidates: &mut [Candidate], now: Instant, chance: &mut impl Rng) {
        let Some(first) = candidates.first() else { return };
        let group = |c: &Candidate| (self.is_aside(&c.id, now), c.preferred);
        let best = group(first);
        let size = candidates.iter().take_while(|c| group(c) == best).count();
        if size < 2 {
            return;
        }
        let a = chance.random_range(0..size);
        let b = (a + chance.random_range(1..size)) % size;
        let winner = if self.is_better(&candidates[a].id, &candidates[b].id) { a } else { b };
        candidates[..=winner].rotate_right(1);
    }

    fn is_better(&self, a: &EndpointId, b: &EndpointId) -> bool {
        let (cost_a, cost_b) = (self.cost(a), self.cost(b));
        if cost_a * EVEN < cost_b {
            true
        } else if cost_b * EVEN < cost_a {
            false
        } else {
            self.turn(a) < self.turn(b)
        }
    }

    /// Load of an endpoint: one that was never tried has none, so that it is.
    fn cost(&self, id: &EndpointId) -> f64 {
        let Some(record) = self.records.get(id) else { return 0.0 };
        record.connect_ms.unwrap_or(0.0) * f64::from(record.open + 1)
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

    /// The endpoint answered a connect after `took`.
    pub fn connected(&mut self, id: &EndpointId, took: Duration) {
        let record = self.record(id);
        let sample = took.as_secs_f64() * 1000.0;
        let old = record.connect_ms.unwrap_or(sample);
        record.connect_ms = Some(old + (sample - old) * SAMPLE_WEIGHT);
        record.failures = 0;
        record.aside_until = None;
    }

    /// The endpoint refused, or did not answer: it is set aside.
    pub fn failed(&mut self, id: &EndpointId, now: Instant) {
        let record = self.record(id);
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

    /// Binds a client to the endpoint that took its flow.
    pub fn keep(&mut self, client: Client, id: EndpointId, now: Instant) {
        if self.clients.len() >= MAX_CLIENTS
            && let Some(oldest) =
                self.clients.iter().min_by_key(|(_, (_, used))| *used).map(|(c, _)| c.clone())
        {
            self.clients.remove(&oldest);
        }
        self.clients.insert(client, (id, now));
    }

    fn kept(&self, client: &Client, life: Duration, now: Instant) -> Option<EndpointId> {
        let (id, used) = self.clients.get(client)?;
        (now.saturating_duration_since(*used) < life).then(|| id.clone())
    }

    fn record(&mut self, id: &EndpointId) -> &mut Record {
        if self.records.len() >= MAX_RECORDS && !self.records.contains_key(id) {
            let idle = self.records.iter().filter(|(_, record)| record.open == 0);
            if let Some(oldest) = idle.min_by_key(|(_, record)| record.chosen).map(|(id, _)| id.clone()) {
                self.records.remove(&oldest);
            }
        }
        self.records.entry(id.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn id(last: u8) -> EndpointId {
        EndpointId {
            node: Some(NodeName::new("b").unwrap()),
            address: SocketAddr::from(([10, 244, 1, last], 80)),
        }
    }

    fn all(count: u8) -> Vec<Candidate> {
        (1..=count).map(|last| Candidate { id: id(last), preferred: false }).collect()
    }

    fn counts(balancer: &mut Balancer, count: u8, now: Instant) -> Vec<usize> {
        let mut rng = StdRng::seed_from_u64(7);
        let mut counts = vec![0; usize::from(count)];
        for _ in 0..1000 {
            let first = balancer.order(all(count), None, now, &mut rng).remove(0);
            balancer.opened(&first, now);
            balancer.connected(&first, Duration::from_millis(20));
            balancer.closed(&first);
            let at = (1..=count).position(|last| id(last) == first).unwrap();
            counts[at] += 1;
        }
        counts
    }

    #[test]
    fn equals_share_the_flows() {
        for count in [1, 2, 3, 8] {
            let fair = 1000 / usize::from(count);
            let counts = counts(&mut Balancer::default(), count, Instant::now());
            assert!(counts.iter().all(|c| c.abs_diff(fair) <= fair / 4), "{counts:?}");
        }
    }

    #[test]
    fn the_less_loaded_takes_more() {
        let (mut balancer, now) = (Balancer::default(), Instant::now());
        for _ in 0..10 {
            balancer.opened(&id(1), now);
            balancer.connected(&id(1), Duration::from_millis(20));
        }
        let counts = counts(&mut balancer, 2, now);
        assert!(counts[1] > 900, "{counts:?}");
    }

    #[test]
    fn what_fails_is_set_aside_longer_each_time_and_comes_back() {
        let (mut balancer, start) = (Balancer::default(), Instant::now());
        let mut rng = StdRng::seed_from_u64(7);
        let mut now = start;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            balancer.failed(&id(1), now);
            assert!(balancer.is_aside(&id(1), now + Duration::from_millis(pause * 1000 - 1)));
            assert_eq!(balancer.order(all(2), None, now, &mut rng)[0], id(2));
            now += Duration::from_secs(pause);
            assert!(!balancer.is_aside(&id(1), now));
        }
        balancer.connected(&id(1), Duration::from_millis(1));
        balancer.failed(&id(1), now);
        assert!(!balancer.is_aside(&id(1), now + FIRST_PAUSE), "success forgives");
    }

    #[test]
    fn what_is_set_aside_is_the_last_resort() {
        let (mut balancer, now) = (Balancer::default(), Instant::now());
        let mut rng = StdRng::seed_from_u64(7);
        for last in [1, 2] {
            balancer.failed(&id(last), now);
        }
        assert_eq!(balancer.aside(now), 2);
        assert_eq!(balancer.order(all(2), None, now, &mut rng).len(), 2);
        assert_eq!(balancer.order(all(3), None, now, &mut rng)[0], id(3));
        assert!(balancer.order(Vec::new(), None, now, &mut rng).is_empty());
    }

    #[test]
    fn the_own_site_comes_first() {
        let (mut balancer, now) = (Balancer::default(), Instant::now());
        let mut rng = StdRng::seed_from_u64(7);
        let mut candidates = all(4);
        candidates[3].preferred = true;
        for _ in 0..20 {
            assert_eq!(balancer.order(candidates.clone(), None, now, &mut rng)[0], id(4));
        }
        balancer.failed(&id(4), now);
        assert_eq!(balancer.order(candidates, None, now, &mut rng)[3], id(4));
    }

    #[test]
    fn a_client_keeps_its_endpoint_until_its_time_is_out_or_the_endpoint_fails() {
        let (mut balancer, now) = (Balancer::default(), Instant::now());
        let mut rng = StdRng::seed_from_u64(7);
        let client =
            Client { ip: [10, 244, 1, 9].into(), service: ServiceKey::new("shop", "orders"), port: 80 };
        let life = Duration::from_secs(10);
        balancer.keep(client.clone(), id(3), now);
        for _ in 0..20 {
            assert_eq!(balancer.order(all(4), Some((&client, life)), now, &mut rng)[0], id(3));
        }
        let first = |balancer: &mut Balancer, now, rng: &mut StdRng| {
            (0..20)
                .map(|_| balancer.order(all(4), Some((&client, life)), now, rng).remove(0))
                .collect::<Vec<_>>()
        };
        assert!(first(&mut balancer, now + life, &mut rng).iter().any(|got| *got != id(3)), "out of time");
        balancer.failed(&id(3), now);
        assert!(first(&mut balancer, now, &mut rng).iter().all(|got| *got != id(3)), "failed");
    }
}
