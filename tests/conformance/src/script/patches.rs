//! Patches of all types.

use super::{Case, Step, get, json_patch, merge, post, strategic};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/{ns}/deployments";
pub(super) const DEPLOYMENT: &str = r#"{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"d"},"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"volumes":[{"name":"v","emptyDir":{}}],"containers":[{"name":"one","image":"i","env":[{"name":"A","value":"1"},{"name":"B","value":"2"}],"ports":[{"containerPort":80}]},{"name":"two","image":"i"}]}}}}"#;

pub(super) fn cases() -> Vec<Case> {
    vec![Case { name: "json-patch", steps: json() }, Case { name: "strategic", steps: strategic_merge() }]
}

fn json() -> Vec<Step> {
    let collection = "/api/v1/namespaces/{ns}/configmaps";
    let a = "/api/v1/namespaces/{ns}/configmaps/a";
    let mut steps = vec![post(collection, r#"{"metadata":{"name":"a"},"data":{"x":"1"}}"#, 201)];
    for (patch, code) in [
        (r#"[{"op":"add","path":"/data/y","value":"2"}]"#, 200),
        (r#"[{"op":"replace","path":"/data/new","value":"2"}]"#, 200),
        (r#"[{"op":"copy","from":"/data/y","path":"/data/z"}]"#, 200),
        (r#"[{"op":"move","from":"/data/z","path":"/data/w"}]"#, 200),
        (r#"[{"op":"test","path":"/data/w","value":"2"},{"op":"remove","path":"/data/w"}]"#, 200),
        (r#"[{"op":"test","path":"/data/y","value":"no"}]"#, 422),
        (r#"[{"op":"remove","path":"/data/nonsense"}]"#, 422),
        (r#"[{"op":"add","path":"/nonsense/deep","value":1}]"#, 422),
        (r#"[{"op":"nonsense","path":"/data/x"}]"#, 422),
        (r#"[{"op":"add","path":"/metadata/labels","value":{"a~b/c":"d"}}]"#, 422),
        (
            r#"[{"op":"add","path":"/metadata/annotations","value":{}},{"op":"add","path":"/metadata/annotations/k~1v","value":"d"}]"#,
            200,
        ),
        (r#"{"op":"add"}"#, 400),
        ("nonsense", 400),
    ] {
        steps.push(json_patch(a, patch, code));
    }
    steps.push(merge(a, r#"{"data":{"x":null,"q":"r"}}"#, 200));
    steps.push(merge(a, r#"{"data":null}"#, 200));
    steps.push(merge(a, r"[]", 400));
    steps.push(merge(a, r#"{"metadata":{"resourceVersion":"1"}}"#, 409));
    steps.push(merge(&format!("{a}?fieldValidation=Warn"), r#"{"nonsense":1}"#, 200));
    steps
}

fn strategic_merge() -> Vec<Step> {
    let d = format!("{DEPLOYMENTS}/d");
    let containers = |text: &str| format!(r#"{{"spec":{{"template":{{"spec":{{{text}}}}}}}}}"#);
    let mut steps = vec![post(DEPLOYMENTS, DEPLOYMENT, 201)];
    for (patch, code) in [
        (containers(r#""containers":[{"name":"two","image":"j"}]"#), 200),
        (containers(r#""containers":[{"name":"three","image":"j"}]"#), 200),
        (containers(r#""containers":[{"name":"one","env":[{"name":"C","value":"3"},{"name":"A","$patch":"delete"}]}]"#), 200),
        (
            containers(
                r#""$setElementOrder/containers":[{"name":"two"},{"name":"one"},{"name":"three"}],"containers":[{"name":"one","image":"k"}]"#,
            ),
            200,
        ),
        (containers(r#""containers":[{"name":"three","$patch":"delete"}]"#), 200),
        (containers(r#""volumes":[{"name":"v","$retainKeys":["name","hostPath"],"hostPath":{"path":"/x"}}]"#), 200),
        (containers(r#""nodeSelector":{"a":"b"},"tolerations":[{"key":"k","operator":"Exists"}]"#), 200),
        (containers(r#""nodeSelector":{"$patch":"replace","c":"d"},"tolerations":null"#), 200),
        (containers(r#""containers":[{"name":"one","ports":[{"containerPort":81,"protocol":"TCP"}]}]"#), 200),
        (containers(r#""containers":[{"image":"unnamed"}]"#), 500),
        (containers(r#""containers":[{"name":"one","$patch":"nonsense"}]"#), 500),
        (r#"{"metadata":{"finalizers":["a.example.com/a","a.example.com/b"]}}"#.to_owned(), 200),
        (r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a.example.com/a"]}}"#.to_owned(), 200),
        (r#"{"metadata":{"$setElementOrder/finalizers":["a.example.com/c","a.example.com/b"],"finalizers":["a.example.com/c"]}}"#.to_owned(), 200),
        (r#"{"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}"#.to_owned(), 200),
        (r#"{"metadata":{"labels":{"x":"y"},"annotations":{"z":null}}}"#.to_owned(), 200),
    ] {
        steps.push(strategic(&d, &patch, code));
    }
    steps.push(get(&d, 200));
    steps
}
