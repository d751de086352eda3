//! The types of Kubernetes' own kinds, from `k8s-openapi`, read once when first needed.

use std::collections::HashMap;
use std::sync::LazyLock;

use k8s_openapi::api::{apps, authentication, authorization, autoscaling, certificates, coordination};
use k8s_openapi::api::{core, discovery, events, policy, rbac};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::{Node, openapi};

static DEFINITIONS: LazyLock<HashMap<String, Node>> = LazyLock::new(|| {
    let convert = |(name, schema): (String, Value)| {
        let type_name = name.rsplit('.').next().unwrap_or("").to_owned();
        let node = openapi::node(&schema, &type_name, "");
        (name, node)
    };
    documents().into_iter().map(convert).collect()
});

/// The node of a definition. Names come from declarations and from the definitions themselves, so an
/// unknown one is a fault of this crate; it reads as a value of which nothing is known.
pub(super) fn definition(name: &str) -> &'static Node {
    static UNKNOWN: Node = Node::Any;
    debug_assert!(DEFINITIONS.contains_key(name), "no definition {name}");
    DEFINITIONS.get(name).unwrap_or(&UNKNOWN)
}

/// Every definition as JSON Schema, descriptions included: large, so made anew when asked for.
pub(crate) fn documents() -> Map<String, Value> {
    let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
    macro_rules! add {
        ($($name:ty),* $(,)?) => { $( generator.subschema_for::<$name>(); )* };
    }
    add!(
        core::v1::Namespace,
        core::v1::Node,
        core::v1::Pod,
        core::v1::Service,
        core::v1::Endpoints,
        core::v1::ConfigMap,
        core::v1::Secret,
        core::v1::ServiceAccount,
        core::v1::Event,
        core::v1::Binding,
        apps::v1::Deployment,
        apps::v1::ReplicaSet,
        events::v1::Event,
        discovery::v1::EndpointSlice,
        coordination::v1::Lease,
        certificates::v1::CertificateSigningRequest,
        apiextensions::v1::CustomResourceDefinition,
        rbac::v1::Role,
        rbac::v1::ClusterRole,
        rbac::v1::RoleBinding,
        rbac::v1::ClusterRoleBinding,
        authentication::v1::TokenRequest,
        authentication::v1::TokenReview,
        authentication::v1::SelfSubjectReview,
        authorization::v1::SubjectAccessReview,
        authorization::v1::SelfSubjectAccessReview,
        authorization::v1::SelfSubjectRulesReview,
        authorization::v1::LocalSubjectAccessReview,
        autoscaling::v1::Scale,
        policy::v1::Eviction,
        meta::DeleteOptions,
        meta::ListMeta,
        meta::Status,
        meta::APIResourceList,
    );
    let mut definitions = generator.take_definitions(true);
    for schema in definitions.values_mut() {
        complete(schema);
    }
    definitions
}

/// Arrays of anything and empty schemas stay as they are; `true` as a schema becomes an empty one.
fn complete(schema: &mut Value) {
    match schema {
        Value::Bool(true) => *schema = Value::Object(Map::new()),
        Value::Array(items) => items.iter_mut().for_each(complete),
        Value::Object(map) => {
            for (name, inner) in map.iter_mut() {
                // Only schemas: a boolean elsewhere is a value.
                if !matches!(inner, Value::Bool(_))
                    || matches!(name.as_str(), "items" | "additionalProperties")
                {
                    complete(inner);
                }
            }
        }
        _ => {}
    }
}

/// The definitions that a schema refers to, directly.
pub(crate) fn references(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (name, inner) in map {
                match inner {
                    Value::String(target) if name == "$ref" => {
                        found.push(target.rsplit('/').next().unwrap_or("").to_owned());
                    }
                    _ => references(inner, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use crate::schema::{ListKind, Scalar};

    #[test]
    fn every_reference_leads_somewhere() {
        let documents = documents();
        for (name, schema) in &documents {
            let mut found = Vec::new();
            references(schema, &mut found);
            for target in found {
                assert!(documents.contains_key(&target), "{name} refers to {target}");
            }
        }
        for kind in Registry::built_in().all() {
            assert!(matches!(kind.schema.root(), Node::Object(_)), "{kind:?}");
        }
    }

    #[test]
    fn merge_facts_are_found() {
        let pod = definition("io.k8s.api.core.v1.Pod");
        let spec = pod.field("spec").unwrap();
        let containers = spec.field("containers").unwrap().list().unwrap();
        assert_eq!(containers.patch_merge_key.as_deref(), Some("name"));
        let ports = containers.items.field("ports").unwrap().list().unwrap();
        assert_eq!(ports.kind, ListKind::Map(vec!["containerPort".into(), "protocol".into()]));
        let cpu = containers.items.field("resources").unwrap().field("limits").unwrap().field("cpu").unwrap();
        assert_eq!(*cpu.resolve(), Node::Scalar(Scalar::Quantity));
        assert!(spec.field("nodeSelector").unwrap().is_atomic());
        assert!(!spec.field("volumes").unwrap().is_atomic());
    }
}
