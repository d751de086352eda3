use super::*;

const MIB: u64 = 1 << 20;

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([192, 168, 50, host], 20006))
}

fn at(host: u8, bytes: u64) -> Option<LanPeer> {
    Some(LanPeer { address: address(host), bytes })
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A peer on the LAN to which flows go, measured with this result.
fn measured(start: Instant, quic: f64, tcp: f64) -> Choice {
    let mut choice = Choice::default();
    choice.flow(start, at(2, 0));
    assert_eq!(choice.look(start, at(2, WORTH), 0), Step::Measure);
    choice.measured(start, address(2), quic, tcp);
    choice
}

#[test]
fn it_is_measured_when_enough_was_carried_and_not_again_at_once() {
    let start = Instant::now();
    let mut choice = Choice::default();
    // What passed before the peer was on the LAN does not count.
    for (second, lan, want) in [
        (0, None, Step::Close),
        (1, at(2, 500 * MIB), Step::Close),
        (2, at(2, 531 * MIB), Step::Close),
        (3, at(2, 532 * MIB), Step::Measure),
        (4, at(2, 600 * MIB), Step::Close),
    ] {
        choice.flow(start + seconds(second), None);
        assert_eq!(choice.look(start + seconds(second), lan, 0), want, "after {second} s");
    }
    choice.failed(start + seconds(5));
    let again = start + seconds(5) + RETRY;
    choice.flow(again, None);
    assert_eq!(choice.look(again - seconds(1), at(2, 900 * MIB), 0), Step::Close, "it failed a moment ago");
    assert_eq!(choice.look(again, at(2, 900 * MIB), 0), Step::Measure);
    choice.measured(again, address(2), 100.0, 100.0);
    choice.flow(again + seconds(3600), None);
    assert_eq!(choice.look(again + seconds(3600), at(2, 9000 * MIB), 0), Step::Close, "it holds");
    choice.flow(again + HOLDS, None);
    assert_eq!(choice.look(again + HOLDS, at(2, 9000 * MIB), 0), Step::Measure);
}

#[test]
fn the_first_flow_counts_from_its_first_byte() {
    let start = Instant::now();
    let mut choice = Choice::default();
    choice.flow(start, at(2, 100 * MIB));
    // It was over before the peer was looked at.
    assert_eq!(choice.look(start + seconds(1), at(2, 140 * MIB), 0), Step::Measure);
}

#[test]
fn tcp_is_taken_where_it_is_clearly_faster() {
    let start = Instant::now();
    for (quic, tcp, want) in [
        (100.0, 90.0, false),
        (100.0, 119.0, false),
        (100.0, 120.0, true),
        (100.0, 400.0, true),
        (0.0, 0.0, true),
    ] {
        let choice = measured(start, quic, tcp);
        // Nothing at all carried by either says nothing, and is harmless.
        assert_eq!(choice.goes_to(start).is_some(), want, "{tcp} to {quic}");
    }
    // Near the border it stays with what it is.
    let mut choice = measured(start, 100.0, 150.0);
    choice.measured(start, address(2), 100.0, 110.0);
    assert_eq!(choice.goes_to(start), Some(address(2)));
    choice.measured(start, address(2), 100.0, 104.0);
    assert_eq!(choice.goes_to(start), None);
}

#[test]
fn a_peer_that_moved_is_another_matter() {
    let start = Instant::now();
    let mut choice = measured(start, 1.0, 2.0);
    assert_eq!(choice.look(start, at(2, WORTH), 0), Step::Dial(LEAST_READY));
    assert_eq!(choice.look(start, None, 2), Step::Close, "the path left the LAN");
    assert_eq!((choice.goes_to(start), choice.verdict()), (None, None));
    assert_eq!(choice.look(start, at(2, WORTH), 0), Step::Close, "and came back: nothing of before is good");
    assert_eq!(choice.goes_to(start), Some(address(2)), "but what was measured there");
    assert_eq!(choice.look(start, at(3, WORTH), 0), Step::Close);
    assert_eq!(choice.goes_to(start), None);
    assert_eq!(choice.look(start, at(3, 2 * WORTH), 0), Step::Measure);
    // What was measured of the address that it left says nothing of this one.
    choice.measured(start, address(2), 1.0, 2.0);
    assert_eq!(choice.goes_to(start), None);
}

#[test]
fn more_is_kept_ready_where_it_was_missed_and_nothing_where_no_flows_go() {
    let start = Instant::now();
    let mut choice = measured(start, 1.0, 2.0);
    let mut now = start;
    assert_eq!(choice.look(now, at(2, WORTH), 0), Step::Dial(2));
    assert_eq!(choice.look(now, at(2, WORTH), 2), Step::Nothing);
    for want in [4, 8, 8] {
        now += seconds(9);
        choice.flow(now, None);
        choice.missed(now);
        assert_eq!(choice.look(now, at(2, WORTH), 0), Step::Dial(want));
    }
    for want in [7, 6, 5, 4, 3, 2, 2, 2] {
        now += PLENTY;
        choice.flow(now, None);
        assert_eq!(choice.look(now, at(2, WORTH), 0), Step::Dial(want));
    }
    let idle = now + IDLE;
    assert_eq!(choice.look(idle, at(2, WORTH), 2), Step::Close);
    assert!(!choice.is_stale(idle) && choice.is_stale(now + HOLDS));
}

#[test]
fn handshakes_are_not_made_faster_than_a_small_host_bears() {
    let start = Instant::now();
    let mut choice = measured(start, 1.0, 2.0);
    (0..3).for_each(|_| choice.missed(start));
    let mut begun = 0;
    // A flow takes each connection as soon as it is there, for ten seconds.
    for step in 0..1000 {
        let now = start + Duration::from_millis(10) * step;
        choice.flow(now, None);
        choice.missed(now);
        if let Step::Dial(count) = choice.look(now, at(2, WORTH), 0) {
            begun += count;
        }
    }
    assert_eq!(begun, 8 + 49);
}

#[test]
fn after_a_dead_connection_quic_carries_for_a_while() {
    let start = Instant::now();
    let mut choice = measured(start, 1.0, 2.0);
    let mut now = start;
    for want in [10, 20, 40, 80, 160, 320, 600, 600] {
        // All that were ready, one after the other.
        (0..3).for_each(|_| choice.dead(now));
        assert_eq!(choice.goes_to(now + seconds(want - 1)), None);
        now += seconds(want);
        assert_eq!(choice.goes_to(now), Some(address(2)), "after {want} s");
    }
    choice.proved();
    choice.dead(now);
    assert_eq!(choice.goes_to(now + REST), Some(address(2)));
}
