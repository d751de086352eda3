use edgeloom_model::Protocol;
use proptest::prelude::*;

use super::*;
use crate::maps::MemoryMaps;

fn frontend(addr: &str, port: u16) -> Frontend {
    Frontend { addr: addr.parse().unwrap(), port, protocol: Protocol::Tcp }
}

fn near(backends: &[&str]) -> Target {
    Target::Near { backends: backends.iter().map(|b| b.parse().unwrap()).collect(), affinity: None }
}

fn desired(services: &[(Frontend, Target)]) -> Desired {
    Desired { services: services.iter().cloned().collect(), ..Desired::default() }
}

/// What a client would find by the two look-ups of the kernel side.
fn seen(maps: &MemoryMaps, frontend: Frontend) -> Option<Vec<SocketAddr>> {
    let service = maps.services.get(&frontend.into())?;
    let find = |slot| {
        let key = abi::BackendKey { service: service.id, generation: service.generation, slot };
        SocketAddr::from(maps.backends[&key])
    };
    Some((0..service.count).map(find).collect())
}

fn apply(table: &mut Table, desired: &Desired, maps: &mut MemoryMaps) -> Applied {
    let (applied, retired) = table.apply(desired, maps);
    for frontend in desired.services.keys() {
        // Readable before the old generation is gone, and after.
        if applied.failed.is_empty() {
            assert!(seen(maps, *frontend).is_some());
        }
    }
    retired.delete(maps).unwrap();
    applied
}

#[test]
fn a_change_swaps_generations_and_leaves_nothing_behind() {
    let (mut table, mut maps) = (Table::default(), MemoryMaps::default());
    let orders = frontend("10.96.0.10", 80);
    apply(&mut table, &desired(&[(orders, near(&["10.244.1.2:8080", "10.244.1.3:8080"]))]), &mut maps);
    let first = maps.services[&orders.into()];
    let applied = apply(&mut table, &desired(&[(orders, near(&["10.244.1.3:8080"]))]), &mut maps);
    let second = maps.services[&orders.into()];
    assert_eq!(first.id, second.id);
    assert_ne!(first.generation, second.generation);
    assert_eq!(seen(&maps, orders), Some(vec!["10.244.1.3:8080".parse().unwrap()]));
    assert_eq!(maps.backends.len(), 1);
    assert_eq!(applied.gone, [("10.244.1.2:8080".parse().unwrap(), Protocol::Tcp)].into());
    let applied = apply(&mut table, &Desired::default(), &mut maps);
    assert_eq!(applied.removed, 1);
    assert!(maps.services.is_empty() && maps.backends.is_empty() && maps.counters.is_empty());
}

#[test]
fn what_is_the_same_is_not_written_again() {
    let (mut table, mut maps) = (Table::default(), MemoryMaps::default());
    let want = desired(&[
        (frontend("10.96.0.10", 80), near(&["10.244.1.2:8080"])),
        (frontend("10.96.0.11", 80), Target::Far),
        (frontend("10.96.0.12", 80), Target::Refuse),
    ]);
    assert_eq!(apply(&mut table, &want, &mut maps).changed, 3);
    assert_eq!(apply(&mut table, &want, &mut maps).changed, 0);
}

#[test]
fn backends_of_another_family_are_left_out() {
    let (mut table, mut maps) = (Table::default(), MemoryMaps::default());
    let six = frontend("fd00:10:96::a", 80);
    let four = frontend("10.96.0.10", 80);
    let mixed = near(&["10.244.1.2:8080", "[fd00:10:244:1::2]:8080"]);
    apply(&mut table, &desired(&[(six, mixed), (four, near(&["[fd00::2]:80"]))]), &mut maps);
    assert_eq!(seen(&maps, six), Some(vec!["[fd00:10:244:1::2]:8080".parse().unwrap()]));
    assert_eq!(table.target(&four), Some(&Target::Refuse));
}

#[test]
fn a_full_map_keeps_the_old_set_and_spares_the_rest() {
    let (mut table, mut maps) = (Table::default(), MemoryMaps::default());
    let (a, b) = (frontend("10.96.0.10", 80), frontend("10.96.0.11", 80));
    apply(&mut table, &desired(&[(a, near(&["10.244.1.2:80"]))]), &mut maps);
    maps.capacity = Some(2);
    let want = desired(&[(a, near(&["10.244.1.3:80", "10.244.1.4:80"])), (b, near(&["10.244.1.5:80"]))]);
    let applied = apply(&mut table, &want, &mut maps);
    assert!(matches!(applied.failed[..], [(failed, MapError::Full { .. })] if failed == a));
    assert_eq!(seen(&maps, a), Some(vec!["10.244.1.2:80".parse().unwrap()]));
    assert_eq!(seen(&maps, b), Some(vec!["10.244.1.5:80".parse().unwrap()]));
    maps.capacity = None;
    assert_eq!(apply(&mut table, &want, &mut maps).changed, 1);
    assert_eq!(maps.backends.len(), 3);
}

#[test]
fn adoption_finds_everything_and_retires_what_was_cut_off() {
    let (mut table, mut maps) = (Table::default(), MemoryMaps::default());
    let want = desired(&[
        (frontend("10.96.0.10", 80), near(&["10.244.1.2:8080", "10.244.1.3:8080"])),
        (
            frontend("10.96.0.11", 80),
            Target::Near {
                backends: vec!["10.244.1.2:80".parse().unwrap()],
                affinity: Some(Duration::from_secs(10800)),
            },
        ),
        (frontend("10.96.0.12", 80), Target::Far),
    ]);
    apply(&mut table, &want, &mut maps);
    let orphan = abi::BackendKey { service: 77, generation: 99, slot: 0 };
    maps.backends.insert(orphan, abi::Backend::default());
    let (mut adopted, retired) = Table::adopt(&maps, 50).unwrap();
    assert_eq!(retired.backends, [orphan]);
    assert_eq!(apply(&mut adopted, &want, &mut maps).changed, 0);
    // Identifiers and generations in the maps are never given out twice.
    assert!(adopted.last_id >= 77 && adopted.last_generation >= 99);
    assert_eq!(Table::adopt(&MemoryMaps::default(), 50).unwrap().0.last_generation, 50);
}

fn any_target() -> impl Strategy<Value = Target> {
    let backends = proptest::collection::vec((1u8..6, 80u16..83), 0..4).prop_map(|list| {
        list.into_iter().map(|(host, port)| SocketAddr::from(([10, 244, 1, host], port))).collect()
    });
    let affinity = proptest::option::of((0u64..5).prop_map(Duration::from_secs));
    prop_oneof![
        Just(Target::Far),
        Just(Target::Refuse),
        (backends, affinity).prop_map(|(backends, affinity)| Target::Near { backends, affinity }),
    ]
}

proptest! {
    #[test]
    fn any_history_ends_where_a_fresh_start_does(
        history in proptest::collection::vec(
            proptest::collection::btree_map(1u8..8, any_target(), 0..6), 1..8)
    ) {
        let (mut table, mut maps) = (Table::default(), MemoryMaps::default());
        let mut last = Desired::default();
        for step in history {
            last = Desired {
                services: step.into_iter()
                    .map(|(host, target)| (frontend(&format!("10.96.0.{host}"), 80), target))
                    .collect(),
                ..Desired::default()
            };
            apply(&mut table, &last, &mut maps);
        }
        let (mut fresh, mut fresh_maps) = (Table::default(), MemoryMaps::default());
        apply(&mut fresh, &last, &mut fresh_maps);
        prop_assert!(table.services().eq(fresh.services()));
        prop_assert_eq!(maps.services.len(), fresh_maps.services.len());
        prop_assert_eq!(maps.backends.len(), fresh_maps.backends.len());
        prop_assert_eq!(maps.members.len(), fresh_maps.members.len());
        prop_assert_eq!(maps.counters.len(), fresh_maps.counters.len());
    }
}
