//! The objects that a cluster starts with. What is there already stays as it is, but for those that
//! describe this server.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::ServerConfig;
use crate::auth::bootstrap::{cluster_role_bindings, cluster_roles};
use crate::db::{Part, Store, WriteOptions};
use crate::error::{Error, Reason, Result};
use crate::{KindDef, apply};

const NAMESPACES: [&str; 5] =
    ["default", "kube-system", "kube-public", "kube-node-lease", edgeloom_api::names::SYSTEM_NAMESPACE];

/// Makes what is missing.
pub(super) async fn run(
    store: &Store,
    config: &ServerConfig,
    address: SocketAddr,
    ca_pem: &str,
) -> Result<()> {
    for name in NAMESPACES {
        make(store, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).await?;
    }
    for object in cluster_roles().iter().chain(&cluster_role_bindings()) {
        make(store, object).await?;
    }
    put(store, &authentication(ca_pem)).await?;
    put(store, &reader_of_authentication()).await?;
    make(store, &service(config, address)).await?;
    if address.ip().is_loopback() || address.ip().is_unspecified() {
        // No pod could reach the server there, and such endpoints are refused.
        return Ok(());
    }
    put(store, &slice(address)).await?;
    put(store, &endpoints(address)).await
}

/// How extension servers know the clients of this one.
fn authentication(ca_pem: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": ca_pem},
    })
}

/// The Role by which extension servers are let read it.
fn reader_of_authentication() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "extension-apiserver-authentication-reader", "namespace": "kube-system"},
        "rules": [{
            "apiGroups": [""], "resources": ["configmaps"],
            "resourceNames": ["extension-apiserver-authentication"], "verbs": ["get", "list", "watch"],
        }],
    })
}

/// The Service `kubernetes`, at the first address of the range.
fn service(config: &ServerConfig, address: SocketAddr) -> Value {
    let mut spec = json!({
        "type": "ClusterIP", "sessionAffinity": "None",
        "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": address.port()}],
    });
    if let Some(range) = config.service_cidrs.first() {
        spec["clusterIP"] = json!(first_address(range.network()).to_string());
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": spec,
    })
}

fn slice(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
    })
}

fn endpoints(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": address.ip().to_string()}],
            "ports": [{"name": "https", "port": address.port(), "protocol": "TCP"}],
        }],
    })
}

/// The first address after a network's own: that of the Service `kubernetes`.
pub(super) fn first_address(network: IpAddr) -> IpAddr {
    match network {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) + 1).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) + 1).into()),
    }
}

/// Creates the object if there is none of its name.
async fn make(store: &Store, object: &Value) -> Result<()> {
    let (kind, namespace) = place(store, object)?;
    match store.create(&kind, &namespace, object.clone(), &as_server()).await {
        Err(error) if error.reason() != Reason::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Creates the object, or makes the one of its name say the same.
async fn put(store: &Store, object: &Value) -> Result<()> {
    let (kind, namespace) = place(store, object)?;
    let name = object["metadata"]["name"].as_str().unwrap_or("");
    let change = |old: &Value| {
        let mut new = old.clone();
        for (field, value) in
            object.as_object().into_iter().flatten().filter(|(field, _)| *field != "metadata")
        {
            new[field] = value.clone();
        }
        Ok(new)
    };
    let options = as_server();
    match store.modify(&kind, &namespace, name, Part::Main, &options, change).await {
        Err(error) if error.is_not_found() => make(store, object).await,
        modified => modified.map(drop),
    }
}

/// Its own objects are the server's.
fn as_server() -> WriteOptions {
    let now = OffsetDateTime::now_utc();
    WriteOptions {
        track: Some(apply::tracker("kube-apiserver".to_owned(), String::new(), now)),
        ..WriteOptions::default()
    }
}

fn place(store: &Store, object: &Value) -> Result<(Arc<KindDef>, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let found = store.registry().find_kind(&api_version, &kind);
    let undeclared = || Error::internal(format_args!("the kind {kind} of {api_version} is not declared"));
    Ok((found.ok_or_else(undeclared)?, text(&object["metadata"]["namespace"])))
}
