//! The shared watches: one a kind, whatever the number of nodes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use edgeloom_api::kind::Kind;
use futures::TryStreamExt as _;
use kube::Api;
use kube::api::{ApiResource, ObjectMeta};
use kube::core::{DynamicResourceScope, Resource};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use serde::de::{Deserialize, Deserializer, Error as _};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::cache::{Cache, Entry};
use super::metrics::Metrics;
use super::selection::OPTIONAL;

/// Pauses between tries while the API does not answer; short, for edges wait behind it.
const MIN_PAUSE: Duration = Duration::from_millis(300);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Pauses that double up to the longest, until an event comes.
struct Pauses(Duration);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(MAX_PAUSE);
        Some(pause)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = MIN_PAUSE;
    }
}

/// An object of any kind as it came, fields unknown to this release included.
#[derive(Clone)]
pub(super) struct Raw {
    metadata: ObjectMeta,
    object: Value,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        let metadata = ObjectMeta::deserialize(&object["metadata"]).map_err(D::Error::custom)?;
        Ok(Self { metadata, object })
    }
}

impl fmt::Debug for Raw {
    /// Names only: the object may be a Secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw({:?}/{:?})", self.metadata.namespace, self.metadata.name)
    }
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> std::borrow::Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Follows all objects of `kind` until stopped.
pub(super) async fn follow(
    kind: &'static Kind,
    client: kube::Client,
    cache: Arc<Cache>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let resource = ApiResource {
        group: kind.group.to_owned(),
        version: kind.version.to_owned(),
        api_version: kind.api_version(),
        kind: kind.kind.to_owned(),
        plural: kind.plural.to_owned(),
    };
    let api: Api<Raw> = Api::all_with(client, &resource);
    let events = watcher::watcher(api, watcher::Config::default()).backoff(Pauses(MIN_PAUSE));
    let mut events = std::pin::pin!(events);
    let mut present = BTreeSet::new();
    loop {
        let event = tokio::select! {
            event = events.try_next() => event,
            () = stop.cancelled() => return,
        };
        match event {
            Ok(Some(event)) => take(kind, event, &cache, &mut present),
            Ok(None) => return,
            Err(error) if OPTIONAL.contains(&kind) && is_refused(&error) => {
                // Once: it is tried again, and may be served by then.
                if cache.listed(kind) {
                    tracing::warn!(%kind, %error, "the cluster does not serve this: run edgeloom-control install again");
                }
            }
            Err(error) => {
                metrics.watch_errors.with_label_values(&[kind.plural]).inc();
                tracing::warn!(%kind, %error, "watching the API; trying again");
            }
        }
        metrics.objects.set(i64::try_from(cache.len()).unwrap_or(i64::MAX));
    }
}

/// Whether the API knows no such kind, or lets the control not read it.
fn is_refused(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => matches!(status.code, 403 | 404),
        _ => false,
    }
}

fn take(
    kind: &'static Kind,
    event: Event<Raw>,
    cache: &Cache,
    present: &mut BTreeSet<edgeloom_api::hub::Key>,
) {
    match event {
        Event::Init => present.clear(),
        Event::InitApply(raw) => {
            if let Some((key, entry)) = Entry::of(kind, raw.object) {
                present.insert(key.clone());
                cache.apply(key, Some(entry));
            }
        }
        Event::InitDone => cache.replace(kind, &std::mem::take(present)),
        Event::Apply(raw) => {
            if let Some((key, entry)) = Entry::of(kind, raw.object) {
                cache.apply(key, Some(entry));
            }
        }
        Event::Delete(raw) => {
            if let Some((key, _)) = Entry::of(kind, raw.object) {
                cache.apply(key, None);
            }
        }
    }
}
