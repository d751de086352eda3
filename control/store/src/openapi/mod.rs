//! The OpenAPI documents: version 3 as JSON, one for each group and version, and version 2 as the
//! protobuf message that kubectl reads. Both are made from the declarations of the kinds when they are
//! asked for, and only their bytes are kept.

mod gnostic;
mod paths;
mod schemas;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use prost::Message as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::kinds::{KindDef, Registry};

/// Media type of the version 2 document as protobuf: the only form of it that kubectl asks for.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// The same media type without the `@`, which clients' parsers of answers refuse: what the real server
/// answers with.
pub const V2_PROTOBUF_ANSWER: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Makes the documents of the kinds in a registry, and keeps them while the kinds stay the same.
pub struct Documents {
    registry: Registry,
    kept: Mutex<HashMap<String, (String, Bytes)>>,
}

/// Which document: 2 has one, 3 one for each group and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    V2,
    V3,
}

impl Documents {
    pub fn new(registry: Registry) -> Self {
        Self { registry, kept: Mutex::default() }
    }

    /// The version 2 document, as JSON.
    pub fn v2_json(&self) -> Bytes {
        let kinds = self.registry.all();
        self.keep("v2.json", &hash(&kinds), || Bytes::from(v2(&kinds).to_string()))
    }

    /// The version 2 document, as protobuf.
    pub fn v2_protobuf(&self) -> Bytes {
        let kinds = self.registry.all();
        let encode = || Bytes::from(gnostic::document(&v2(&kinds)).encode_to_vec());
        self.keep("v2.pb", &hash(&kinds), encode)
    }

    /// `/openapi/v3`: where the documents are, with a hash by which they can be kept for ever.
    pub fn v3_index(&self) -> Value {
        let core = [(String::new(), "v1".to_owned())];
        let others = self.registry.groups().into_iter().flat_map(|group| {
            let name = group.name;
            group.versions.into_iter().map(move |version| (name.clone(), version))
        });
        let entry = |(group, version): (String, String)| {
            let path =
                if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
            let hash = hash(&self.registry.in_version(&group, &version));
            (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}))
        };
        let paths: Map<String, Value> = core.into_iter().chain(others).map(entry).collect();
        json!({"paths": paths})
    }

    /// The version 3 document of a group and version, and its hash; none if nothing of it is served.
    pub fn v3(&self, group: &str, version: &str) -> Option<(Bytes, String)> {
        let kinds = self.registry.in_version(group, version);
        if kinds.is_empty() {
            return None;
        }
        let hash = hash(&kinds);
        let document =
            self.keep(&format!("v3/{group}/{version}"), &hash, || Bytes::from(v3(&kinds).to_string()));
        Some((document, hash))
    }

    fn keep(&self, key: &str, hash: &str, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, bytes)) = kept.get(key)
            && of == hash
        {
            return bytes.clone();
        }
        let bytes = make();
        kept.insert(key.to_owned(), (hash.to_owned(), bytes.clone()));
        bytes
    }
}

/// Changes when a document of these kinds would.
fn hash(kinds: &[Arc<KindDef>]) -> String {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    for kind in kinds {
        hash.update(format!("{}/{}/{}", kind.group, kind.version, kind.kind));
        if let Some(structural) = &kind.custom {
            hash.update(structural.document().to_string());
        }
    }
    hex::encode_upper(hash.finalize())
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.34.0"})
}

fn v2(kinds: &[Arc<KindDef>]) -> Value {
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths::of(kinds, Style::V2),
        "definitions": schemas::of(kinds, Style::V2),
    })
}

fn v3(kinds: &[Arc<KindDef>]) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths::of(kinds, Style::V3),
        "components": {"schemas": schemas::of(kinds, Style::V3)},
    })
}

/// Group, version and kind, as the extension `x-kubernetes-group-version-kind` has them.
fn identity(kind: &KindDef) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubectl_looks_up() {
        let documents = Documents::new(Registry::built_in());
        let index = documents.v3_index();
        assert!(index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().contains("?hash="));
        let (bytes, _) = documents.v3("apps", "v1").unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        let names: Vec<&Value> =
            patch["parameters"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert!(names.contains(&&json!("fieldValidation")) && names.contains(&&json!("dryRun")));
        let schemas = &document["components"]["schemas"];
        let deployment = &schemas["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(deployment["x-kubernetes-group-version-kind"][0]["kind"], "Deployment");
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert!(schemas.get("io.k8s.api.core.v1.Node").is_none(), "only what the group refers to");
        assert!(documents.v3("apps", "v9").is_none());
    }

    #[test]
    fn no_reference_dangles() {
        let documents = Documents::new(Registry::built_in());
        let v2: Value = serde_json::from_slice(&documents.v2_json()).unwrap();
        let mut found = Vec::new();
        crate::schema::references(&v2, &mut found);
        assert!(!found.is_empty());
        for name in found {
            assert!(v2["definitions"].get(&name).is_some(), "{name}");
        }
        assert!(documents.v2_protobuf().len() > 100_000);
    }
}
