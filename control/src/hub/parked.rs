//! Writes that the API does not do now and may do later, while those behind them go on. Pure.
//!
//! What the API forbids today it may allow once somebody has mended a role, a quota or a webhook. A write waits
//! here until it is done, or until a later one of the same object takes its place. A node has a window of
//! unanswered writes, which bounds their number; so that Events alone never fill it, the oldest of too many give
//! way.

use std::time::Duration;

use tokio::time::Instant;

use super::authorise::Call;

/// Pauses between tries of one write.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Events that wait at most: a quarter of the node's window.
const MAX_EVENTS: usize = edgeloom_api::hub::WRITE_WINDOW / 4;

/// A write that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Its number in the node's outbox.
    pub(super) id: u64,
    /// What is to be done for it.
    pub(super) call: Call,
    /// See [`edgeloom_api::hub::Write::object`].
    pub(super) object: Option<String>,
    pause: Duration,
    due: Instant,
}

impl Waiting {
    /// A write that was tried for the first time.
    pub(super) fn new(id: u64, object: Option<String>, call: Call, now: Instant) -> Self {
        Self { id, call, object, pause: MIN_PAUSE, due: now + MIN_PAUSE }
    }

    fn is_event(&self) -> bool {
        matches!(self.call, Call::Create { .. })
    }
}

/// The writes of one session that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Parked(Vec<Waiting>);

impl Parked {
    /// Takes a write in. Returns the number of an Event that had to give way.
    pub(super) fn park(&mut self, waiting: Waiting) -> Option<u64> {
        self.0.push(waiting);
        let events = self.0.iter().filter(|waiting| waiting.is_event()).count();
        if events <= MAX_EVENTS {
            return None;
        }
        let oldest = self.0.iter().position(Waiting::is_event)?;
        Some(self.0.remove(oldest).id)
    }

    /// Takes it back after another try that came too early.
    pub(super) fn park_again(&mut self, mut waiting: Waiting, now: Instant) {
        waiting.pause = (waiting.pause * 2).min(MAX_PAUSE);
        waiting.due = now + waiting.pause;
        self.0.push(waiting);
    }

    /// Gives up what waits for `object`, since a later write of it is there. Returns its numbers.
    pub(super) fn replace(&mut self, object: Option<&str>) -> Vec<u64> {
        let Some(object) = object else { return Vec::new() };
        self.0.extract_if(.., |waiting| waiting.object.as_deref() == Some(object)).map(|old| old.id).collect()
    }

    /// When the next try is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.iter().map(|waiting| waiting.due).min()
    }

    /// The write that is due first, taken out.
    pub(super) fn take(&mut self) -> Option<Waiting> {
        let (first, _) = self.0.iter().enumerate().min_by_key(|(_, waiting)| waiting.due)?;
        Some(self.0.remove(first))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn waiting(id: u64, object: Option<&str>, now: Instant) -> Waiting {
        let call = match object {
            Some(path) => Call::Patch { path: path.into(), body: Value::Null },
            None => Call::Create { collection: "events".into(), name: id.to_string(), object: Value::Null },
        };
        Waiting::new(id, object.map(str::to_owned), call, now)
    }

    #[test]
    fn a_later_write_of_the_object_takes_the_place_of_an_earlier_one() {
        let (mut parked, now) = (Parked::default(), Instant::now());
        for (id, object) in [(1, Some("a")), (2, Some("b")), (3, None), (4, Some("a"))] {
            assert_eq!(parked.park(waiting(id, object, now)), None);
        }
        assert_eq!(parked.replace(Some("a")), [1, 4]);
        assert!(parked.replace(None).is_empty() && parked.replace(Some("a")).is_empty());
        assert_eq!(parked.take().map(|waiting| waiting.id), Some(2));
    }

    #[test]
    fn pauses_double_up_to_a_minute() {
        let (mut parked, now) = (Parked::default(), Instant::now());
        parked.park(waiting(1, Some("a"), now));
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.push((parked.due().unwrap() - now).as_secs());
            let again = parked.take().unwrap();
            parked.park_again(again, now);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(parked.0.len(), 1);
    }

    #[test]
    fn of_too_many_events_the_oldest_gives_way_and_nothing_else() {
        let (mut parked, now) = (Parked::default(), Instant::now());
        parked.park(waiting(0, Some("a"), now));
        let gone: Vec<u64> = (1..=20).filter_map(|id| parked.park(waiting(id, None, now))).collect();
        assert_eq!(gone, [1, 2, 3, 4]);
        assert_eq!(parked.replace(Some("a")), [0]);
    }
}
