//! The node's store, outbox and session, as edged sees them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use edgeloom_api::kind::Kind;
use edgeloom_client::{Change as StoreChange, Metastore, Outbox, Request, Session, Subscription, Write};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::watch;

use crate::edged::cluster::{Change, Changes, Cluster, ClusterError, Report};

/// Says that the metastore once held all that the control wanted of this node.
const COMPLETE: &str = "complete";

/// [`Cluster`] over the node's own files and its session with the control.
pub struct Store {
    metastore: Metastore,
    outbox: Outbox,
    session: OnceLock<Session>,
    node: String,
    node_uid: String,
    /// Whether the metastore is a full copy of what the control wants of this node.
    complete: watch::Sender<bool>,
    marker: PathBuf,
}

impl Store {
    /// Wraps what was opened in `state_dir`. A metastore that is new, or was damaged, is no full copy before
    /// the first session has brought it up to date: until then what runs and is not in it is left alone.
    pub fn new(metastore: Metastore, outbox: Outbox, node: &str, node_uid: &str, state_dir: &Path) -> Self {
        let marker = state_dir.join(COMPLETE);
        if metastore.moved_aside().is_some() || metastore.is_empty() {
            let _ = fs::remove_file(&marker);
        }
        let complete = watch::Sender::new(marker.exists());
        let (node, node_uid) = (node.to_owned(), node_uid.to_owned());
        Self { metastore, outbox, session: OnceLock::new(), node, node_uid, complete, marker }
    }

    /// Gives the session, once it has started.
    pub fn set_session(&self, session: Session) {
        let _ = self.session.set(session);
    }

    /// Notes when the session has brought the metastore up to date. Ends then.
    pub async fn watch_completeness(&self) {
        let Some(session) = self.session.get() else { return };
        let mut synced = session.synced();
        if synced.wait_for(|synced| *synced).await.is_err() {
            return;
        }
        if let Err(error) = fs::write(&self.marker, "") {
            tracing::warn!(path = %self.marker.display(), %error, "not noted that the node's objects are complete");
        }
        self.complete.send_replace(true);
    }
}

/// Changes of the metastore; its `Synced` is passed on once the metastore is complete.
struct StoreChanges {
    subscription: Subscription,
    complete: watch::Receiver<bool>,
    /// Whether all was told that there was, and `Synced` was not.
    withheld: bool,
}

impl Changes for StoreChanges {
    fn next(&mut self) -> BoxFuture<'_, Change> {
        async {
            loop {
                let change = tokio::select! {
                    change = self.subscription.next() => change,
                    Ok(_) = self.complete.wait_for(|complete| *complete), if self.withheld => StoreChange::Synced,
                };
                match change {
                    StoreChange::Put(object) => return Change::Put(object),
                    StoreChange::Delete { kind, namespace, name, .. } => {
                        return Change::Delete { kind, namespace, name };
                    }
                    StoreChange::Synced => {
                        self.withheld = !*self.complete.borrow();
                        if !self.withheld {
                            return Change::Synced;
                        }
                    }
                }
            }
        }
        .boxed()
    }
}

impl Cluster for Store {
    fn get(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, ClusterError> {
        Ok(self.metastore.get(kind, namespace, name))
    }

    fn list(&self, kind: &'static Kind) -> Result<Vec<Arc<Value>>, ClusterError> {
        Ok(self.metastore.list(kind))
    }

    fn subscribe(&self, kinds: &[&'static Kind]) -> Box<dyn Changes> {
        Box::new(StoreChanges {
            subscription: self.metastore.subscribe(kinds),
            complete: self.complete.subscribe(),
            withheld: false,
        })
    }

    fn report(&self, report: Report) -> BoxFuture<'_, Result<(), ClusterError>> {
        let write = self.write(report);
        async move { self.outbox.put(write).await.map_err(|error| ClusterError(error.to_string())) }.boxed()
    }

    fn request_token(
        &self,
        namespace: &str,
        service_account: &str,
        body: Value,
    ) -> BoxFuture<'_, Result<Value, ClusterError>> {
        let (namespace, service_account) = (namespace.to_owned(), service_account.to_owned());
        async move {
            let session = self.session.get().ok_or_else(|| ClusterError("not connected".to_owned()))?;
            let request = Request::Token { namespace, service_account, body };
            session.request(request).await.map_err(|error| ClusterError(error.to_string()))
        }
        .boxed()
    }

    fn beat(&self) -> bool {
        self.session.get().is_some_and(Session::beat)
    }

    fn is_connected(&self) -> bool {
        self.session.get().is_some_and(|session| *session.connected().borrow())
    }
}

impl Store {
    fn write(&self, report: Report) -> Write {
        match report {
            Report::PodStatus { namespace, name, uid, status } => {
                Write::Status { kind: "Pod".to_owned(), namespace, name, uid, status }
            }
            Report::NodeStatus(status) => Write::Status {
                kind: "Node".to_owned(),
                namespace: String::new(),
                name: self.node.clone(),
                uid: self.node_uid.clone(),
                status,
            },
            Report::Lease(body) => Write::Lease { name: self.node.clone(), body },
            Report::NodeAnnotations(annotations) => Write::NodeAnnotations { annotations },
            Report::Event(event) => Write::Event { event },
            Report::PodGone { namespace, name, uid } => Write::DeletePod { namespace, name, uid },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use edgeloom_api::kind;
    use serde_json::json;

    use super::*;

    async fn next(changes: &mut dyn Changes) -> Option<Change> {
        tokio::time::timeout(Duration::from_millis(200), changes.next()).await.ok()
    }

    fn open(directory: &Path) -> Store {
        let metastore = Metastore::open(directory.join("metastore.db")).unwrap();
        let outbox = Outbox::open(directory.join("outbox.db")).unwrap();
        Store::new(metastore, outbox, "edge-a", "uid", directory)
    }

    #[tokio::test]
    async fn a_store_that_was_never_complete_says_not_that_it_is() {
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let mut changes = store.subscribe(&[&kind::POD]);
        assert!(next(changes.as_mut()).await.is_none());
        store.complete.send_replace(true);
        assert!(matches!(next(changes.as_mut()).await, Some(Change::Synced)));
    }

    #[tokio::test]
    async fn a_store_that_was_complete_is_so_after_a_restart_unless_it_is_lost() {
        let root = tempfile::tempdir().unwrap();
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "d", "name": "p", "uid": "u", "resourceVersion": "1"}});
        let store = open(root.path());
        let update = edgeloom_client::Update::Put(pod);
        store.metastore.apply(vec![update]).await.unwrap();
        fs::write(&store.marker, "").unwrap();
        drop(store);

        let mut changes = open(root.path()).subscribe(&[&kind::POD]);
        assert!(matches!(next(changes.as_mut()).await, Some(Change::Put(_))));
        assert!(matches!(next(changes.as_mut()).await, Some(Change::Synced)));

        for entry in fs::read_dir(root.path()).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("metastore") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        let mut changes = open(root.path()).subscribe(&[&kind::POD]);
        assert!(next(changes.as_mut()).await.is_none());
    }
}
