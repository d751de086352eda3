//! What the published types say of merging and the Rust types do not: `x-kubernetes-list-type`,
//! `-list-map-keys`, `-patch-strategy`, `-patch-merge-key` and `-map-type`, as facts of the API.

use serde_json::{Value, json};

use super::ListKind;

/// How a list field merges: keys of the list map (for server-side apply), and the merge key (for
/// strategic merge patches).
pub(super) struct ListFact {
    pub(super) kind: ListKind,
    pub(super) patch_merge_key: Option<&'static str>,
    pub(super) retain_keys: bool,
}

/// (type, field, list-map keys, merge key of patches or `-`). An empty merge key joins scalars; a list
/// map without keys is a set.
const LISTS: &[(&str, &str, &str, &str)] = &[
    ("DeploymentStatus", "conditions", "type", "type"),
    ("ReplicaSetStatus", "conditions", "type", "type"),
    ("CertificateSigningRequestStatus", "conditions", "type", "-"),
    ("Container", "env", "name", "name"),
    ("Container", "ports", "containerPort,protocol", "containerPort"),
    ("Container", "volumeDevices", "devicePath", "devicePath"),
    ("Container", "volumeMounts", "mountPath", "mountPath"),
    ("EphemeralContainer", "env", "name", "name"),
    ("EphemeralContainer", "ports", "containerPort,protocol", "containerPort"),
    ("EphemeralContainer", "volumeDevices", "devicePath", "devicePath"),
    ("EphemeralContainer", "volumeMounts", "mountPath", "mountPath"),
    ("ContainerRestartRuleOnExitCodes", "values", "", "-"),
    ("ContainerStatus", "allocatedResourcesStatus", "name", "name"),
    ("ContainerStatus", "volumeMounts", "mountPath", "mountPath"),
    ("NamespaceStatus", "conditions", "type", "type"),
    ("NodeSpec", "podCIDRs", "", ""),
    ("NodeStatus", "addresses", "type", "type"),
    ("NodeStatus", "conditions", "type", "type"),
    ("PodSpec", "containers", "name", "name"),
    ("PodSpec", "ephemeralContainers", "name", "name"),
    ("PodSpec", "hostAliases", "ip", "ip"),
    ("PodSpec", "imagePullSecrets", "name", "name"),
    ("PodSpec", "initContainers", "name", "name"),
    ("PodSpec", "resourceClaims", "name", "name"),
    ("PodSpec", "schedulingGates", "name", "name"),
    ("PodSpec", "topologySpreadConstraints", "topologyKey,whenUnsatisfiable", "topologyKey"),
    ("PodSpec", "volumes", "name", "name"),
    ("PodStatus", "conditions", "type", "type"),
    ("PodStatus", "podIPs", "ip", "ip"),
    ("PodStatus", "resourceClaimStatuses", "name", "name"),
    ("ResourceRequirements", "claims", "name", "-"),
    ("ResourceStatus", "resources", "resourceID", "-"),
    ("ServiceAccount", "secrets", "name", "name"),
    ("ServiceSpec", "ports", "port,protocol", "port"),
    ("ServiceStatus", "conditions", "type", "type"),
    ("Endpoint", "addresses", "", "-"),
    ("CustomResourceDefinitionStatus", "conditions", "type", "-"),
    ("JSONSchemaProps", "x-kubernetes-validations", "rule", "rule"),
    ("ObjectMeta", "finalizers", "", ""),
    ("ObjectMeta", "ownerReferences", "uid", "uid"),
];

/// Atomic for server-side apply, yet merged by key in strategic merge patches.
const ATOMIC_BUT_MERGED: &[(&str, &str, &str)] = &[("PodStatus", "hostIPs", "ip")];

/// Lists of unions: a patched item keeps only the keys that the patch names.
const RETAIN_KEYS: &[(&str, &str)] =
    &[("PodSpec", "volumes"), ("PodSpec", "resourceClaims"), ("PodStatus", "resourceClaimStatuses")];

/// Fields that are maps or objects, replaced as a whole.
const ATOMIC_FIELDS: &[(&str, &str)] = &[("PodSpec", "nodeSelector"), ("ServiceSpec", "selector")];

/// Types that are replaced as a whole.
const ATOMIC_TYPES: &[&str] = &[
    "ConfigMapKeySelector",
    "EndpointAddress",
    "EndpointPort",
    "FileKeySelector",
    "LocalObjectReference",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ObjectReference",
    "ResourceFieldSelector",
    "ScopeSelector",
    "SecretKeySelector",
    "SecretReference",
    "TypedLocalObjectReference",
    "RoleRef",
    "Subject",
    "LabelSelector",
    "OwnerReference",
];

/// Types whose JSON may be anything, though they are published as objects.
const ANYTHING: &[&str] =
    &["JSON", "RawExtension", "FieldsV1", "JSONSchemaPropsOrArray", "JSONSchemaPropsOrBool"];

/// How a list field of a built-in type merges: replaced as a whole unless the table says otherwise.
pub(super) fn list(type_name: &str, field: &str) -> ListFact {
    let retain_keys = RETAIN_KEYS.contains(&(type_name, field));
    let merged = ATOMIC_BUT_MERGED.iter().find(|(name, of, _)| (*name, *of) == (type_name, field));
    if let Some((_, _, key)) = merged {
        return ListFact { kind: ListKind::Atomic, patch_merge_key: Some(key), retain_keys };
    }
    let Some((_, _, keys, merge)) = LISTS.iter().find(|(name, of, ..)| (*name, *of) == (type_name, field))
    else {
        return ListFact { kind: ListKind::Atomic, patch_merge_key: None, retain_keys };
    };
    let kind = match *keys {
        "" => ListKind::Set,
        keys => ListKind::Map(keys.split(',').map(Box::from).collect()),
    };
    ListFact { kind, patch_merge_key: (*merge != "-").then_some(*merge), retain_keys }
}

/// Whether server-side apply replaces objects of a type as a whole.
pub(super) fn is_atomic_type(type_name: &str) -> bool {
    ATOMIC_TYPES.contains(&type_name)
}

/// Whether server-side apply replaces a map field as a whole.
pub(super) fn is_atomic_field(type_name: &str, field: &str) -> bool {
    ATOMIC_FIELDS.contains(&(type_name, field))
}

/// Whether values of a type are opaque.
pub(super) fn is_anything(type_name: &str) -> bool {
    ANYTHING.contains(&type_name)
}

/// What the published document says of merging at a field of a built-in type, as OpenAPI extensions.
pub(crate) fn extensions(type_name: &str, field: &str, is_list: bool) -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    if is_atomic_field(type_name, field) {
        all.push(("x-kubernetes-map-type", json!("atomic")));
    }
    if (type_name, field) == ("DeploymentSpec", "strategy") {
        all.push(("x-kubernetes-patch-strategy", json!("retainKeys")));
    }
    if !is_list {
        return all;
    }
    let fact = list(type_name, field);
    match &fact.kind {
        ListKind::Atomic => all.push(("x-kubernetes-list-type", json!("atomic"))),
        ListKind::Set => all.push(("x-kubernetes-list-type", json!("set"))),
        ListKind::Map(keys) => {
            all.push(("x-kubernetes-list-type", json!("map")));
            all.push(("x-kubernetes-list-map-keys", json!(keys)));
        }
    }
    if let Some(key) = fact.patch_merge_key {
        let strategy = if fact.retain_keys { "merge,retainKeys" } else { "merge" };
        all.push(("x-kubernetes-patch-strategy", json!(strategy)));
        if !key.is_empty() {
            all.push(("x-kubernetes-patch-merge-key", json!(key)));
        }
    }
    all
}
