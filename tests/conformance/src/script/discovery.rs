//! Discovery and OpenAPI, as far as the embedded API serves it.

use super::{Case, get, kubectl};

pub(super) fn cases() -> Vec<Case> {
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let paths = [
        "/api",
        "/api/v1",
        "/apis",
        "/apis/apps",
        "/apis/apps/v1",
        "/apis/discovery.k8s.io/v1",
        "/apis/coordination.k8s.io/v1",
        "/apis/events.k8s.io/v1",
        "/apis/rbac.authorization.k8s.io/v1",
        "/apis/authorization.k8s.io/v1",
        "/apis/authentication.k8s.io/v1",
        "/apis/certificates.k8s.io/v1",
        "/apis/apiextensions.k8s.io/v1",
    ];
    let mut steps: Vec<super::Step> = paths.iter().map(|path| get(path, 200).subset()).collect();
    steps.push(get("/api", 200).accept(aggregated).subset());
    steps.push(get("/apis", 200).accept(aggregated).subset());
    let explain = [
        "explain pod.spec.containers.resources",
        "explain deployment.spec.strategy",
        "explain service.spec.ports",
        "explain configmap",
        "explain endpointslice.endpoints.hints",
    ];
    vec![
        Case { name: "discovery", steps },
        Case { name: "explain", steps: explain.iter().map(|line| kubectl(line, 0)).collect() },
    ]
}
