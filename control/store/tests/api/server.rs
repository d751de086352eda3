//! A server of a test's own, and requests to it.

use std::time::Duration;

use edgeloom_store::{ApiServer, ServerConfig};
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

pub(crate) const JSON: &str = "application/json";
pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// A running server with its data, and a client of an administrator.
pub(crate) struct Server {
    pub(crate) api: ApiServer,
    pub(crate) admin: Client,
    pub(crate) dir: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = ServerConfig::new(dir.path(), "127.0.0.1:0".parse().unwrap());
        let api = ApiServer::start(config, &prometheus::Registry::new()).await.unwrap();
        let admin = client(&api.admin_kubeconfig().unwrap()).await;
        Self { api, admin, dir }
    }

    pub(crate) async fn user(&self, name: &str, groups: &[&str]) -> Client {
        client(&self.api.kubeconfig_for(name, groups).unwrap()).await
    }

    pub(crate) async fn stop(self) {
        drop(self.admin);
        self.api.shutdown(Duration::from_secs(5)).await;
    }
}

pub(crate) async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// A request with a body of the content type; the code and the JSON (or text) of the answer.
pub(crate) async fn send(
    client: &Client,
    method: &str,
    path: &str,
    content_type: &str,
    body: impl Into<Vec<u8>>,
) -> (StatusCode, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .body(Body::from(body.into()))
        .unwrap();
    let response = client.send(request).await.unwrap();
    let code = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let value = serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
    (code, value)
}

pub(crate) async fn get(client: &Client, path: &str) -> (StatusCode, Value) {
    send(client, "GET", path, JSON, "").await
}

pub(crate) async fn post(client: &Client, path: &str, body: &Value) -> (StatusCode, Value) {
    send(client, "POST", path, JSON, body.to_string()).await
}

pub(crate) fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
