//! Reviews, roles, tokens, signing requests.

use super::{Case, Step, get, kubectl, merge, post};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case { name: "reviews", steps: reviews() },
        Case { name: "roles", steps: roles() },
        Case { name: "signing", steps: signing() },
    ]
}

fn reviews() -> Vec<Step> {
    let authorization = "/apis/authorization.k8s.io/v1";
    vec![
        post("/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}", 201),
        post(
            &format!("{authorization}/selfsubjectaccessreviews"),
            r#"{"spec":{"resourceAttributes":{"verb":"get","resource":"pods","namespace":"{ns}"}}}"#,
            201,
        ),
        post(&format!("{authorization}/selfsubjectaccessreviews"), r#"{"spec":{}}"#, 422),
        post(
            &format!("{authorization}/subjectaccessreviews"),
            r#"{"spec":{"user":"nobody","resourceAttributes":{"verb":"get","resource":"pods","namespace":"{ns}"}}}"#,
            201,
        ),
        post(
            &format!("{authorization}/subjectaccessreviews"),
            r#"{"spec":{"user":"nobody","groups":["system:authenticated"],"nonResourceAttributes":{"verb":"get","path":"/version"}}}"#,
            201,
        ),
        post(
            &format!("{authorization}/subjectaccessreviews"),
            r#"{"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}"#,
            422,
        ),
        post("/apis/authentication.k8s.io/v1/tokenreviews", r#"{"spec":{"token":"nonsense"}}"#, 201),
        post("/apis/authentication.k8s.io/v1/tokenreviews", r#"{"spec":{}}"#, 400),
        post(
            "/api/v1/namespaces/{ns}/serviceaccounts/default/token",
            r#"{"spec":{"audiences":["a"],"expirationSeconds":900}}"#,
            201,
        ),
        post(
            "/api/v1/namespaces/{ns}/serviceaccounts/default/token",
            r#"{"spec":{"expirationSeconds":1}}"#,
            422,
        ),
        post("/api/v1/namespaces/{ns}/serviceaccounts/nobody/token", "{}", 404),
        kubectl("auth can-i list pods", 0),
        kubectl("auth can-i list pods --as=nobody", 1),
        kubectl("get pods --as=nobody", 1),
        kubectl("get nodes --as=nobody", 1),
        kubectl("get deployment x --as=nobody", 1),
        kubectl("get --raw /metrics --as=nobody --as-group=system:authenticated", 1),
    ]
}

fn roles() -> Vec<Step> {
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}";
    vec![
        post(
            &format!("{rbac}/roles"),
            r#"{"metadata":{"name":"r"},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get","list"]}]}"#,
            201,
        ),
        post(
            &format!("{rbac}/roles"),
            r#"{"metadata":{"name":"s"},"rules":[{"apiGroups":[""],"resources":["pods"]}]}"#,
            422,
        ),
        post(
            &format!("{rbac}/rolebindings"),
            r#"{"metadata":{"name":"b"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"r"},"subjects":[{"kind":"ServiceAccount","name":"default"},{"kind":"User","name":"u"}]}"#,
            201,
        ),
        post(
            &format!("{rbac}/rolebindings"),
            r#"{"metadata":{"name":"c"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Nonsense","name":"r"}}"#,
            422,
        ),
        merge(&format!("{rbac}/rolebindings/b"), r#"{"roleRef":{"name":"other"}}"#, 422),
        kubectl("get roles,rolebindings -o wide", 0),
        kubectl("wait --for=jsonpath={.metadata.name}=r role/r", 0),
        kubectl("auth can-i get pods --as=u", 0),
        kubectl("auth can-i delete pods --as=u", 1),
        kubectl("create role more --verb=delete --resource=pods --as=u", 1),
        get("/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin", 200),
        get("/apis/rbac.authorization.k8s.io/v1/clusterroles/system:discovery", 200),
        get("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:public-info-viewer", 200),
    ]
}

/// A certificate request for CN=x, made once with openssl.
const REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlHNk1HSUNBUUF3QURCWk1CTUdCeXFHU000OUFnRUdDQ3FHU000OUF3RUhBMElBQkFBPQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";

fn signing() -> Vec<Step> {
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    vec![
        post(
            path,
            &format!(
                r#"{{"metadata":{{"name":"{{ns}}"}},"spec":{{"request":"{REQUEST}","signerName":"example.com/x","usages":["digital signature","client auth"]}}}}"#
            ),
            422,
        ),
        post(path, r#"{"metadata":{"name":"{ns}"},"spec":{"request":"AAAA","usages":[]}}"#, 422),
    ]
}
