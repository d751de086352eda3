//! How long nothing was heard of the Nodes. Pure.
//!
//! A Node is heard by its Lease, and by the status that it posts. Not the times in these are believed but the
//! moment in which they were seen to change, so that an edge with a wrong clock is as alive as any.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// Nobody looked for longer than this: it was not the Nodes that were away.
const AWAY: Duration = Duration::from_secs(15);

/// What a Node shows that it lives by. Silence leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sign {
    /// Version of its Lease.
    pub(crate) lease: Option<String>,
    /// When it posted its status, by its own clock.
    pub(crate) posted: Option<Timestamp>,
}

impl Sign {
    /// Of a Node, and the version of its Lease.
    pub(crate) fn of(node: &Node, lease: Option<String>) -> Self {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
        let posted = ready.and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0);
        Self { lease, posted }
    }
}

/// The signs last seen, and since when.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    nodes: HashMap<String, (Sign, Instant)>,
    looked: Option<Instant>,
    /// Since when there were looks without a gap.
    looking: Option<Instant>,
}

impl Heard {
    /// How long nothing was heard of a Node that shows `sign`; one that is new counts from the first look.
    ///
    /// Looks of all Nodes together are expected every few seconds. Time in which there were none, as while the
    /// process was stopped, counts against no Node.
    pub(crate) fn silence(&mut self, name: &str, sign: Sign, now: Instant) -> Duration {
        let gap = self.looked.replace(now).map_or(Duration::ZERO, |looked| now - looked);
        let looking = self.looking.get_or_insert(now);
        if gap > AWAY {
            *looking = now;
            self.nodes.values_mut().for_each(|(_, since)| *since += gap);
        }
        let entry = self.nodes.entry(name.to_owned()).or_insert_with(|| (sign.clone(), now));
        if entry.0 != sign {
            *entry = (sign, now);
        }
        now - entry.1
    }

    /// For how long anybody has been looking: a Node that was taken for lost before that may be back.
    pub(crate) fn looking(&self, now: Instant) -> Duration {
        self.looking.map_or(Duration::ZERO, |since| now - since)
    }

    /// The Node is gone.
    pub(crate) fn forget(&mut self, name: &str) {
        self.nodes.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(lease: &str, posted: i64) -> Sign {
        Sign { lease: Some(lease.to_owned()), posted: Timestamp::from_second(posted).ok() }
    }

    /// Looks every five seconds, at seconds `from` to `to`.
    fn look(heard: &mut Heard, start: Instant, seconds: (u64, u64), sign: &Sign) -> Duration {
        let looks = (seconds.0..=seconds.1).step_by(5);
        let silences = looks.map(|at| heard.silence("edge-a", sign.clone(), start + Duration::from_secs(at)));
        silences.last().unwrap_or_default()
    }

    #[test]
    fn a_lease_and_a_status_are_signs_of_life() {
        let (mut heard, start) = (Heard::default(), Instant::now());
        assert_eq!(look(&mut heard, start, (0, 45), &sign("1", 7)), Duration::from_secs(45));
        assert_eq!(look(&mut heard, start, (50, 60), &sign("2", 7)), Duration::from_secs(10));
        assert_eq!(look(&mut heard, start, (65, 70), &sign("2", 8)), Duration::from_secs(5));
        assert_eq!(look(&mut heard, start, (75, 75), &sign("2", 0)), Duration::ZERO, "a clock set back");
    }

    #[test]
    fn time_in_which_nobody_looked_counts_against_no_node() {
        let (mut heard, start) = (Heard::default(), Instant::now());
        look(&mut heard, start, (0, 10), &sign("1", 7));
        assert_eq!(look(&mut heard, start, (100, 100), &sign("1", 7)), Duration::from_secs(10));
        assert_eq!(heard.looking(start + Duration::from_secs(100)), Duration::ZERO);
        assert_eq!(look(&mut heard, start, (105, 130), &sign("1", 7)), Duration::from_secs(40));
        assert_eq!(heard.looking(start + Duration::from_secs(130)), Duration::from_secs(30));
    }

    #[test]
    fn one_who_looks_at_another_node_looks() {
        let (mut heard, start) = (Heard::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        heard.silence("edge-a", sign("1", 7), at(0));
        for second in (0..=40).step_by(10) {
            heard.silence("edge-b", sign("1", 7), at(second));
        }
        assert_eq!(heard.silence("edge-a", sign("1", 7), at(45)), Duration::from_secs(45));
    }
}
