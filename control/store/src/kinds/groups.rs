//! The built-in kinds outside `apps`, group by group, and the little language they are declared in.

use super::cells as cell;
use super::events;
use super::{Column, Conversion, Defaulter, KindDef, Preparer, ScalePaths, Subresource, Validator};
use crate::defaults;
use crate::schema::Schema;
use crate::validate::{self, NameRule};

/// Verbs of every stored kind, sorted.
const ALL_VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// Every built-in kind, in the order in which discovery lists them.
pub(super) fn built_in() -> Vec<KindDef> {
    let mut kinds = core();
    kinds.extend(super::apps::kinds());
    kinds.extend(others());
    kinds.extend(rbac());
    kinds.extend(reviews());
    kinds
}

/// A stored, namespaced kind with every verb and the columns NAME and AGE; the rest is added by the
/// methods below. `schema` is the definition's name.
pub(super) fn kind(group: &str, version: &str, kind: &str, plural: &str, schema: &'static str) -> KindDef {
    let storage = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
    KindDef {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        list_kind: format!("{kind}List"),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        verbs: ALL_VERBS.to_vec(),
        subresources: Vec::new(),
        columns: vec![Column::name(), Column::age()],
        is_virtual: false,
        create_on_update: false,
        unconditional_update: true,
        returns_deleted: false,
        generation: false,
        name_rule: NameRule::Subdomain,
        selectable: Vec::new(),
        schema: Schema::BuiltIn(schema),
        default: |_| {},
        prepare: |_, _| {},
        validate: |_, _, _| {},
        storage,
        conversion: None,
        custom: None,
    }
}

impl KindDef {
    pub(super) fn short(mut self, names: &[&str]) -> Self {
        self.short_names = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    pub(super) fn category(mut self, name: &str) -> Self {
        self.categories.push(name.to_owned());
        self
    }

    pub(super) fn cluster_scoped(mut self) -> Self {
        self.namespaced = false;
        self
    }

    pub(super) fn status(mut self) -> Self {
        self.subresources.push(Subresource::Status);
        self
    }

    /// `/scale` as workloads have it.
    pub(super) fn scaled(mut self) -> Self {
        self.subresources.push(Subresource::Scale(ScalePaths {
            spec_replicas: ".spec.replicas".into(),
            status_replicas: ".status.replicas".into(),
            selector: Some(".spec.selector".into()),
        }));
        self
    }

    /// A subresource of the HTTP face; `body` is empty where it is the kind itself.
    fn sub(
        mut self,
        name: &'static str,
        kind: (&'static str, &'static str, &'static str),
        verbs: &'static [&'static str],
    ) -> Self {
        self.subresources.push(Subresource::Other { name, kind, verbs });
        self
    }

    pub(super) fn columns(mut self, columns: Vec<Column>) -> Self {
        self.columns = columns;
        self
    }

    pub(super) fn select_by(mut self, fields: &[&str]) -> Self {
        self.selectable = fields.iter().map(|&field| field.to_owned()).collect();
        self
    }

    pub(super) fn generation(mut self) -> Self {
        self.generation = true;
        self
    }

    fn names(mut self, rule: NameRule) -> Self {
        self.name_rule = rule;
        self
    }

    fn create_on_update(mut self) -> Self {
        self.create_on_update = true;
        self
    }

    fn returns_deleted(mut self) -> Self {
        self.returns_deleted = true;
        self
    }

    pub(super) fn rules(mut self, default: Defaulter, prepare: Preparer, validate: Validator) -> Self {
        (self.default, self.prepare, self.validate) = (default, prepare, validate);
        self
    }
}

const READ_WRITE: &[&str] = &["get", "patch", "update"];
const CONNECT: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

fn core() -> Vec<KindDef> {
    let core = |name, plural, schema| kind("", "v1", name, plural, schema);
    vec![
        core("Namespace", "namespaces", "io.k8s.api.core.v1.Namespace")
            .short(&["ns"])
            .cluster_scoped()
            .names(NameRule::Label)
            .without("deletecollection")
            .sub("finalize", ("", "", "Namespace"), &["update"])
            .status()
            .select_by(&["status.phase"])
            .columns(vec![Column::name(), Column::new("Status", cell::phase), Column::age()])
            .rules(defaults::namespace, defaults::prepare_namespace, validate::namespace),
        node(core("Node", "nodes", "io.k8s.api.core.v1.Node")),
        pod(core("Pod", "pods", "io.k8s.api.core.v1.Pod")),
        service(core("Service", "services", "io.k8s.api.core.v1.Service")),
        core("Endpoints", "endpoints", "io.k8s.api.core.v1.Endpoints")
            .short(&["ep"])
            .create_on_update()
            .columns(vec![Column::name(), Column::new("Endpoints", cell::endpoints), Column::age()])
            .rules(defaults::endpoints, |_, _| {}, validate::endpoints),
        core("ConfigMap", "configmaps", "io.k8s.api.core.v1.ConfigMap")
            .short(&["cm"])
            .columns(vec![Column::name(), Column::new("Data", cell::config_map_size), Column::age()])
            .rules(|_| {}, |_, _| {}, validate::config_map),
        core("Secret", "secrets", "io.k8s.api.core.v1.Secret")
            .select_by(&["type"])
            .columns(vec![
                Column::name(),
                Column::new("Type", cell::secret_type),
                Column::new("Data", cell::secret_size),
                Column::age(),
            ])
            .rules(defaults::secret, |_, _| {}, validate::secret),
        core("ServiceAccount", "serviceaccounts", "io.k8s.api.core.v1.ServiceAccount")
            .short(&["sa"])
            .returns_deleted()
            .sub("token", ("authentication.k8s.io", "v1", "TokenRequest"), &["create"])
            .columns(vec![Column::name(), Column::new("Secrets", cell::account_secrets), Column::age()]),
        events::core(core("Event", "events", "io.k8s.api.core.v1.Event")),
        core("Binding", "bindings", "io.k8s.api.core.v1.Binding").only_created(),
    ]
}

fn node(node: KindDef) -> KindDef {
    node.short(&["no"])
        .cluster_scoped()
        .sub("proxy", ("", "", "NodeProxyOptions"), PROXY)
        .status()
        .select_by(&["spec.unschedulable"])
        .columns(vec![
            Column::name(),
            Column::new("Status", cell::node_status),
            Column::new("Roles", cell::node_roles),
            Column::age(),
            Column::new("Version", cell::node_version),
            Column::new("Internal-IP", cell::node_internal_ip).wide(),
            Column::new("External-IP", cell::node_external_ip).wide(),
            Column::new("OS-Image", cell::node_os).wide(),
            Column::new("Kernel-Version", cell::node_kernel).wide(),
            Column::new("Container-Runtime", cell::node_runtime).wide(),
        ])
        .rules(defaults::node, |_, _| {}, validate::node)
}

fn pod(pod: KindDef) -> KindDef {
    pod.short(&["po"])
        .category("all")
        .returns_deleted()
        .generation()
        .sub("attach", ("", "", "PodAttachOptions"), CONNECT)
        .sub("binding", ("", "", "Binding"), &["create"])
        .sub("eviction", ("policy", "v1", "Eviction"), &["create"])
        .sub("exec", ("", "", "PodExecOptions"), CONNECT)
        .sub("log", ("", "", "Pod"), &["get"])
        .sub("portforward", ("", "", "PodPortForwardOptions"), CONNECT)
        .status()
        .select_by(&[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ])
        .columns(vec![
            Column::name(),
            Column::new("Ready", cell::pod_ready),
            Column::new("Status", cell::pod_status),
            Column::new("Restarts", cell::pod_restarts),
            Column::age(),
            Column::new("IP", cell::pod_ip).wide(),
            Column::new("Node", cell::pod_node).wide(),
            Column::new("Nominated Node", cell::pod_nominated).wide(),
            Column::new("Readiness Gates", cell::pod_gates).wide(),
        ])
        .rules(defaults::pod, defaults::prepare_pod, validate::pod)
}

fn service(service: KindDef) -> KindDef {
    service
        .short(&["svc"])
        .category("all")
        .names(NameRule::ServiceLabel)
        .create_on_update()
        .returns_deleted()
        .status()
        .select_by(&["spec.clusterIP", "spec.type"])
        .columns(vec![
            Column::name(),
            Column::new("Type", cell::service_type),
            Column::new("Cluster-IP", cell::service_ip),
            Column::new("External-IP", cell::service_external),
            Column::new("Port(s)", cell::service_ports),
            Column::age(),
            Column::new("Selector", cell::service_selector).wide(),
        ])
        .rules(defaults::service, defaults::prepare_service, validate::service)
}

fn others() -> Vec<KindDef> {
    let crd = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition";
    vec![
        events::new(kind("events.k8s.io", "v1", "Event", "events", "io.k8s.api.events.v1.Event")),
        kind(
            "discovery.k8s.io",
            "v1",
            "EndpointSlice",
            "endpointslices",
            "io.k8s.api.discovery.v1.EndpointSlice",
        )
        .columns(vec![
            Column::name(),
            Column::new("AddressType", |slice, _| slice["addressType"].clone()),
            Column::new("Ports", cell::slice_ports),
            Column::new("Endpoints", cell::slice_endpoints),
            Column::age(),
        ])
        .rules(defaults::endpoint_slice, |_, _| {}, validate::endpoint_slice)
        .generation(),
        kind("coordination.k8s.io", "v1", "Lease", "leases", "io.k8s.api.coordination.v1.Lease")
            .create_on_update()
            .without_unconditional_update()
            .columns(vec![
                Column::name(),
                Column::new("Holder", |lease, _| lease["spec"]["holderIdentity"].clone()),
                Column::age(),
            ])
            .rules(|_| {}, |_, _| {}, validate::lease),
        signing_request(),
        kind("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", crd)
            .short(&["crd", "crds"])
            .category("api-extensions")
            .cluster_scoped()
            .status()
            .generation()
            .without_unconditional_update()
            .columns(vec![Column::name(), Column::new("Created At", cell::created).typed("date")])
            .rules(defaults::crd, defaults::prepare_crd, validate::crd),
    ]
}

fn signing_request() -> KindDef {
    let schema = "io.k8s.api.certificates.v1.CertificateSigningRequest";
    kind("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests", schema)
        .short(&["csr"])
        .cluster_scoped()
        .sub("approval", ("", "", "CertificateSigningRequest"), READ_WRITE)
        .status()
        .select_by(&["spec.signerName"])
        .columns(vec![
            Column::name(),
            Column::age(),
            Column::new("SignerName", |csr, _| csr["spec"]["signerName"].clone()),
            Column::new("Requestor", |csr, _| csr["spec"]["username"].clone()),
            Column::new("RequestedDuration", cell::csr_duration),
            Column::new("Condition", cell::csr_condition),
        ])
        .rules(defaults::signing_request, defaults::prepare_signing_request, validate::signing_request)
}

fn rbac() -> Vec<KindDef> {
    let rbac = |name, plural, schema| {
        kind("rbac.authorization.k8s.io", "v1", name, plural, schema)
            .names(NameRule::PathSegment)
            .create_on_update()
    };
    let created = || vec![Column::name(), Column::new("Created At", cell::created).typed("date")];
    let subjects = || {
        vec![
            Column::name(),
            Column::new("Role", cell::binding_role),
            Column::age(),
            Column::new("Users", cell::binding_users).wide(),
            Column::new("Groups", cell::binding_groups).wide(),
            Column::new("ServiceAccounts", cell::binding_accounts).wide(),
        ]
    };
    vec![
        rbac("ClusterRoleBinding", "clusterrolebindings", "io.k8s.api.rbac.v1.ClusterRoleBinding")
            .cluster_scoped()
            .columns(subjects())
            .rules(defaults::role_binding, |_, _| {}, validate::cluster_role_binding),
        rbac("ClusterRole", "clusterroles", "io.k8s.api.rbac.v1.ClusterRole")
            .cluster_scoped()
            .columns(created())
            .rules(defaults::role, |_, _| {}, validate::cluster_role),
        rbac("RoleBinding", "rolebindings", "io.k8s.api.rbac.v1.RoleBinding").columns(subjects()).rules(
            defaults::role_binding,
            |_, _| {},
            validate::role_binding,
        ),
        rbac("Role", "roles", "io.k8s.api.rbac.v1.Role").columns(created()).rules(
            defaults::role,
            |_, _| {},
            validate::role,
        ),
    ]
}

/// Kinds of which nothing is kept: a POST is answered.
fn reviews() -> Vec<KindDef> {
    let authentication = |name, plural, schema| {
        kind("authentication.k8s.io", "v1", name, plural, schema).cluster_scoped().only_created()
    };
    let authorization = |name, plural, schema| {
        kind("authorization.k8s.io", "v1", name, plural, schema).cluster_scoped().only_created()
    };
    let mut local = authorization(
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
    );
    local.namespaced = true;
    vec![
        authentication(
            "SelfSubjectReview",
            "selfsubjectreviews",
            "io.k8s.api.authentication.v1.SelfSubjectReview",
        ),
        authentication("TokenReview", "tokenreviews", "io.k8s.api.authentication.v1.TokenReview"),
        local,
        authorization(
            "SelfSubjectAccessReview",
            "selfsubjectaccessreviews",
            "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
        ),
        authorization(
            "SelfSubjectRulesReview",
            "selfsubjectrulesreviews",
            "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
        ),
        authorization(
            "SubjectAccessReview",
            "subjectaccessreviews",
            "io.k8s.api.authorization.v1.SubjectAccessReview",
        ),
    ]
}

impl KindDef {
    fn without(mut self, verb: &str) -> Self {
        self.verbs.retain(|one| *one != verb);
        self
    }

    fn without_unconditional_update(mut self) -> Self {
        self.unconditional_update = false;
        self
    }

    /// Answered, never stored.
    fn only_created(mut self) -> Self {
        self.verbs = vec!["create"];
        self.is_virtual = true;
        self
    }

    /// Stored as another version of the kind, to which these functions lead.
    pub(super) fn stored_as(mut self, storage: &str, api_version: &str, conversion: Conversion) -> Self {
        storage.clone_into(&mut self.storage);
        self.conversion = Some((api_version.to_owned(), conversion));
        self
    }
}
