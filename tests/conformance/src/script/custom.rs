//! Custom kinds: the definition, its objects, pruning and validation.

use super::{Case, TABLE, apply, delete, get, kubectl, merge, post, strategic};

const DEFINITION: &str = r#"{"metadata":{"name":"widgets.example.com"},"spec":{"group":"example.com","scope":"Namespaced","names":{"kind":"Widget","plural":"widgets","singular":"widget","shortNames":["wd"]},"versions":[{"name":"v1","served":true,"storage":true,"subresources":{"status":{},"scale":{"specReplicasPath":".spec.size","statusReplicasPath":".status.size"}},"additionalPrinterColumns":[{"name":"Colour","type":"string","jsonPath":".spec.colour"}],"schema":{"openAPIV3Schema":{"type":"object","required":["spec"],"properties":{"spec":{"type":"object","required":["colour"],"properties":{"colour":{"type":"string","enum":["red","blue"]},"size":{"type":"integer","minimum":0,"default":1},"parts":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["name"],"items":{"type":"object","required":["name"],"properties":{"name":{"type":"string"},"n":{"type":"integer"}}}}}},"status":{"type":"object","properties":{"size":{"type":"integer"}}}}}}}]}}"#;

pub(super) fn cases() -> Vec<Case> {
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let path = "/apis/example.com/v1/namespaces/{ns}/widgets";
    let w = format!("{path}/w");
    let widget = |spec: &str| {
        format!(
            r#"{{"apiVersion":"example.com/v1","kind":"Widget","metadata":{{"name":"w"}},"spec":{spec}}}"#
        )
    };
    let steps = vec![
        post(
            definitions,
            r#"{"metadata":{"name":"wrong"},"spec":{"group":"example.com","scope":"Namespaced","names":{"kind":"Widget","plural":"widgets"},"versions":[]}}"#,
            422,
        ),
        post(definitions, DEFINITION, 201),
        kubectl("wait --for=condition=Established crd/widgets.example.com --timeout=30s", 0),
        kubectl("wait --for=condition=NamesAccepted crd/widgets.example.com --timeout=30s", 0),
        // The real server serves a new kind a moment after it says so.
        kubectl("wait --for=create serviceaccount/default --timeout=30s", 0),
        kubectl("get widgets", 0),
        post(path, &widget(r#"{"colour":"red","nonsense":1,"parts":[{"name":"a","n":1}]}"#), 201),
        get(path, 200),
        get(path, 200).accept(TABLE),
        post(path, &widget(r#"{"colour":"green"}"#), 422),
        post(path, &widget(r#"{"size":-1}"#), 422),
        post(path, &widget(r#"{"colour":"red","size":"big"}"#), 422),
        merge(&w, r#"{"spec":{"colour":"blue"},"status":{"size":4}}"#, 200),
        merge(&format!("{w}/status"), r#"{"status":{"size":4}}"#, 200),
        get(&format!("{w}/scale"), 200),
        merge(&format!("{w}/scale"), r#"{"spec":{"replicas":3}}"#, 200),
        strategic(&w, r#"{"spec":{}}"#, 415),
        apply(
            &format!("{w}?fieldManager=m"),
            &widget(r#"{"colour":"blue","parts":[{"name":"b","n":2}]}"#),
            200,
        ),
        apply(
            &format!("{w}?fieldManager=n"),
            &widget(r#"{"colour":"blue","parts":[{"name":"b","n":3}]}"#),
            409,
        ),
        apply(&format!("{w}?fieldManager=m"), &widget(r#"{"colour":"blue"}"#), 200),
        get("/apis/example.com/v1", 200),
        kubectl("explain widget.spec", 0),
        delete(&w, "", 200),
        delete(&format!("{definitions}/widgets.example.com"), "", 200),
    ];
    vec![Case { name: "custom", steps }]
}
