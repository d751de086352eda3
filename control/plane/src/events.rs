//! Events, as the controllers of Kubernetes word them.
//!
//! The same news again counts up the Event that it has; other news, and be it only in its words, is another Event.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::Instant;

/// How long news counts as the same: as with the recorder of Kubernetes.
const SAME: Duration = Duration::from_secs(6 * 60);

/// Writes the Events of one controller. A failure to write one is logged and no more: an Event is news.
#[derive(Clone)]
pub(crate) struct Events {
    client: Client,
    controller: String,
    told: Arc<Mutex<Told>>,
}

impl Events {
    pub(crate) fn new(client: Client, controller: &str) -> Self {
        Self { client, controller: controller.to_owned(), told: Arc::default() }
    }

    pub(crate) async fn normal(&self, about: &ObjectReference, reason: &str, action: &str, note: String) {
        self.publish(about, ["Normal", reason, action, &note]).await;
    }

    pub(crate) async fn warning(&self, about: &ObjectReference, reason: &str, action: &str, note: String) {
        self.publish(about, ["Warning", reason, action, &note]).await;
    }

    async fn publish(&self, about: &ObjectReference, news: [&str; 4]) {
        let now = Timestamp::now();
        let name = format!("{}.{:x}", about.name.as_ref().unwrap_or(&self.controller), now.as_nanosecond());
        let told = {
            let mut told = self.told.lock().expect("no holder of this lock panics");
            told.tell(key(about, news), name, Instant::now())
        };
        let namespace = about.namespace.as_deref().unwrap_or("default");
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let written = match told.count {
            1 => {
                let event = self.event(about, news, told.name, now);
                api.create(&PostParams::default(), &event).await
            }
            count => {
                let series = EventSeries { count, last_observed_time: MicroTime(now) };
                let patch = Patch::Merge(json!({ "series": series }));
                api.patch(&told.name, &PatchParams::default(), &patch).await
            }
        };
        if let Err(error) = written {
            tracing::debug!(reason = news[1], %error, "an Event could not be written");
            // Another try begins with a new one.
            self.told.lock().expect("no holder of this lock panics").forget(&key(about, news));
        }
    }

    fn event(&self, about: &ObjectReference, news: [&str; 4], name: String, now: Timestamp) -> Event {
        let [type_, reason, action, note] = news.map(|word| Some(word.to_owned()));
        let metadata =
            ObjectMeta { name: Some(name), namespace: about.namespace.clone(), ..ObjectMeta::default() };
        Event {
            metadata,
            type_,
            reason,
            action,
            note,
            event_time: Some(MicroTime(now)),
            regarding: Some(about.clone()),
            reporting_controller: Some(self.controller.clone()),
            reporting_instance: Some(self.controller.clone()),
            ..Event::default()
        }
    }
}

/// What makes news the same: what it is about, and its type, reason, action and note.
type News = ([Option<String>; 5], [String; 4]);

fn key(about: &ObjectReference, news: [&str; 4]) -> News {
    let ObjectReference { kind, namespace, name, uid, field_path, .. } = about.clone();
    ([kind, namespace, name, uid, field_path], news.map(str::to_owned))
}

/// An Event's name, and how often its news was told.
#[derive(Clone, Debug, PartialEq)]
struct Counted {
    name: String,
    count: i32,
}

/// What was told lately.
#[derive(Default)]
struct Told(HashMap<News, (Counted, Instant)>);

impl Told {
    /// The Event by which `news` is to be told; a new one has this name.
    fn tell(&mut self, news: News, name: String, now: Instant) -> Counted {
        self.0.retain(|_, (_, last)| now - *last < SAME);
        let (counted, last) = self.0.entry(news).or_insert((Counted { name, count: 0 }, now));
        counted.count = counted.count.saturating_add(1);
        *last = now;
        counted.clone()
    }

    fn forget(&mut self, news: &News) {
        self.0.remove(news);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_news_counts_up_and_other_words_are_other_news() {
        let (mut told, start) = (Told::default(), Instant::now());
        let about = |name: &str| ObjectReference { name: Some(name.into()), ..ObjectReference::default() };
        let scaled = |set: &str| format!("Scaled up replica set {set} to 3");
        let mut tell = |deployment: &str, set: &str, second: u64| {
            let news = key(&about(deployment), ["Normal", "ScalingReplicaSet", "Scale", &scaled(set)]);
            let counted = told.tell(news, format!("at-{second}"), start + Duration::from_secs(second));
            (counted.name, counted.count)
        };
        for (deployment, set, second, expected) in [
            ("web", "web-1", 0, ("at-0", 1)),
            ("web", "web-2", 1, ("at-1", 1)),
            ("api", "web-2", 2, ("at-2", 1)),
            ("web", "web-1", 3, ("at-0", 2)),
            ("web", "web-1", 4, ("at-0", 3)),
            ("web", "web-1", 400, ("at-400", 1)),
        ] {
            let (name, count) = tell(deployment, set, second);
            assert_eq!((name.as_str(), count), expected, "{deployment} {set} {second}");
        }
    }

    #[test]
    fn what_could_not_be_written_begins_anew() {
        let (mut told, now) = (Told::default(), Instant::now());
        let news = key(&ObjectReference::default(), ["Normal", "A", "B", "c"]);
        told.tell(news.clone(), "one".into(), now);
        told.forget(&news);
        assert_eq!(told.tell(news, "two".into(), now), Counted { name: "two".into(), count: 1 });
    }
}
