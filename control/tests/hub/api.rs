//! A Kubernetes API in memory, as far as the hub and joining need one: lists, watches, versions, merge patches.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Handle; clones share the objects.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// By path of the object.
    objects: BTreeMap<String, Value>,
    /// Version, collection with namespaces cut out, and the event.
    log: Vec<(u64, String, Value)>,
    version: u64,
    down: bool,
    /// Path and HTTP status of writes that are refused.
    refused: Option<(String, u16)>,
    /// How many were.
    refusals: u64,
}

type Answer = Response<StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>>;

impl Api {
    pub fn new() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), version: watch::Sender::new(0) }))
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Whether every request fails, as it does while an API server restarts.
    pub fn set_down(&self, down: bool) {
        self.0.state.lock().unwrap().down = down;
    }

    /// Writes to paths that begin with `prefix` are refused with `code`, until the next call.
    pub fn refuse_writes(&self, refused: Option<(&str, u16)>) {
        self.0.state.lock().unwrap().refused = refused.map(|(prefix, code)| (prefix.to_owned(), code));
    }

    /// Writes that were refused so.
    pub fn refusals(&self) -> u64 {
        self.0.state.lock().unwrap().refusals
    }

    fn refusal(&self, path: &str) -> Option<u16> {
        let mut state = self.0.state.lock().unwrap();
        let (_, code) = state.refused.clone().filter(|(prefix, _)| path.starts_with(prefix))?;
        state.refusals += 1;
        Some(code)
    }

    /// Creates or replaces the object at `path`, and gives it a version.
    pub fn put(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.0.state.lock().unwrap();
        state.version += 1;
        let version = state.version;
        let old = state.objects.get(path).map(|old| old["metadata"]["uid"].clone());
        let uid = old.unwrap_or_else(|| json!(format!("uid-{version}")));
        object["metadata"]["uid"] = uid;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        state.record(path, "MODIFIED", &object);
        state.objects.insert(path.to_owned(), object.clone());
        drop(state);
        self.0.version.send_replace(version);
        object
    }

    pub fn delete(&self, path: &str) -> Option<Value> {
        let mut state = self.0.state.lock().unwrap();
        let object = state.objects.remove(path)?;
        state.version += 1;
        let version = state.version;
        state.record(path, "DELETED", &object);
        drop(state);
        self.0.version.send_replace(version);
        Some(object)
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.state.lock().unwrap().objects.get(path).cloned()
    }

    /// Objects whose path begins with `prefix`.
    pub fn list(&self, prefix: &str) -> Vec<Value> {
        let state = self.0.state.lock().unwrap();
        state
            .objects
            .iter()
            .filter(|(path, _)| path.starts_with(prefix))
            .map(|(_, object)| object.clone())
            .collect()
    }

    async fn serve(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        if self.0.state.lock().unwrap().down {
            return refuse(503, "the API restarts");
        }
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = parts.uri.path();
        let query = parts.uri.query().unwrap_or_default();
        if query.contains("watch=true") {
            return self.watch(path, query);
        }
        if parts.method != Method::GET
            && let Some(code) = self.refusal(path)
        {
            return refuse(code, "this is not allowed");
        }
        match parts.method {
            Method::GET => self.read(path),
            Method::POST => self.create(path, body),
            Method::PUT => self.replace(path, body),
            Method::PATCH => {
                self.patch(path, &body, query.contains("fieldManager") && query.contains("force"))
            }
            Method::DELETE => self.remove(path, &body),
            _ => refuse(405, "no"),
        }
    }

    fn read(&self, path: &str) -> Answer {
        if let Some(object) = self.get(path) {
            return answer(200, &object);
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        // A cluster that serves ServiceCIDRs has one.
        let served = COLLECTIONS.contains(&name) || (name == "servicecidrs" && !self.list(path).is_empty());
        if !served {
            return refuse(404, &format!("{path} not found"));
        }
        let state = self.0.state.lock().unwrap();
        let items: Vec<&Value> = state
            .objects
            .iter()
            .filter(|(object, _)| in_collection(object, path))
            .map(|(_, object)| object)
            .collect();
        let metadata = json!({"resourceVersion": state.version.to_string()});
        answer(200, &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
    }

    fn create(&self, path: &str, object: Value) -> Answer {
        if let Some(account) = path.strip_suffix("/token") {
            return answer(
                201,
                &json!({"kind": "TokenRequest", "status": {"token": format!("token of {account}")}}),
            );
        }
        let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
        if self.get(&path).is_some() {
            return refuse(409, "exists already");
        }
        answer(201, &self.put(&path, object))
    }

    fn replace(&self, path: &str, object: Value) -> Answer {
        let Some(old) = self.get(path) else { return refuse(404, "not found") };
        if old["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return refuse(409, "changed meanwhile");
        }
        answer(200, &self.put(path, object))
    }

    fn patch(&self, path: &str, patch: &Value, apply: bool) -> Answer {
        let path = path.strip_suffix("/status").unwrap_or(path);
        let mut object = match self.get(path) {
            Some(object) => object,
            None if apply => json!({}),
            None => return refuse(404, "not found"),
        };
        let meant = &patch["metadata"]["uid"];
        if meant.is_string() && object["metadata"]["uid"] != *meant {
            return refuse(409, "another UID");
        }
        merge(&mut object, patch);
        if path.starts_with("/api/v1/nodes/") && object["spec"]["podCIDRs"].is_null() {
            // What a controller of the cluster does; joining waits for it.
            object["spec"]["podCIDRs"] = json!(["10.244.1.0/24"]);
        }
        answer(200, &self.put(path, object))
    }

    fn remove(&self, path: &str, options: &Value) -> Answer {
        let meant = &options["preconditions"]["uid"];
        match self.get(path) {
            Some(object) if meant.is_string() && object["metadata"]["uid"] != *meant => {
                refuse(409, "another UID")
            }
            Some(_) => answer(200, &self.delete(path).unwrap_or_default()),
            None => refuse(404, "not found"),
        }
    }

    fn watch(&self, path: &str, query: &str) -> Answer {
        let since = query.split('&').find_map(|field| field.strip_prefix("resourceVersion="));
        let since: u64 = since.and_then(|version| version.parse().ok()).unwrap_or_default();
        let (api, path) = (self.clone(), path.to_owned());
        let changes = self.0.version.subscribe();
        let events = futures::stream::unfold((since, changes), move |(mut since, mut changes)| {
            let (api, path) = (api.clone(), path.clone());
            async move {
                loop {
                    let mut lines = Vec::new();
                    {
                        let state = api.0.state.lock().unwrap();
                        if state.down {
                            return None;
                        }
                        for (version, object, event) in &state.log {
                            if *version > since && in_collection(object, &path) {
                                lines.extend(event.to_string().into_bytes());
                                lines.push(b'\n');
                            }
                        }
                        since = since.max(state.version);
                    }
                    if !lines.is_empty() {
                        return Some((Ok(Frame::data(Bytes::from(lines))), (since, changes)));
                    }
                    changes.changed().await.ok()?;
                }
            }
        });
        Response::new(StreamBody::new(events.boxed()))
    }
}

impl State {
    fn record(&mut self, path: &str, kind: &str, object: &Value) {
        let kind = if kind == "MODIFIED" && !self.objects.contains_key(path) { "ADDED" } else { kind };
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.log.push((self.version, path.to_owned(), json!({"type": kind, "object": object})));
    }
}

const COLLECTIONS: [&str; 11] = [
    "edgenodes",
    "revocations",
    "sites",
    "services",
    "endpointslices",
    "nodes",
    "configmaps",
    "secrets",
    "pods",
    "events",
    "leases",
];

/// Whether the object at `path` is of `collection`, given for all namespaces or for one.
fn in_collection(path: &str, collection: &str) -> bool {
    let Some((parent, _)) = path.rsplit_once('/') else { return false };
    if parent == collection {
        return true;
    }
    let Some((head, plural)) = collection.rsplit_once('/') else { return false };
    let Some(rest) = parent.strip_prefix(head).and_then(|rest| rest.strip_prefix("/namespaces/")) else {
        return false;
    };
    rest.split_once('/').is_some_and(|(_, kind)| kind == plural)
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

fn answer(code: u16, object: &Value) -> Answer {
    let bytes = Bytes::from(object.to_string());
    let body = StreamBody::new(futures::stream::once(async { Ok(Frame::data(bytes)) }).boxed());
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn refuse(code: u16, message: &str) -> Answer {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        _ => "ServiceUnavailable",
    };
    answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code}),
    )
}
