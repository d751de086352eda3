//! Server-side apply, and managed fields of every other write.

use super::{Case, Step, apply, get, merge, post, put};

const CM: &str = "/api/v1/namespaces/{ns}/configmaps";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case { name: "apply", steps: maps() },
        Case { name: "apply-lists", steps: lists() },
        Case { name: "apply-refused", steps: refused() },
    ]
}

fn cm(data: &str) -> String {
    format!(r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"a"}},"data":{data}}}"#)
}

fn maps() -> Vec<Step> {
    let a = |manager: &str| format!("{CM}/a?fieldManager={manager}");
    vec![
        apply(&a("one"), &cm(r#"{"x":"1","y":"1"}"#), 201),
        apply(&a("one"), &cm(r#"{"x":"1","y":"1"}"#), 200),
        apply(&a("two"), &cm(r#"{"x":"2"}"#), 409),
        apply(&a("two"), &cm(r#"{"x":"1","z":"1"}"#), 200),
        apply(&(a("two") + "&force=true"), &cm(r#"{"x":"2","y":"2"}"#), 200),
        apply(&a("one"), &cm(r#"{"w":"1"}"#), 200),
        merge(&a("three"), r#"{"data":{"w":"3","v":"3"}}"#, 200),
        apply(&a("one"), &cm(r#"{"w":"1","v":"1"}"#), 409),
        put(&a("four"), &cm(r#"{"only":"4"}"#), 200),
        apply(&a("one"), &cm("{}"), 200),
        apply(
            &a("one"),
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","labels":{"l":"m"},"annotations":{"k":"v"}}}"#,
            200,
        ),
        apply(
            &a("one"),
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","labels":{"l":"m"}}}"#,
            200,
        ),
        apply(&(a("one") + "&dryRun=All"), &cm(r#"{"dry":"1"}"#), 200),
        get(&format!("{CM}/a"), 200),
    ]
}

fn lists() -> Vec<Step> {
    let path = "/apis/apps/v1/namespaces/{ns}/deployments";
    let d = |manager: &str| format!("{path}/d?fieldManager={manager}");
    let deployment = |spec: &str, containers: &str| {
        format!(
            r#"{{"kind":"Deployment","apiVersion":"apps/v1","metadata":{{"name":"d"}},"spec":{{{spec}"selector":{{"matchLabels":{{"a":"b"}}}},"template":{{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{"containers":[{containers}]}}}}}}}}"#
        )
    };
    let one = r#"{"name":"one","image":"i","ports":[{"containerPort":80}],"env":[{"name":"A","value":"1"}],"args":["a","b"]}"#;
    let service = |manager: &str| format!("/api/v1/namespaces/{{ns}}/services/s?fieldManager={manager}");
    vec![
        apply(&d("m"), &deployment(r#""replicas":0,"#, one), 201),
        apply(
            &d("n"),
            r#"{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"d"},"spec":{"replicas":2}}"#,
            409,
        ),
        apply(&d("n"), &deployment("", r#"{"name":"side","image":"j"}"#), 200),
        apply(&d("m"), &deployment("", r#"{"name":"one","image":"i"}"#), 200),
        apply(&d("m"), &deployment("", r#"{"name":"zero","image":"z"},{"name":"one","image":"i2"}"#), 200),
        apply(&d("m"), &deployment("", r#"{"name":"one","image":"i2"}"#), 200),
        apply(
            &format!("{path}/d/status?fieldManager=k"),
            r#"{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"d"},"status":{"readyReplicas":0,"observedGeneration":1}}"#,
            200,
        ),
        get(&format!("{path}/d"), 200),
        apply(
            &service("m"),
            r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"s"},"spec":{"selector":{"a":"b"},"ports":[{"name":"p","port":80},{"name":"q","port":81,"protocol":"UDP"}]}}"#,
            201,
        ),
        apply(
            &service("m"),
            r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"s"},"spec":{"selector":{"a":"b"},"ports":[{"name":"p","port":80}]}}"#,
            200,
        ),
        apply(
            &service("n"),
            r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"s"},"spec":{"ports":[{"name":"other","port":80}]}}"#,
            409,
        ),
        apply(
            &service("m"),
            r#"{"kind":"Service","apiVersion":"v1","metadata":{"name":"s","finalizers":["a.example.com/x"]},"spec":{"ports":[{"name":"p","port":80}]}}"#,
            200,
        ),
        get("/api/v1/namespaces/{ns}/services/s", 200),
    ]
}

fn refused() -> Vec<Step> {
    let a = format!("{CM}/a?fieldManager=m");
    vec![
        post(CM, r#"{"metadata":{"name":"a"},"data":{"x":"1"}}"#, 201),
        apply(&format!("{CM}/a"), &cm("{}"), 422),
        apply(&a, r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"nonsense":1}"#, 500),
        apply(&a, r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a"},"data":{"x":1}}"#, 500),
        apply(&a, r#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a"}}"#, 400),
        apply(&a, "nonsense", 400),
        apply(
            &a,
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","managedFields":[{}]}}"#,
            400,
        ),
        apply(
            &a,
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","resourceVersion":"1"},"data":{"y":"1"}}"#,
            409,
        ),
        apply(
            &format!("{CM}/b?fieldManager=m"),
            r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"c"}}"#,
            400,
        ),
        apply(
            "/apis/apps/v1/namespaces/{ns}/deployments/d?fieldManager=m",
            r#"{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"d"},"spec":{"template":{"spec":{"containers":[{"name":"a"},{"name":"a"}]}}}}"#,
            500,
        ),
        merge(&format!("{CM}/a?force=true"), r#"{"data":{}}"#, 422),
    ]
}
