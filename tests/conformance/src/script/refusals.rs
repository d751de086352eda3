//! What makes no sense, and in which words it is refused.

use super::{Case, JSON, Step, delete, get, merge, post, put, request, strategic};

const CM: &str = "/api/v1/namespaces/{ns}/configmaps";

pub(super) fn cases() -> Vec<Case> {
    vec![Case { name: "bodies", steps: bodies() }, Case { name: "paths", steps: paths() }]
}

fn bodies() -> Vec<Step> {
    let a = format!("{CM}/a");
    let mut steps: Vec<Step> = [
        ("xx", 400),
        ("", 400),
        ("[]", 400),
        ("{}", 422),
        (r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a""#, 400),
        (r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#, 400),
        (r#"{"kind":"ConfigMap","apiVersion":"v2","metadata":{"name":"a"}}"#, 400),
        (r#"{"metadata":{"name":"a","namespace":"other"}}"#, 400),
        (r#"{"metadata":{"name":"a"},"data":{"a":1}}"#, 400),
        (r#"{"metadata":{"name":"a"},"data":[]}"#, 400),
        (r#"{"metadata":{"name":"A_a"}}"#, 422),
        (r#"{"metadata":{"name":"a","labels":{"-a":"b c"}}}"#, 422),
        (r#"{"metadata":{"name":"a","annotations":{"a b":"c"}}}"#, 422),
        (r#"{"metadata":{"name":"a","finalizers":["nonsense"]}}"#, 422),
        (r#"{"metadata":{"name":"a","ownerReferences":[{"name":"x"}]}}"#, 422),
        (r#"{"metadata":{"name":"a","resourceVersion":"5"}}"#, 400),
        (r#"{"metadata":{"name":"a"},"data":{"a/b":"c"}}"#, 422),
        (r#"{"metadata":{"name":"a"},"data":{"k":"v"},"binaryData":{"k":"AA=="}}"#, 422),
    ]
    .into_iter()
    .map(|(body, code)| post(CM, body, code))
    .collect();
    steps.extend([
        post(
            &format!("{CM}?fieldValidation=Strict"),
            r#"{"metadata":{"name":"a","foo":1},"datax":{},"data":{"a":"1","a":"2"}}"#,
            400,
        ),
        post(
            &format!("{CM}?fieldValidation=Warn"),
            r#"{"metadata":{"name":"a","foo":1},"datax":{},"data":{"a":"1","a":"2"}}"#,
            201,
        ),
        post(&format!("{CM}?fieldValidation=Nonsense&dryRun=Nonsense"), "{}", 422),
        request("POST", CM, "text/x", "{}", 415),
        put(&a, r#"{"metadata":{"name":"b"}}"#, 400),
        put(&a, r#"{"metadata":{"name":"a","resourceVersion":"1"}}"#, 409),
        put(&format!("{CM}/nobody"), r#"{"metadata":{"name":"nobody"}}"#, 404),
        request("PATCH", &a, JSON, "{}", 415),
        merge(&a, r#"{"metadata":{"name":"z"}}"#, 400),
        strategic(&a, r#"{"data":{"$patch":"nonsense"}}"#, 500),
        strategic(&a, "[]", 400),
        delete(&a, "xx", 500),
        delete(&format!("{a}?propagationPolicy=Nonsense"), "", 422),
        delete(&format!("{CM}/nobody"), "", 404),
        post("/api/v1/namespaces/nowhere/configmaps", r#"{"metadata":{"name":"a"}}"#, 404),
        post("/api/v1/namespaces", r#"{"metadata":{"name":"A"}}"#, 422),
    ]);
    steps
}

fn paths() -> Vec<Step> {
    [
        ("/api/v1/namespaces/{ns}/nonsense".to_owned(), 404),
        ("/nonsense".to_owned(), 404),
        ("/api/v2".to_owned(), 404),
        ("/apis/nonsense".to_owned(), 404),
        ("/apis/apps/v2".to_owned(), 404),
        ("/api/v1/pods/x".to_owned(), 404),
        ("/api/v1/namespaces/{ns}/nodes".to_owned(), 404),
        (format!("{CM}/a/nonsense"), 404),
        (format!("{CM}?limit=x"), 400),
        (format!("{CM}?labelSelector=a+b"), 400),
        (format!("{CM}?labelSelector=a%20in%20b"), 400),
        (format!("{CM}?fieldSelector=nonsense%3Db"), 400),
        (format!("{CM}?resourceVersion=abc"), 400),
        (format!("{CM}?resourceVersionMatch=Exact"), 422),
        (format!("{CM}?resourceVersionMatch=Nonsense&resourceVersion=5"), 422),
        (format!("{CM}?resourceVersionMatch=Exact&resourceVersion=0"), 422),
        (format!("{CM}?watch=1&sendInitialEvents=true"), 422),
        (format!("{CM}?watch=1&resourceVersionMatch=Exact"), 422),
        (format!("{CM}?watch=1&resourceVersion=abc"), 400),
    ]
    .into_iter()
    .map(|(path, code)| get(&path, code))
    .chain([
        get(CM, 406).accept("application/nonsense"),
        request("PATCH", CM, JSON, "", 405),
        put(CM, "", 405),
        post(&format!("{CM}/a"), "{}", 405),
        delete("/api/v1/configmaps", "", 405),
    ])
    .collect()
}
