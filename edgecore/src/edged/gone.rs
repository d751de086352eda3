//! Pods that were ended here and that the cloud has yet to forget. Pure.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::pod::PodId;

/// The cloud is told again after this long that a pod is gone whose object it still has: it forgets one that it was
/// told of within seconds, unless that was lost on the way or the API has refused it.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Pods that are gone, by uid, and when the cloud was told last.
#[derive(Default)]
pub(super) struct Gone(HashMap<String, (PodId, Instant)>);

impl Gone {
    /// The pod has ended, and the cloud was told.
    pub(super) fn insert(&mut self, pod: PodId, now: Instant) {
        self.0.insert(pod.uid.clone(), (pod, now));
    }

    /// The cloud does not have the pod any more.
    pub(super) fn forget(&mut self, uid: &str) {
        self.0.remove(uid);
    }

    pub(super) fn contains(&self, uid: &str) -> bool {
        self.0.contains_key(uid)
    }

    /// Those of which the cloud has to be told again; they count as told now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<PodId> {
        let due = self.0.values_mut().filter(|(_, told)| now.duration_since(*told) >= TELL_AGAIN);
        due.map(|(pod, told)| {
            *told = now;
            pod.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_again_while_the_cloud_has_the_pod() {
        let (mut gone, start) = (Gone::default(), Instant::now());
        let pod = PodId { namespace: "shop".into(), name: "web".into(), uid: "u".into() };
        gone.insert(pod.clone(), start);
        assert!(gone.due(start + TELL_AGAIN / 2).is_empty());
        assert_eq!(gone.due(start + TELL_AGAIN), std::slice::from_ref(&pod));
        assert!(gone.due(start + TELL_AGAIN * 3 / 2).is_empty());
        assert_eq!(gone.due(start + TELL_AGAIN * 2), [pod]);
        gone.forget("u");
        assert!(gone.due(start + TELL_AGAIN * 9).is_empty() && !gone.contains("u"));
    }
}
