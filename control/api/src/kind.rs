//! The Kubernetes kinds that cross a boundary between programs, by group, version and plural.

use std::fmt;

/// What identifies a kind on the API: enough to build its paths and to recognise its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// API group, empty for the core group.
    pub group: &'static str,
    /// Version within the group, such as `v1`.
    pub version: &'static str,
    /// CamelCase name, as in an object's `kind`.
    pub kind: &'static str,
    /// Lower-case plural, as in the API's paths.
    pub plural: &'static str,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
}

impl Kind {
    /// `apiVersion` of the kind's objects: `v1` or `group/version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Path of a collection, or of one object if `name` is given, on the Kubernetes API.
    /// `namespace` is ignored for kinds that have none; empty means all namespaces.
    pub fn path(&self, namespace: &str, name: Option<&str>) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if self.namespaced && !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(self.plural);
        if let Some(name) = name {
            path.push('/');
            path.push_str(name);
        }
        path
    }

    /// The known kind with this `apiVersion` and `kind`, if it is one of [`ALL`].
    pub fn find(api_version: &str, kind: &str) -> Option<&'static Kind> {
        ALL.iter().copied().find(|known| known.kind == kind && known.api_version() == api_version)
    }
}

impl fmt::Display for Kind {
    /// `pods` or `deployments.apps`, as kubectl writes a resource.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        Ok(())
    }
}

macro_rules! kinds {
    ($($name:ident = $group:literal $version:literal $kind:literal $plural:literal $namespaced:literal;)*) => {
        $(
            #[doc = concat!("`", $kind, "` (", $plural, ").")]
            pub static $name: Kind = Kind {
                group: $group, version: $version, kind: $kind, plural: $plural, namespaced: $namespaced,
            };
        )*
        /// Every kind named in this module.
        pub static ALL: &[&Kind] = &[$(&$name),*];
    };
}

kinds! {
    NAMESPACE = "" "v1" "Namespace" "namespaces" false;
    NODE = "" "v1" "Node" "nodes" false;
    POD = "" "v1" "Pod" "pods" true;
    SERVICE = "" "v1" "Service" "services" true;
    ENDPOINTS = "" "v1" "Endpoints" "endpoints" true;
    CONFIG_MAP = "" "v1" "ConfigMap" "configmaps" true;
    SECRET = "" "v1" "Secret" "secrets" true;
    SERVICE_ACCOUNT = "" "v1" "ServiceAccount" "serviceaccounts" true;
    EVENT = "" "v1" "Event" "events" true;
    ENDPOINT_SLICE = "discovery.k8s.io" "v1" "EndpointSlice" "endpointslices" true;
    LEASE = "coordination.k8s.io" "v1" "Lease" "leases" true;
    DEPLOYMENT = "apps" "v1" "Deployment" "deployments" true;
    REPLICA_SET = "apps" "v1" "ReplicaSet" "replicasets" true;
    CERTIFICATE_SIGNING_REQUEST = "certificates.k8s.io" "v1" "CertificateSigningRequest" "certificatesigningrequests" false;
    CUSTOM_RESOURCE_DEFINITION = "apiextensions.k8s.io" "v1" "CustomResourceDefinition" "customresourcedefinitions" false;
    EDGE_NODE = "edgeloom.io" "v1alpha1" "EdgeNode" "edgenodes" false;
    REVOCATION = "edgeloom.io" "v1alpha1" "Revocation" "revocations" false;
    SITE = "edgeloom.io" "v1alpha1" "Site" "sites" false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        assert_eq!(POD.path("shop", Some("web")), "/api/v1/namespaces/shop/pods/web");
        assert_eq!(POD.path("", None), "/api/v1/pods");
        assert_eq!(NODE.path("ignored", Some("a")), "/api/v1/nodes/a");
        assert_eq!(
            LEASE.path("kube-node-lease", None),
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        );
    }

    #[test]
    fn found_by_what_an_object_says_of_itself() {
        assert_eq!(Kind::find("v1", "Pod"), Some(&POD));
        assert_eq!(Kind::find("discovery.k8s.io/v1", "EndpointSlice"), Some(&ENDPOINT_SLICE));
        assert_eq!(Kind::find("v2", "Pod"), None);
        assert_eq!(DEPLOYMENT.to_string(), "deployments.apps");
    }
}
