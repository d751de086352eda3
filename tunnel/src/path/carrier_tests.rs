//! Carriers beside UDP: when traffic leaves UDP, and when it comes back.

use super::tests::{FLOWS, IDLE, World, direct, ms};
use super::*;
use crate::status::DirectKind;

const UDP: Kind = Kind::Direct(DirectKind::Public);
const TCP: Kind = Kind::Direct(DirectKind::Tcp);

fn carried(flow: Flow) -> (World, RouteKey, RouteKey) {
    let (udp, tcp) = (direct(1), direct(2));
    let mut world = World::new(flow);
    world.paths.expect_back_soon();
    world.paths.add(world.now, udp, UDP, Origin::Configured);
    world.paths.add(world.now, tcp, TCP, Origin::Told);
    (world, udp, tcp)
}

#[test]
fn udp_that_comes_back_takes_over_once_it_answered_a_few_times() {
    for flow in [FLOWS, IDLE] {
        let (mut world, udp, tcp) = carried(flow);
        world.answer(tcp, Some(ms(20)));
        world.run(ms(2000));
        assert_eq!(world.active(), Some(tcp));
        assert!(!world.paths.works_by_udp(world.now));
        world.answer(udp, Some(ms(20)));
        world.run(ms(3000));
        assert_eq!(world.active(), Some(udp), "{flow:?}");
        assert!(world.paths.works_by_udp(world.now));
        // It goes again, and comes again.
        world.answer(udp, None);
        world.flow = Flow { sending: true, unanswered: ms(1000), ..FLOWS };
        world.run(ms(1000));
        assert_eq!(world.active(), Some(tcp), "{flow:?}");
        world.flow = flow;
        world.answer(udp, Some(ms(20)));
        world.run(ms(3000));
        assert_eq!(world.active(), Some(udp), "{flow:?}");
        assert_eq!(world.used.len(), 4);
    }
}

#[test]
fn udp_is_seldom_tried_while_a_carrier_works() {
    let (mut world, _, tcp) = carried(IDLE);
    world.answer(tcp, Some(ms(20)));
    world.paths.set_demand(world.now, Demand::Keep);
    world.run(ms(120_000));
    let before = world.probes;
    world.run(ms(300_000));
    assert!((18..=26).contains(&(world.probes - before)), "{} probes", world.probes - before);
}

#[test]
fn udp_that_loses_much_is_left_until_it_loses_little() {
    let (mut world, udp, tcp) = carried(FLOWS);
    world.answer(udp, Some(ms(20)));
    world.run(ms(1000));
    assert_eq!(world.active(), Some(udp));
    world.answer(tcp, Some(ms(20)));
    world.paths.hurry(tcp);
    // Every second probe is lost, so the path never dies.
    for lossy in (0..40).map(|second| second % 2 == 0) {
        world.answer(udp, (!lossy).then_some(ms(20)));
        world.run(ms(1000));
    }
    assert_eq!(world.active(), Some(tcp));
    assert!(!world.paths.works_by_udp(world.now));
    world.answer(udp, Some(ms(20)));
    world.run(ms(20_000));
    assert_eq!(world.active(), Some(tcp), "not at the first good answers");
    world.run(ms(120_000));
    assert_eq!(world.active(), Some(udp));
}

#[test]
fn the_accepting_end_follows_onto_a_carrier_and_off_it() {
    let (udp, tcp) = (direct(1), direct(2));
    let mut world = World::new(IDLE);
    world.paths.set_demand(world.now, Demand::None);
    world.answer(udp, Some(ms(20)));
    world.paths.heard(world.now, udp, UDP, 1, true);
    world.run(ms(100));
    assert_eq!(world.active(), Some(udp));
    // UDP still looks alive from here.
    world.paths.heard(world.now, tcp, TCP, 1, true);
    assert_eq!(world.active(), Some(tcp));
    world.answer(tcp, Some(ms(20)));
    world.run(ms(100));
    assert_eq!(world.active(), Some(tcp), "it is not left for a path that the other end left");
    world.paths.heard(world.now, udp, UDP, 1, true);
    world.run(ms(100));
    assert_eq!(world.active(), Some(udp));
}
