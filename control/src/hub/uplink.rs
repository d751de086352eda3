//! Writes of one node: judged, limited in rate, done on the API, and tried again until the API answers.
//!
//! A write is refused for good only where nothing but another write could ever succeed. The control's own
//! credential that is not accepted (401) holds everything up, since everything would fail; what is forbidden (403),
//! or fails inside the API (500), is set aside for later ([`Outcome::Later`]).

use std::time::Duration;

use edgeloom_api::hub::Write;
use edgeloom_api::kind::NODE;
use edgeloom_tunnel::identity::Verified;
use http::{Method, Request};
use kube::core::Status;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Shared;
use super::authorise::{Call, Verdict, judge};

/// Writes a second that one node may have done in the long run.
const RATE: f64 = 50.0;
/// Writes that it may have done at once.
const BURST: f64 = 200.0;
/// Pauses between tries while the API does not answer.
const MIN_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(5);
const MERGE_PATCH: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

/// The writes of one session.
pub(super) struct Uplink<'a> {
    shared: &'a Shared,
    node: &'a Verified,
    tokens: f64,
    filled: Instant,
}

impl<'a> Uplink<'a> {
    pub(super) fn new(shared: &'a Shared, node: &'a Verified) -> Self {
        Self { shared, node, tokens: BURST, filled: Instant::now() }
    }

    /// Judges `write`, as soon as the node may have another one done.
    pub(super) async fn judge(&mut self, write: Write) -> Verdict {
        self.wait_for_token().await;
        let pod = |namespace: &str, name: &str| self.shared.cache.pod(namespace, name);
        let node_uid = if is_about_the_node(&write) { self.node_uid().await } else { Ok(String::new()) };
        let verdict = match node_uid {
            Ok(node_uid) => judge(self.node.node.as_str(), &node_uid, write, pod),
            Err(reason) => Verdict::Refuse(reason),
        };
        match &verdict {
            Verdict::Done => self.count("gone"),
            Verdict::Refuse(_) => self.count("forbidden"),
            Verdict::Call(_) => {}
        }
        verdict
    }

    /// Does `call`, perhaps again, however long it takes until the API has a word on it.
    pub(super) async fn call(&self, call: &Call) -> Outcome {
        let mut pause = MIN_PAUSE;
        let outcome = loop {
            let Err(error) = do_call(&self.shared.client, call).await else { break Outcome::Done };
            if let Some(outcome) = said(&error) {
                break outcome;
            }
            tracing::debug!(node = %self.node.node, %error, "a node's write waits for the API");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        };
        self.count(match &outcome {
            Outcome::Done => "done",
            Outcome::Never(_) => "refused",
            Outcome::Later(_) => "later",
        });
        outcome
    }

    fn count(&self, result: &str) {
        self.shared.metrics.writes.with_label_values(&[result]).inc();
    }

    /// The UID of the node's Node. A member whose Node was deleted gets a new one, for nobody but joining would
    /// make one: what it says of itself every few seconds brings it back.
    async fn node_uid(&self) -> Result<String, String> {
        let mut pause = MIN_PAUSE;
        loop {
            if let Some(uid) = self.shared.cache.node_uid(self.node.node.as_str()) {
                return Ok(uid);
            }
            match self.shared.join.register(&self.node.node).await {
                Ok(uid) => return Ok(uid),
                Err(failure) if failure.code != 503 => return Err(failure.message),
                Err(failure) => {
                    tracing::debug!(node = %self.node.node, %failure, "making its Node anew waits for the API");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn wait_for_token(&mut self) {
        let now = Instant::now();
        self.tokens = (self.tokens + (now - self.filled).as_secs_f64() * RATE).min(BURST) - 1.0;
        self.filled = now;
        if self.tokens < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.tokens / RATE)).await;
        }
    }
}

/// What the API made of a call.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// It was done, or nothing is left to do.
    Done,
    /// It will never be done, and why.
    Never(String),
    /// It may be done later, and what the API said now.
    Later(String),
}

/// What the API said on a call that it did not do; `None` where that is nothing about the call.
fn said(error: &kube::Error) -> Option<Outcome> {
    let kube::Error::Api(status) = error else { return None };
    let reason = status.message.clone();
    match status.code {
        401 | 429 => None,
        403 if !in_ending_namespace(status) => Some(Outcome::Later(reason)),
        409 if status.reason == "AlreadyExists" => Some(Outcome::Never(reason)),
        409 | 500 => Some(Outcome::Later(reason)),
        ..500 => Some(Outcome::Never(reason)),
        _ => None,
    }
}

/// Whether the namespace is being terminated: nothing can be created in it any more.
fn in_ending_namespace(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

fn is_about_the_node(write: &Write) -> bool {
    match write {
        Write::Status { kind, .. } => kind == NODE.kind,
        Write::Lease { .. } | Write::NodeAnnotations { .. } => true,
        _ => false,
    }
}

async fn do_call(client: &kube::Client, call: &Call) -> Result<(), kube::Error> {
    match call {
        Call::Patch { path, body } => {
            gone_is_done(send(client, Method::PATCH, path, MERGE_PATCH, body).await)
        }
        Call::Delete { path, uid } => {
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
                "preconditions": {"uid": uid}});
            gone_is_done(send(client, Method::DELETE, path, JSON, &options).await)
        }
        Call::Upsert { collection, name, patch, create } => {
            let path = format!("{collection}/{name}");
            match send(client, Method::PATCH, &path, MERGE_PATCH, patch).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    send(client, Method::POST, collection, JSON, create).await
                }
                other => other,
            }
        }
        Call::Create { collection, name, object } => {
            match send(client, Method::POST, collection, JSON, object).await {
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    let path = format!("{collection}/{name}");
                    let known = request(client, Method::GET, &path, JSON, &Value::Null).await;
                    if known.as_ref().is_ok_and(|known| !is_the_same_event(known, object)) {
                        // An object of that name which this node has not made, and never may have.
                        let reason = "AlreadyExists".to_owned();
                        return Err(kube::Error::Api(Status { reason, ..*status }.boxed()));
                    }
                    gone_is_done(known.map(drop))?;
                    gone_is_done(send(client, Method::PATCH, &path, MERGE_PATCH, object).await)
                }
                other => other,
            }
        }
    }
}

/// Whether both tell of the same object and come from the same node.
fn is_the_same_event(known: &Value, object: &Value) -> bool {
    ["/involvedObject/kind", "/involvedObject/name", "/involvedObject/uid", "/source/host"]
        .iter()
        .all(|field| known.pointer(field) == object.pointer(field))
}

/// The object is gone, or another one has its name: there is nothing left to write. A conflict of versions is none
/// of that: the API gave up among other writers, and the write is tried again.
fn gone_is_done(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 || is_of_another(&status) => Ok(()),
        other => other,
    }
}

/// Whether the API says that the object of this name has another UID.
fn is_of_another(status: &Status) -> bool {
    status.code == 409 && status.message.to_ascii_lowercase().contains("uid")
}

async fn send(
    client: &kube::Client,
    method: Method,
    path: &str,
    media: &str,
    body: &Value,
) -> Result<(), kube::Error> {
    request(client, method, path, media, body).await.map(drop)
}

/// One request of the API with a JSON body, none where that is null, and its answer.
pub(super) async fn request(
    client: &kube::Client,
    method: Method,
    path: &str,
    media: &str,
    body: &Value,
) -> Result<Value, kube::Error> {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, media)
        .header(http::header::ACCEPT, JSON)
        .body(body)
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(code: u16, cause: &str) -> Option<Outcome> {
        let status = json!({"status": "Failure", "message": "no", "code": code,
            "details": {"causes": [{"reason": cause, "message": "", "field": ""}]}});
        said(&kube::Error::Api(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn an_object_with_another_uid_leaves_nothing_to_write_and_a_conflict_does() {
        let on = |code: u16, message: &str| {
            let status = json!({"status": "Failure", "message": message, "code": code});
            gone_is_done(Err(kube::Error::Api(serde_json::from_value(status).unwrap()))).is_ok()
        };
        assert!(on(404, "pods \"web\" not found"));
        let other = "Operation cannot be fulfilled on pods \"web\": Precondition failed: UID in precondition: a, UID in object meta: b";
        assert!(on(409, other));
        let modified = "Operation cannot be fulfilled on pods \"web\": the object has been modified; please apply your changes to the latest version and try again";
        assert!(!on(409, modified));
    }

    #[test]
    fn only_what_no_time_mends_is_refused_for_good() {
        let (never, later) = (|| Some(Outcome::Never("no".into())), || Some(Outcome::Later("no".into())));
        for (code, cause, expected) in [
            (400, "", never()),
            (401, "", None),
            (403, "", later()),
            (403, "NamespaceTerminating", never()),
            (404, "", never()),
            (409, "", later()),
            (422, "", never()),
            (429, "", None),
            (500, "", later()),
            (503, "", None),
            (504, "", None),
        ] {
            assert_eq!(on(code, cause), expected, "{code} {cause}");
        }
    }
}
