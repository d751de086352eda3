//! Discovery: which groups, versions, kinds and verbs there are, in the old form (a document a version)
//! and in the aggregated one (two documents in all).

use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::answer::{Response, respond};
use super::{Face, route};
use crate::error::Result;
use crate::kinds::{KindDef, Registry, Subresource};

/// Verbs of `/status` and `/scale`.
pub(super) const STATUS_VERBS: &[&str] = &["get", "patch", "update"];
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers `/api…` and `/apis…`; `None` for other paths.
pub(super) fn answer(face: &Face, request: &Request<Incoming>, path: &str) -> Result<Option<Response>> {
    let registry = face.store.registry();
    let mut parts = path.split('/').skip(1);
    let found = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("api"), None, _, _) if aggregated(request) => return Ok(Some(aggregate(registry, true))),
        (Some("apis"), None, _, _) if aggregated(request) => return Ok(Some(aggregate(registry, false))),
        (Some("api"), None, _, _) => Some(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": face.address.to_string()}],
        })),
        (Some("api"), Some(version), None, _) => resources(registry, "", version),
        (Some("apis"), None, _, _) => {
            let groups: Vec<Value> = registry.groups().iter().map(api_group).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        (Some("apis"), Some(group), None, _) => {
            registry.groups().iter().find(|one| one.name == group).map(|one| {
                let mut document = json!({"kind": "APIGroup", "apiVersion": "v1"});
                if let (Some(document), Value::Object(mut rest)) = (document.as_object_mut(), api_group(one))
                {
                    document.append(&mut rest);
                }
                document
            })
        }
        (Some("apis"), Some(group), Some(version), None) => resources(registry, group, version),
        _ => return Ok(None),
    };
    let Some(document) = found else {
        // A group that is not there is an unknown path, a version that is not there an unknown resource.
        return if path.starts_with("/apis/") && path.matches('/').count() == 2 {
            Ok(None)
        } else {
            Err(route::unknown_resource())
        };
    };
    Ok(Some(respond(StatusCode::OK, "application/json", document.to_string() + "\n")))
}

fn aggregated(request: &Request<Incoming>) -> bool {
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    accept.split(',').any(|range| {
        let has = |wanted: &str| range.split(';').any(|part| part.trim() == wanted);
        has("g=apidiscovery.k8s.io") && has("v=v2") && has("as=APIGroupDiscoveryList")
    })
}

fn api_group(group: &crate::kinds::Group) -> Value {
    let version =
        |version: &String| json!({"groupVersion": format!("{}/{version}", group.name), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "versions": versions, "preferredVersion": versions.first()})
}

/// `APIResourceList` of a version; `None` if there is no such version.
fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let kinds = registry.in_version(group, version);
    let group_version = kinds.first()?.api_version();
    let mut resources: Vec<Value> = kinds.iter().flat_map(legacy).collect();
    resources.sort_by_key(|one| one["name"].as_str().unwrap_or("").to_owned());
    let mut list = json!({"kind": "APIResourceList"});
    if !group.is_empty() {
        list["apiVersion"] = json!("v1");
    }
    list["groupVersion"] = json!(group_version);
    list["resources"] = Value::Array(resources);
    Some(list)
}

fn legacy(kind: &Arc<KindDef>) -> Vec<Value> {
    let mut main = json!({
        "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
        "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        main["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        main["categories"] = json!(kind.categories);
    }
    let subresources = kind.subresources.iter().map(|subresource| {
        let (name, body, verbs) = parts(kind, subresource);
        let mut one = json!({
            "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
        });
        if (body.0.as_str(), body.1.as_str()) != (kind.group.as_str(), kind.version.as_str()) {
            one["group"] = json!(body.0);
            one["version"] = json!(body.1);
        }
        one["kind"] = json!(body.2);
        one["verbs"] = json!(verbs);
        one
    });
    std::iter::once(main).chain(subresources).collect()
}

/// Name, (group, version, kind) of the body, and verbs of a subresource.
fn parts<'a>(
    kind: &KindDef,
    subresource: &'a Subresource,
) -> (&'a str, (String, String, String), &'a [&'static str]) {
    let own = || (kind.group.clone(), kind.version.clone(), kind.kind.clone());
    match subresource {
        Subresource::Status => ("status", own(), STATUS_VERBS),
        Subresource::Scale(_) => ("scale", ("autoscaling".into(), "v1".into(), "Scale".into()), STATUS_VERBS),
        Subresource::Other { name, kind: (_, "", body), verbs } => {
            (name, (kind.group.clone(), kind.version.clone(), (*body).to_owned()), verbs)
        }
        Subresource::Other { name, kind: (group, version, body), verbs } => {
            (name, ((*group).to_owned(), (*version).to_owned(), (*body).to_owned()), verbs)
        }
    }
}

/// `APIGroupDiscoveryList` of `/api` (the core group) or `/apis` (all others).
fn aggregate(registry: &Registry, core: bool) -> Response {
    let groups: Vec<(String, Vec<String>)> = if core {
        vec![(String::new(), vec!["v1".to_owned()])]
    } else {
        registry.groups().into_iter().map(|group| (group.name, group.versions)).collect()
    };
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let mut kinds = registry.in_version(group, version);
                    kinds.sort_by(|a, b| a.plural.cmp(&b.plural));
                    let resources: Vec<Value> = kinds.iter().map(|kind| resource(kind)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if core {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let document = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    let mut response = respond(StatusCode::OK, "application/json", document.to_string() + "\n");
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response
}

fn resource(kind: &KindDef) -> Value {
    // Group and version are said where they are not the resource's own.
    let type_of = |(group, version, name): &(String, String, String)| {
        let own = *group == kind.group && *version == kind.version;
        let (group, version) = if own { ("", "") } else { (group.as_str(), version.as_str()) };
        json!({"group": group, "version": version, "kind": name})
    };
    let mut resource = json!({
        "resource": kind.plural,
        "responseKind": type_of(&(kind.group.clone(), kind.version.clone(), kind.kind.clone())),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular, "verbs": kind.verbs,
    });
    if !kind.short_names.is_empty() {
        resource["shortNames"] = json!(kind.short_names);
    }
    if !kind.categories.is_empty() {
        resource["categories"] = json!(kind.categories);
    }
    let subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|subresource| {
            let (name, body, verbs) = parts(kind, subresource);
            json!({"subresource": name, "responseKind": type_of(&body), "verbs": verbs})
        })
        .collect();
    if !subresources.is_empty() {
        resource["subresources"] = Value::Array(subresources);
    }
    resource
}
