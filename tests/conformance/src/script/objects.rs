//! Create, read in every form, list, watch, update, delete.

use super::{Case, PARTIAL, TABLE, delete, get, merge, post, put};

const CM: &str = "/api/v1/namespaces/{ns}/configmaps";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case { name: "objects", steps: objects() },
        Case { name: "lists", steps: lists() },
        Case { name: "watches", steps: watches() },
        Case { name: "deletes", steps: deletes() },
    ]
}

fn objects() -> Vec<super::Step> {
    let a = format!("{CM}/a");
    vec![
        post(
            CM,
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","labels":{"l":"1"}},"data":{"x":"1"}}"#,
            201,
        ),
        post(CM, r#"{"metadata":{"name":"a"}}"#, 409),
        get(&a, 200),
        get(&a, 200).accept(TABLE),
        get(&a, 200).accept("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
        put(&a, r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"y":"2"}}"#, 200),
        put(
            &a,
            r#"{"metadata":{"name":"a","annotations":{"k":"v"}},"data":{"y":"2"},"binaryData":{"b":"AAE="}}"#,
            200,
        ),
        merge(&format!("{a}?dryRun=All"), r#"{"data":{"z":"3"}}"#, 200),
        get(&a, 200),
        merge(&a, r#"{"immutable":true}"#, 200),
        merge(&a, r#"{"data":{"y":"9"}}"#, 422),
        post(&format!("{CM}?dryRun=All"), r#"{"metadata":{"name":"dry"}}"#, 201),
        get(&format!("{CM}/dry"), 404),
        post("/api/v1/namespaces/{ns}/secrets", r#"{"metadata":{"name":"s"},"stringData":{"a":"b"}}"#, 201),
        post(
            "/api/v1/namespaces/{ns}/secrets",
            r#"{"metadata":{"name":"t"},"type":"kubernetes.io/tls"}"#,
            422,
        ),
        get("/api/v1/namespaces/{ns}/secrets", 200).accept(TABLE),
        post(
            "/api/v1/namespaces/{ns}/events",
            r#"{"metadata":{"name":"e"},"involvedObject":{"namespace":"{ns}","name":"a","kind":"ConfigMap"},"reason":"R","message":"m","type":"Normal"}"#,
            201,
        ),
        get("/apis/events.k8s.io/v1/namespaces/{ns}/events/e", 200),
        post(
            "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases",
            r#"{"metadata":{"name":"l"},"spec":{"holderIdentity":"h","leaseDurationSeconds":40,"renewTime":"2026-01-01T00:00:00.000001Z"}}"#,
            201,
        ),
        get("/apis/coordination.k8s.io/v1/namespaces/{ns}/leases", 200).accept(TABLE),
    ]
}

fn lists() -> Vec<super::Step> {
    let mut steps: Vec<super::Step> = (0..4)
        .map(|n| {
            post(CM, &format!(r#"{{"metadata":{{"name":"m{n}","labels":{{"n":"{n}","all":"yes"}}}}}}"#), 201)
        })
        .collect();
    steps.extend([
        get(CM, 200),
        get(CM, 200).accept(TABLE),
        get(CM, 200).accept(PARTIAL),
        get(&format!("{CM}?limit=2"), 200),
        get(&format!("{CM}?labelSelector=n%3D1"), 200),
        get(&format!("{CM}?labelSelector=n%20in%20(1,2)"), 200),
        get(&format!("{CM}?labelSelector=n!%3D1,all"), 200),
        get(&format!("{CM}?labelSelector=!n"), 200),
        get(&format!("{CM}?labelSelector=n%3E1"), 200),
        get(&format!("{CM}?fieldSelector=metadata.name%3Dm1"), 200),
        get(&format!("{CM}?fieldSelector=metadata.name!%3Dm1"), 200),
        get(&format!("{CM}?includeObject=None"), 200).accept(TABLE),
        get(&format!("{CM}?includeObject=Nonsense"), 400).accept(TABLE),
        get(&format!("{CM}?resourceVersion=0"), 200),
    ]);
    steps
}

fn watches() -> Vec<super::Step> {
    vec![
        post(CM, r#"{"metadata":{"name":"a"}}"#, 201),
        get(&format!("{CM}?watch=true&timeoutSeconds=1"), 200),
        get(&format!("{CM}?watch=true&timeoutSeconds=1"), 200).accept(TABLE),
        get(&format!("{CM}?watch=true&timeoutSeconds=1"), 200)
            .accept("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"),
        get(&format!("{CM}/a?watch=true&timeoutSeconds=1"), 200),
        get(&format!("{CM}?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3Dzz"), 200),
    ]
}

fn deletes() -> Vec<super::Step> {
    let (a, b) = (format!("{CM}/a"), format!("{CM}/b"));
    vec![
        post(CM, r#"{"metadata":{"name":"a","finalizers":["x.example.com/y"]}}"#, 201),
        delete(&a, "", 200),
        get(&a, 200),
        merge(&a, r#"{"metadata":{"finalizers":["x.example.com/y","x.example.com/z"]}}"#, 422),
        delete(&a, "", 200),
        merge(&a, r#"{"metadata":{"finalizers":null}}"#, 200),
        get(&a, 404),
        post(CM, r#"{"metadata":{"name":"b"}}"#, 201),
        delete(&b, r#"{"preconditions":{"uid":"x"}}"#, 409),
        delete(&b, r#"{"dryRun":["All"]}"#, 200),
        delete(&b, r#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Foreground"}"#, 200),
        get(&b, 200),
        post(CM, r#"{"metadata":{"name":"c","labels":{"l":"1"}}}"#, 201),
        post(CM, r#"{"metadata":{"name":"d","labels":{"l":"2"}}}"#, 201),
        delete(&format!("{CM}?labelSelector=l%3D1"), "", 200),
        get(&format!("{CM}/c"), 404),
        get(&format!("{CM}/d"), 200),
        delete(&format!("{CM}/d?propagationPolicy=Orphan"), "", 200),
        delete("/api/v1/namespaces/kube-system", "", 403),
    ]
}
