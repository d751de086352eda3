//! Writes of one node: judged, limited in rate, done on the API, and tried again until the API answers.

use std::time::Duration;

use edgeloom_api::hub::Write;
use edgeloom_tunnel::identity::Verified;
use http::{Method, Request};
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
/// Tries of a write that the API takes for its own failure; then it is the write's.
const INTERNAL_ERRORS: u32 = 5;
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

    /// Does `write`, however long that takes. The error is for good: why it will never be done.
    pub(super) async fn write(&mut self, write: Write) -> Result<(), String> {
        self.wait_for_token().await;
        let pod = |namespace: &str, name: &str| self.shared.cache.pod(namespace, name);
        let verdict = judge(self.node.node.as_str(), &self.node.node_uid, write, pod);
        let counted = |result: &str| self.shared.metrics.writes.with_label_values(&[result]).inc();
        match verdict {
            Verdict::Done => {
                counted("gone");
                Ok(())
            }
            Verdict::Refuse(reason) => {
                counted("forbidden");
                Err(reason)
            }
            Verdict::Call(call) => {
                let result = self.until_answered(&call).await;
                counted(if result.is_ok() { "done" } else { "refused" });
                result
            }
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

    async fn until_answered(&self, call: &Call) -> Result<(), String> {
        let (mut pause, mut internal) = (MIN_PAUSE, 0);
        loop {
            let error = match do_call(&self.shared.client, call).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match &error {
                kube::Error::Api(status) if status.code == 500 => internal += 1,
                kube::Error::Api(status) if status.code != 429 && status.code < 500 => {
                    return Err(status.message.clone());
                }
                _ => {}
            }
            if internal >= INTERNAL_ERRORS {
                return Err(error.to_string());
            }
            tracing::debug!(node = %self.node.node, %error, "a node's write waits for the API");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
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
                Err(kube::Error::Api(status)) if status.code == 409 => gone_is_done(
                    send(client, Method::PATCH, &format!("{collection}/{name}"), MERGE_PATCH, object).await,
                ),
                other => other,
            }
        }
    }
}

/// The object is gone, or another one has its name: there is nothing left to write.
fn gone_is_done(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        other => other,
    }
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

/// One request of the API with a JSON body, and its answer.
pub(super) async fn request(
    client: &kube::Client,
    method: Method,
    path: &str,
    media: &str,
    body: &Value,
) -> Result<Value, kube::Error> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, media)
        .header(http::header::ACCEPT, JSON)
        .body(body.to_string().into_bytes())
        .map_err(kube::Error::HttpError)?;
    client.request(request).await
}
