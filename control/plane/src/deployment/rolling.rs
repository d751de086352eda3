//! How many replicas each ReplicaSet of a Deployment should have next. Pure: one step at a time, from
//! what is there to what may be changed now without going above the surge or below the availability.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How far a rolling update may leave the wanted number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Pods above the wanted number.
    pub(crate) surge: i32,
    /// Pods below the wanted number that may be unavailable.
    pub(crate) unavailable: i32,
}

/// The limits of a Deployment, percentages resolved: surge up, unavailability down, never both zero.
pub(crate) fn limits(deployment: &Deployment) -> Limits {
    let spec = deployment.spec.as_ref();
    let replicas = spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let strategy = spec.and_then(|spec| spec.strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return Limits { surge: 0, unavailable: replicas };
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
    let surge = resolve(surge, replicas, true);
    let unavailable = resolve(unavailable, replicas, false).min(replicas);
    if surge == 0 && unavailable == 0 {
        Limits { surge, unavailable: 1 }
    } else {
        Limits { surge, unavailable }
    }
}

fn resolve(value: &IntOrString, of: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(of);
            i32::try_from(if up { (product + 99) / 100 } else { product / 100 }).unwrap_or(i32::MAX).max(0)
        }
    }
}

/// A ReplicaSet as the step sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    /// What its spec asks for.
    pub(crate) wanted: i32,
    /// Pods that exist.
    pub(crate) pods: i32,
    /// Pods that are available.
    pub(crate) available: i32,
}

impl From<&ReplicaSet> for Set {
    fn from(set: &ReplicaSet) -> Self {
        let status = set.status.as_ref();
        Self {
            wanted: set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            pods: status.map_or(0, |status| status.replicas),
            available: status.and_then(|status| status.available_replicas).unwrap_or(0),
        }
    }
}

/// The next sizes: of the current set, and of the old ones in the order given (oldest first).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) current: i32,
    pub(crate) old: Vec<i32>,
}

/// The next step of a rolling update to `replicas`.
pub(crate) fn rolling(replicas: i32, limits: Limits, current: &Set, old: &[Set]) -> Sizes {
    Sizes { current: grow(replicas, limits, current, old), old: shrink(replicas, limits, current, old) }
}

fn grow(replicas: i32, limits: Limits, current: &Set, old: &[Set]) -> i32 {
    if current.wanted >= replicas {
        return replicas;
    }
    let total: i32 = current.wanted + old.iter().map(|set| set.wanted).sum::<i32>();
    let room = (replicas + limits.surge - total).max(0);
    current.wanted + room.min(replicas - current.wanted)
}

/// Takes from the old sets what can go: first what is not available anyway, then what availability allows.
fn shrink(replicas: i32, limits: Limits, current: &Set, old: &[Set]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|set| set.wanted).collect();
    let total: i32 = current.wanted + sizes.iter().sum::<i32>();
    let least = replicas - limits.unavailable;
    let coming = (current.wanted - current.available).max(0);
    let mut room = (total - least - coming).max(0);
    for (size, set) in sizes.iter_mut().zip(old) {
        let unhealthy = (*size - set.available).max(0).min(room);
        *size -= unhealthy;
        room -= unhealthy;
    }
    let available: i32 =
        current.available + sizes.iter().zip(old).map(|(size, set)| set.available.min(*size)).sum::<i32>();
    let mut spare = (available - least).max(0);
    for size in &mut sizes {
        let gone = (*size).min(spare);
        *size -= gone;
        spare -= gone;
    }
    sizes
}

/// The next step of `Recreate`: nothing new before all old pods are gone.
pub(crate) fn recreate(replicas: i32, current: &Set, old: &[Set]) -> Sizes {
    let gone = old.iter().all(|set| set.wanted == 0 && set.pods == 0);
    Sizes { current: if gone { replicas } else { current.wanted }, old: vec![0; old.len()] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(wanted: i32, available: i32) -> Set {
        Set { wanted, pods: wanted, available }
    }

    #[test]
    fn limits_as_the_documentation_rounds_them() {
        let table = [
            (10, json!("25%"), json!("25%"), (3, 2)),
            (1, json!("25%"), json!("25%"), (1, 0)),
            (4, json!(0), json!(0), (0, 1)),
            (4, json!("100%"), json!(9), (4, 4)),
        ];
        for (replicas, surge, unavailable, expected) in table {
            let deployment: Deployment = serde_json::from_value(json!({
                "metadata": {},
                "spec": { "replicas": replicas, "selector": {}, "template": {}, "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } } },
            }))
            .unwrap();
            let got = limits(&deployment);
            assert_eq!((got.surge, got.unavailable), expected, "{replicas} {surge} {unavailable}");
        }
    }

    #[test]
    fn a_rollout_never_leaves_its_limits_and_ends() {
        for (replicas, surge, unavailable) in [(10, 3, 2), (1, 1, 0), (3, 0, 1), (5, 5, 0), (4, 0, 4)] {
            let limits = Limits { surge, unavailable };
            let (mut current, mut old) = (set(0, 0), vec![set(replicas, replicas), set(0, 0)]);
            let mut steps = 0;
            while current.available < replicas || old.iter().any(|set| set.wanted > 0) {
                let sizes = rolling(replicas, limits, &current, &old);
                current.wanted = sizes.current;
                for (set, size) in old.iter_mut().zip(sizes.old) {
                    set.wanted = size;
                    set.available = set.available.min(size);
                }
                let total = current.wanted + old.iter().map(|set| set.wanted).sum::<i32>();
                let available = current.available + old.iter().map(|set| set.available).sum::<i32>();
                assert!(total <= replicas + surge, "{total} pods of {replicas} + {surge}");
                assert!(available >= replicas - unavailable, "{available} available of {replicas}");
                // One new pod becomes available between two steps.
                current.available = (current.available + 1).min(current.wanted);
                steps += 1;
                assert!(steps < 100, "no end: {current:?} {old:?}");
            }
        }
    }

    #[test]
    fn a_broken_old_template_does_not_hold_the_new_one_up() {
        let sizes = rolling(4, Limits { surge: 1, unavailable: 1 }, &set(2, 2), &[set(3, 0)]);
        assert_eq!(sizes.old, [1], "the unavailable ones go first, as far as the minimum allows");
    }

    #[test]
    fn recreate_waits_for_the_last_old_pod() {
        let gone = Set { wanted: 0, pods: 0, available: 0 };
        let going = Set { wanted: 0, pods: 1, available: 0 };
        assert_eq!(recreate(3, &set(0, 0), &[set(3, 3)]), Sizes { current: 0, old: vec![0] });
        assert_eq!(recreate(3, &set(0, 0), &[going]), Sizes { current: 0, old: vec![0] });
        assert_eq!(recreate(3, &set(0, 0), &[gone]), Sizes { current: 3, old: vec![0] });
    }
}
