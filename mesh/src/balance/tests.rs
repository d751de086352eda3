use edgeloom_model::ServiceKey;
use proptest::prelude::{any, prop_assert, proptest};
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn id(last: u8) -> EndpointId {
    EndpointId {
        node: Some(NodeName::new("b").unwrap()),
        address: SocketAddr::from(([10, 244, 1, last], 80)),
    }
}

fn all(count: u8) -> Vec<Candidate> {
    (1..=count).map(|last| Candidate { id: id(last), preferred: false, rtt: Some(Duration::ZERO) }).collect()
}

/// How many of 1,000 flows, one after the other, each of the candidates gets.
fn shares(balancer: &mut Balancer, rng: &mut StdRng, candidates: impl Fn() -> Vec<Candidate>) -> Vec<usize> {
    let now = Instant::now();
    let ids: Vec<_> = candidates().into_iter().map(|candidate| candidate.id).collect();
    let mut shares = vec![0; ids.len()];
    for _ in 0..1000 {
        let first = balancer.order(candidates(), None, now, rng).remove(0);
        balancer.opened(&first, now);
        balancer.connected(&first);
        balancer.closed(&first);
        shares[ids.iter().position(|id| *id == first).unwrap()] += 1;
    }
    shares
}

fn rng() -> StdRng {
    StdRng::seed_from_u64(7)
}

proptest! {
    /// Whatever was measured: nodes whose round trip times differ by noise share the flows, within a fifth of
    /// what is fair.
    #[test]
    fn equals_share_the_flows(
        count in 1..=4u8,
        way in 0..300u64,
        seed in any::<u64>(),
        opened in proptest::collection::vec(0..8u32, 4),
    ) {
        let mut balancer = Balancer::default();
        for (last, opened) in (1..=count).zip(opened) {
            (0..opened).for_each(|_| balancer.opened(&id(last), Instant::now()));
        }
        let noise = std::cell::RefCell::new(StdRng::seed_from_u64(seed));
        let noisy = || {
            let rtt = || Duration::from_millis(way) + Duration::from_micros(noise.borrow_mut().random_range(0..5000));
            all(count).into_iter().map(|c| Candidate { rtt: Some(rtt()), ..c }).collect()
        };
        let shares = shares(&mut balancer, &mut StdRng::seed_from_u64(seed), noisy);
        let fair = 1000 / usize::from(count);
        prop_assert!(shares.iter().all(|share| share.abs_diff(fair) <= fair / 5), "{shares:?}");
    }
}

#[test]
fn a_farther_node_takes_flows_only_when_the_nearer_fails() {
    let (mut balancer, now) = (Balancer::default(), Instant::now());
    for (near, far, equal) in [(1, 5, true), (1, 7, false), (100, 124, true), (100, 126, false)] {
        let mut candidates = all(2);
        candidates[0].rtt = Some(Duration::from_millis(far));
        candidates[1].rtt = Some(Duration::from_millis(near));
        let shares = shares(&mut balancer, &mut rng(), || candidates.clone());
        assert_eq!(shares[0] > 0, equal, "{near} and {far} ms: {shares:?}");
        if !equal {
            balancer.failed(&id(2), now);
            assert_eq!(balancer.order(candidates, None, now, &mut rng()), [id(1), id(2)]);
            balancer.connected(&id(2));
        }
    }
}

#[test]
fn one_flow_at_a_time_finds_out_how_far_a_node_is() {
    let (mut balancer, now) = (Balancer::default(), Instant::now());
    let mut candidates = all(2);
    candidates[1].rtt = None;
    let shares = shares(&mut balancer, &mut rng(), || candidates.clone());
    assert!(shares[1] > 0, "{shares:?}");
    balancer.opened(&id(2), now);
    for _ in 0..100 {
        assert_eq!(balancer.order(candidates.clone(), None, now, &mut rng())[0], id(1));
    }
    balancer.failed(&id(1), now);
    assert_eq!(
        balancer.order(candidates, None, now, &mut rng())[0],
        id(2),
        "it is used where no other is left"
    );
}

#[test]
fn where_flows_pile_up_fewer_go_and_some_still_do() {
    let (mut balancer, now) = (Balancer::default(), Instant::now());
    for _ in 0..40 {
        balancer.opened(&id(1), now);
    }
    let shares = shares(&mut balancer, &mut rng(), || all(2));
    assert!((150..350).contains(&shares[0]), "a quarter: {shares:?}");
}

#[test]
fn what_fails_is_set_aside_longer_each_time_and_comes_back() {
    let (mut balancer, start) = (Balancer::default(), Instant::now());
    let mut rng = rng();
    let mut now = start;
    for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
        balancer.failed(&id(1), now);
        assert!(balancer.is_aside(&id(1), now + Duration::from_millis(pause * 1000 - 1)));
        assert_eq!(balancer.order(all(2), None, now, &mut rng)[0], id(2));
        now += Duration::from_secs(pause);
        assert!(!balancer.is_aside(&id(1), now));
    }
    balancer.connected(&id(1));
    balancer.failed(&id(1), now);
    assert!(!balancer.is_aside(&id(1), now + FIRST_PAUSE), "success forgives");
}

#[test]
fn what_is_set_aside_is_the_last_resort() {
    let (mut balancer, now) = (Balancer::default(), Instant::now());
    let mut rng = rng();
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
    let mut rng = rng();
    let mut candidates = all(4);
    candidates[3].preferred = true;
    for _ in 0..20 {
        assert_eq!(balancer.order(candidates.clone(), None, now, &mut rng)[0], id(4));
    }
    balancer.failed(&id(4), now);
    assert_eq!(balancer.order(candidates, None, now, &mut rng)[3], id(4));
}

const LIFE: Duration = Duration::from_secs(10);

fn client() -> Client {
    Client { ip: [10, 244, 1, 9].into(), service: ServiceKey::new("shop", "orders"), port: 80 }
}

/// What the next flows of the client are given first.
fn next(balancer: &mut Balancer, now: Instant) -> Vec<EndpointId> {
    let mut rng = rng();
    (0..20).map(|_| balancer.order(all(4), Some((&client(), LIFE)), now, &mut rng).remove(0)).collect()
}

#[test]
fn a_client_keeps_what_its_first_flow_was_given() {
    let (mut balancer, now) = (Balancer::default(), Instant::now());
    let first = next(&mut balancer, now);
    assert!(first.iter().all(|id| *id == first[0]), "{first:?}");
    let later = next(&mut balancer, now + LIFE - Duration::from_millis(1));
    assert_eq!(later, first, "and each flow makes it longer");
    let times = (1..20).map(|turn| next(&mut balancer, now + 2 * LIFE * turn).remove(0));
    assert!(times.collect::<Vec<_>>().iter().any(|id| *id != first[0]), "out of time");
}

#[test]
fn when_the_endpoint_of_a_client_fails_all_its_flows_go_to_the_same_other() {
    let (mut balancer, now) = (Balancer::default(), Instant::now());
    let bound = next(&mut balancer, now).remove(0);
    balancer.failed(&bound, now);
    let other = next(&mut balancer, now);
    assert!(other.iter().all(|id| *id == other[0] && *id != bound), "{other:?}");
    let after = next(&mut balancer, now + FIRST_PAUSE);
    assert_eq!(after, other, "and stay there");
}

#[test]
fn the_end_of_a_flow_makes_the_time_longer_but_takes_no_place_back() {
    let (mut balancer, now) = (Balancer::default(), Instant::now());
    let bound = next(&mut balancer, now).remove(0);
    balancer.touch(&client(), &bound, LIFE, now + LIFE);
    assert_eq!(next(&mut balancer, now + LIFE)[0], bound);
    balancer.failed(&bound, now + LIFE);
    let other = next(&mut balancer, now + LIFE).remove(0);
    balancer.touch(&client(), &bound, LIFE, now + LIFE + FIRST_PAUSE);
    assert_eq!(next(&mut balancer, now + LIFE + FIRST_PAUSE)[0], other);
}

#[test]
fn failures_long_ago_are_forgotten() {
    let (mut balancer, now) = (Balancer::default(), Instant::now());
    for _ in 0..10 {
        balancer.failed(&id(1), now);
    }
    let later = now + 2 * LONGEST_PAUSE;
    balancer.failed(&id(1), later);
    assert!(!balancer.is_aside(&id(1), later + FIRST_PAUSE));
}

#[test]
fn of_too_many_endpoints_those_go_that_waited_longest() {
    let (mut balancer, now) = (Balancer::default(), Instant::now());
    let id = |number: usize| EndpointId {
        node: None,
        address: ([0, 0, 0, 0], u16::try_from(number).unwrap()).into(),
    };
    for number in 0..=MAX_RECORDS {
        let candidate = Candidate { id: id(number), preferred: false, rtt: Some(Duration::ZERO) };
        balancer.order(vec![candidate], None, now, &mut rng());
        if number == 0 {
            balancer.opened(&id(0), now);
        }
    }
    assert!(balancer.records.len() < MAX_RECORDS, "{}", balancer.records.len());
    assert_eq!(
        [0, 1, MAX_RECORDS].map(|number| balancer.records.contains_key(&id(number))),
        [true, false, true]
    );
}
