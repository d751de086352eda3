//! A watch: a position in the sequence of changes, moved on by [`Watch::next`].
//!
//! States: *initial* (pages of what there was at one version), then *live* (changes after it, from the
//! ring in memory or, when that has moved on, from the history). It ends after an error: 410 when the
//! history too has moved on. That of a custom kind ends without one when the kind is served no more, after
//! the removal of its objects was told: who comes back learns that there is nothing to be watched.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Store;
use super::options::{ListOptions, VersionMatch, WatchOptions};
use super::read;
use super::txn::Event;
use crate::admission::DEFINITIONS;
use crate::error::{Error, Result};
use crate::kinds::KindDef;

/// Changes read at once.
const CHUNK: usize = 128;
/// Objects of the initial state read at once.
const PAGE: usize = 250;
/// How often a quiet watch is told the version it is at, so that it can resume from there.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// What a watch tells.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    Added(Arc<Value>),
    Modified(Arc<Value>),
    /// The last state, with the version of the removal.
    Deleted(Arc<Value>),
    /// Nothing before this version is still to come. `initial_end`: the initial state is complete.
    Bookmark {
        version: u64,
        initial_end: bool,
    },
    /// The watch has ended.
    Error(Error),
}

impl WatchEvent {
    /// The event as the API sends it.
    pub fn to_json(&self, kind: &KindDef) -> Value {
        match self {
            Self::Added(object) => json!({"type": "ADDED", "object": &**object}),
            Self::Modified(object) => json!({"type": "MODIFIED", "object": &**object}),
            Self::Deleted(object) => json!({"type": "DELETED", "object": &**object}),
            Self::Bookmark { .. } => json!({"type": "BOOKMARK", "object": self.bookmark(kind)}),
            Self::Error(error) => json!({"type": "ERROR", "object": error.to_status().1}),
        }
    }

    /// The object of a bookmark: nothing but a version, and the annotation that marks the initial end.
    fn bookmark(&self, kind: &KindDef) -> Value {
        let Self::Bookmark { version, initial_end } = self else { return Value::Null };
        let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if *initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata})
    }
}

/// A running watch. Dropping it ends it; it has no task and no queue of its own.
pub struct Watch {
    store: Store,
    kind: Arc<KindDef>,
    options: WatchOptions,
    /// Everything up to this version has been told or is in `pending`.
    position: u64,
    initial: Option<Initial>,
    pending: VecDeque<WatchEvent>,
    changed: tokio::sync::watch::Receiver<u64>,
    /// Changes of definitions, if the kind has one.
    definitions: Option<tokio::sync::watch::Receiver<u64>>,
    /// Whether the kind was found to be served no more.
    withdrawn: bool,
    bookmark_at: Instant,
    ended: bool,
}

/// How far the initial state was told.
struct Initial {
    token: Option<String>,
    version: Option<u64>,
}

impl Watch {
    pub(super) async fn start(store: Store, kind: Arc<KindDef>, options: WatchOptions) -> Result<Self> {
        // Subscribed before anything is read: no change can fall between.
        let changed = store.0.feed.subscribe(&kind.storage);
        let definitions = kind.is_custom().then(|| store.0.feed.subscribe(DEFINITIONS));
        let position = read::parse_version(options.resource_version.as_deref())?;
        let initial = options.send_initial_events || position == 0;
        let mut watch = Self {
            store,
            kind,
            options,
            position,
            initial: initial.then_some(Initial { token: None, version: None }),
            pending: VecDeque::new(),
            changed,
            definitions,
            withdrawn: false,
            bookmark_at: Instant::now() + BOOKMARK_EVERY,
            ended: false,
        };
        watch.withdrawn = !watch.is_served();
        Ok(watch)
    }

    /// The kind that is watched.
    pub fn kind(&self) -> &Arc<KindDef> {
        &self.kind
    }

    /// The next event; `None` after an error, and when the kind is served no more. Cancel-safe.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            if let Err(error) = self.fill().await {
                self.ended = true;
                return Some(WatchEvent::Error(error));
            }
        }
    }

    /// Puts something into `pending`, or waits until there may be something.
    async fn fill(&mut self) -> Result<()> {
        if self.initial.is_some() {
            return self.fill_initial().await;
        }
        self.look_at_definitions();
        self.changed.mark_unchanged();
        let (events, upto) = self.read_changes().await?;
        let shown: Vec<WatchEvent> = events.iter().filter_map(|event| self.show(event)).collect();
        self.pending.extend(shown);
        let read_all = events.len() < CHUNK;
        self.position = upto;
        if self.pending.is_empty() && read_all {
            match self.withdrawn {
                true => self.ended = true,
                false => self.wait().await,
            }
        }
        Ok(())
    }

    /// Finds out whether the kind is still served, where a definition has changed. What was removed with its own
    /// was published before that was told, and is read after this.
    fn look_at_definitions(&mut self) {
        let Some(definitions) = &mut self.definitions else { return };
        if definitions.has_changed().unwrap_or(true) {
            definitions.mark_unchanged();
            self.withdrawn = !self.is_served();
        }
    }

    fn is_served(&self) -> bool {
        let KindDef { group, version, plural, .. } = &*self.kind;
        !self.kind.is_custom()
            || self.store.registry().find(group, version, plural).is_some_and(|kind| kind.allows("watch"))
    }

    async fn read_changes(&self) -> Result<(Vec<Arc<Event>>, u64)> {
        if let Some(found) = self.store.0.feed.after(&self.kind.storage, self.position, CHUNK) {
            return Ok(found);
        }
        let (storage, after) = (self.kind.storage.clone(), self.position);
        self.store.0.readers.run(move |connection| read::changes(connection, &storage, after, CHUNK)).await
    }

    async fn fill_initial(&mut self) -> Result<()> {
        let Some(initial) = &self.initial else { return Ok(()) };
        let options = ListOptions {
            namespace: self.options.namespace.clone(),
            labels: self.options.labels.clone(),
            fields: self.options.fields.clone(),
            limit: PAGE,
            continue_token: initial.token.clone(),
            resource_version: self.options.resource_version.clone(),
            version_match: Some(VersionMatch::NotOlderThan),
        };
        let page = self.store.list(&self.kind, options).await?;
        let version = initial.version.unwrap_or(page.resource_version);
        self.pending.extend(page.items.into_iter().map(WatchEvent::Added));
        if page.continue_token.is_some() {
            self.initial = Some(Initial { token: page.continue_token, version: Some(version) });
            return Ok(());
        }
        self.initial = None;
        self.position = version;
        if self.options.send_initial_events && self.options.bookmarks {
            self.pending.push_back(WatchEvent::Bookmark { version, initial_end: true });
        }
        Ok(())
    }

    /// Waits for a change of the kind or of the definitions, or for the time of a bookmark.
    async fn wait(&mut self) {
        let redefined = async {
            match &mut self.definitions {
                // Left unseen for whoever looks at it.
                Some(definitions) => {
                    let _closed = definitions.changed().await;
                    definitions.mark_changed();
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.changed.changed() => {}
            () = redefined => {}
            () = tokio::time::sleep_until(self.bookmark_at), if self.options.bookmarks => {
                // The newest version first: what was published up to it is in the ring by then.
                let newest = self.store.0.feed.newest();
                let quiet = self.store.0.feed.after(&self.kind.storage, self.position, 1);
                if quiet.is_some_and(|(events, _)| events.is_empty()) {
                    self.position = self.position.max(newest);
                    self.pending.push_back(WatchEvent::Bookmark { version: self.position, initial_end: false });
                }
                self.bookmark_at = Instant::now() + BOOKMARK_EVERY;
            }
        }
    }

    fn selects(&self, object: &Value) -> bool {
        self.options.labels.matches(&object["metadata"]["labels"]) && self.options.fields.matches(object)
    }

    /// What a change is to this watch: an object that leaves the selection is deleted, one that enters
    /// it is added.
    fn show(&self, event: &Event) -> Option<WatchEvent> {
        if self.options.namespace.as_ref().is_some_and(|wanted| *wanted != event.namespace) {
            return None;
        }
        let shown = |object: &Arc<Value>| match self.kind.conversion {
            None => object.clone(),
            Some(_) => Arc::new(self.kind.present((**object).clone())),
        };
        let object = shown(&event.object);
        let before = event.previous.as_ref().map(shown).filter(|object| self.selects(object));
        let selected = self.selects(&object);
        match (before, selected, event.deleted) {
            (Some(_), _, true) => Some(WatchEvent::Deleted(object)),
            (None, _, true) | (None, false, false) => None,
            (Some(_), true, false) => Some(WatchEvent::Modified(object)),
            (None, true, false) => Some(WatchEvent::Added(object)),
            (Some(last), false, false) => {
                let mut last = (*last).clone();
                last["metadata"]["resourceVersion"] = Value::String(event.version.to_string());
                Some(WatchEvent::Deleted(Arc::new(last)))
            }
        }
    }
}
