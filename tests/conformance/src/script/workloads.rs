//! Pods, Deployments, Services, Nodes: defaults, validation, status, scale, binding, eviction.

use super::patches::DEPLOYMENT;
use super::{Case, Step, TABLE, delete, get, merge, post, put};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case { name: "pods", steps: pods() },
        Case { name: "deployments", steps: deployments() },
        Case { name: "services", steps: services() },
        Case { name: "nodes", steps: nodes() },
    ]
}

const PODS: &str = "/api/v1/namespaces/{ns}/pods";
const POD: &str = r#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":80}],"resources":{"requests":{"cpu":"0.1","memory":"1024Ki"}},"livenessProbe":{"httpGet":{"port":80}}}]}}"#;

fn pods() -> Vec<Step> {
    vec![
        post(PODS, POD, 201),
        get(PODS, 200).accept(TABLE),
        post(PODS, r#"{"metadata":{"name":"q"},"spec":{"containers":[]}}"#, 422),
        post(
            PODS,
            r#"{"metadata":{"name":"q"},"spec":{"containers":[{"name":"A B"}],"restartPolicy":"Never!"}}"#,
            422,
        ),
        post(
            PODS,
            r#"{"metadata":{"name":"q"},"spec":{"containers":[{"name":"c","image":"i","volumeMounts":[{"name":"v","mountPath":"/v"}]}]}}"#,
            422,
        ),
        post(
            PODS,
            r#"{"metadata":{"name":"q"},"spec":{"serviceAccountName":"nobody","containers":[{"name":"c","image":"i"}]}}"#,
            403,
        ),
        post(PODS, r#"{"metadata":{"generateName":"g-"},"spec":{}}"#, 422),
        merge(&format!("{PODS}/p"), r#"{"spec":{"containers":[{"name":"c","image":"j"}]}}"#, 422),
        merge(
            &format!("{PODS}/p/status"),
            r#"{"status":{"phase":"Running","podIP":"10.244.0.5","conditions":[{"type":"Ready","status":"True"}],"containerStatuses":[{"name":"c","image":"i","imageID":"x","ready":true,"restartCount":2,"started":true,"state":{"running":{"startedAt":"2026-01-01T00:00:00Z"}},"lastState":{}}]}}"#,
            200,
        ),
        get(PODS, 200).accept(TABLE),
        get(&format!("{PODS}?fieldSelector=status.phase%3DRunning"), 200),
        get(&format!("{PODS}?fieldSelector=status.phase%3DPending"), 200),
        get(&format!("{PODS}?fieldSelector=nonsense%3DPending"), 400),
        post(
            &format!("{PODS}/p/binding"),
            r#"{"metadata":{"name":"p"},"target":{"kind":"Node","name":"node-x"}}"#,
            201,
        ),
        post(
            &format!("{PODS}/p/binding"),
            r#"{"metadata":{"name":"p"},"target":{"kind":"Node","name":"node-y"}}"#,
            409,
        ),
        get(&format!("{PODS}/p"), 200),
        get(&format!("{PODS}/p/log?container=z"), 400),
        delete(&format!("{PODS}/p?gracePeriodSeconds=5"), "", 200),
        get(PODS, 200).accept(TABLE),
        delete(&format!("{PODS}/p?gracePeriodSeconds=0"), "", 200),
        get(&format!("{PODS}/p"), 404),
        post(
            PODS,
            r#"{"metadata":{"name":"two"},"spec":{"containers":[{"name":"a","image":"i"},{"name":"b","image":"i"}]}}"#,
            201,
        ),
        get(&format!("{PODS}/two/log"), 400),
        get(&format!("{PODS}/two/log?container=a"), 200),
        post(
            &format!("{PODS}/two/eviction"),
            r#"{"kind":"Eviction","apiVersion":"policy/v1","metadata":{"name":"two"}}"#,
            201,
        ),
        get(&format!("{PODS}/two"), 404),
    ]
}

fn deployments() -> Vec<Step> {
    let path = "/apis/apps/v1/namespaces/{ns}/deployments";
    let d = format!("{path}/d");
    vec![
        post(path, DEPLOYMENT, 201),
        get(path, 200).accept(TABLE),
        post(
            path,
            r#"{"metadata":{"name":"e"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"c"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}"#,
            422,
        ),
        post(path, r#"{"metadata":{"name":"e"},"spec":{"replicas":-1}}"#, 422),
        merge(&d, r#"{"spec":{"selector":{"matchLabels":{"x":"y"}}}}"#, 422),
        merge(&d, r#"{"spec":{"replicas":3}}"#, 200),
        merge(
            &format!("{d}/status"),
            r#"{"spec":{"replicas":9},"status":{"replicas":3,"readyReplicas":2,"updatedReplicas":3,"availableReplicas":1}}"#,
            200,
        ),
        get(path, 200).accept(TABLE),
        get(&format!("{d}/scale"), 200),
        merge(&format!("{d}/scale"), r#"{"spec":{"replicas":5}}"#, 200),
        put(
            &format!("{d}/scale"),
            r#"{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"d","namespace":"{ns}"},"spec":{"replicas":0}}"#,
            200,
        ),
        merge(&format!("{d}/scale"), r#"{"spec":{"replicas":-1}}"#, 422),
        get(&d, 200),
        delete(&d, r#"{"propagationPolicy":"Background"}"#, 200),
    ]
}

fn services() -> Vec<Step> {
    let path = "/api/v1/namespaces/{ns}/services";
    let slices = "/apis/discovery.k8s.io/v1/namespaces/{ns}/endpointslices";
    vec![
        post(
            path,
            r#"{"metadata":{"name":"s"},"spec":{"selector":{"a":"b"},"ports":[{"port":80,"targetPort":"http"}]}}"#,
            201,
        ),
        post(
            path,
            r#"{"metadata":{"name":"h"},"spec":{"clusterIP":"None","selector":{"a":"b"},"ports":[{"port":80}]}}"#,
            201,
        ),
        post(path, r#"{"metadata":{"name":"n"},"spec":{"type":"NodePort","ports":[{"port":80}]}}"#, 201),
        post(
            path,
            r#"{"metadata":{"name":"x"},"spec":{"type":"ExternalName","externalName":"example.com"}}"#,
            201,
        ),
        get(path, 200).accept(TABLE),
        post(path, r#"{"metadata":{"name":"bad"},"spec":{"ports":[]}}"#, 422),
        post(path, r#"{"metadata":{"name":"bad"},"spec":{"ports":[{"port":0}]}}"#, 422),
        post(path, r#"{"metadata":{"name":"bad"},"spec":{"ports":[{"port":80},{"port":81}]}}"#, 422),
        post(
            path,
            r#"{"metadata":{"name":"bad"},"spec":{"clusterIP":"192.0.2.9","ports":[{"port":80}]}}"#,
            422,
        ),
        post(path, r#"{"metadata":{"name":"1bad"},"spec":{"ports":[{"port":80}]}}"#, 422),
        merge(&format!("{path}/s"), r#"{"spec":{"clusterIP":"10.96.0.77"}}"#, 422),
        merge(&format!("{path}/n"), r#"{"spec":{"type":"ClusterIP"}}"#, 200),
        delete(&format!("{path}/s"), "", 200),
        post(
            slices,
            r#"{"metadata":{"name":"e","labels":{"kubernetes.io/service-name":"s"}},"addressType":"IPv4","endpoints":[{"addresses":["192.0.2.7"]}],"ports":[{"port":80}]}"#,
            201,
        ),
        get(slices, 200).accept(TABLE),
        post(
            slices,
            r#"{"metadata":{"name":"f"},"addressType":"IPv4","endpoints":[{"addresses":["nonsense"]}]}"#,
            422,
        ),
        post(
            "/api/v1/namespaces/{ns}/endpoints",
            r#"{"metadata":{"name":"s"},"subsets":[{"addresses":[{"ip":"192.0.2.7"}],"ports":[{"port":80}]}]}"#,
            201,
        ),
        get("/api/v1/namespaces/{ns}/endpoints", 200).accept(TABLE),
    ]
}

fn nodes() -> Vec<Step> {
    vec![
        post(
            "/api/v1/nodes",
            r#"{"metadata":{"name":"node-{ns}","labels":{"node-role.kubernetes.io/edge":""}},"spec":{"podCIDR":"10.244.9.0/24","podCIDRs":["10.244.9.0/24"]}}"#,
            201,
        ),
        merge(
            "/api/v1/nodes/node-{ns}/status",
            r#"{"status":{"capacity":{"cpu":"2","memory":"1000000Ki"},"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady"}],"addresses":[{"type":"InternalIP","address":"192.0.2.8"}],"nodeInfo":{"kubeletVersion":"v1.34.4","osImage":"x","kernelVersion":"6.1","containerRuntimeVersion":"containerd://1.7"}}}"#,
            200,
        ),
        get("/api/v1/nodes?fieldSelector=metadata.name%3Dnode-{ns}", 200).accept(TABLE),
        merge("/api/v1/nodes/node-{ns}", r#"{"spec":{"unschedulable":true}}"#, 200),
        get("/api/v1/nodes/node-{ns}", 200).accept(TABLE),
        get("/api/v1/nodes/nonsense/proxy/x", 404),
        delete("/api/v1/nodes/node-{ns}", "", 200),
    ]
}
