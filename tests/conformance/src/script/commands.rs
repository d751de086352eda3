//! kubectl, as people use it.

use super::{Case, Step, kubectl, kubectl_with};

const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
";
const CHANGED: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web, tier: front}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx, env: [{name: A, value: b}]}]}
";
const UNKNOWN: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {nonsense: 1}
";

pub(super) fn cases() -> Vec<Case> {
    vec![Case { name: "kubectl", steps: every_day() }, Case { name: "kubectl-create", steps: imperative() }]
}

fn every_day() -> Vec<Step> {
    let mut steps = vec![kubectl_with("apply -f -", WEB, 0), kubectl_with("apply -f -", WEB, 0)];
    for (line, code) in [
        ("get all -o wide", 0),
        ("get deployment web -o json --show-managed-fields", 0),
        ("get service web -o yaml", 0),
        ("describe deployment web", 0),
        ("describe service web", 0),
        ("label deployment web tier=back", 0),
        ("annotate service web note=a", 0),
        ("scale deployment web --replicas=3", 0),
        ("scale deployment web --current-replicas=7 --replicas=1", 1),
        ("set image deployment/web web=nginx:2", 0),
        ("set env deployment/web X=y", 0),
        ("patch deployment web -p {\"spec\":{\"replicas\":2}}", 0),
        ("patch deployment web --type=json -p [{\"op\":\"remove\",\"path\":\"/nonsense\"}]", 1),
        ("get deployment -l tier=back -o name", 0),
        ("get deployment,service -o custom-columns=N:.metadata.name,R:.spec.replicas", 0),
        ("get configmap nonsense", 1),
        ("get nonsense", 1),
        ("delete configmap nonsense", 1),
        ("delete configmap nonsense --ignore-not-found", 0),
        ("rollout history deployment web", 0),
        ("logs nonsense", 1),
        ("top pods", 1),
    ] {
        steps.push(kubectl(line, code));
    }
    steps.extend([
        kubectl_with("diff -f -", CHANGED, 1),
        kubectl_with("apply -f -", CHANGED, 0),
        kubectl_with("apply -f -", UNKNOWN, 1),
        kubectl_with("create -f -", WEB, 1),
        kubectl_with("apply --server-side -f -", CHANGED, 0),
        kubectl_with("apply --server-side --field-manager=other -f -", WEB, 0),
        kubectl_with("replace -f -", CHANGED, 0),
        kubectl("get deployment web -o json --show-managed-fields", 0),
        kubectl_with("delete -f -", WEB, 0),
    ]);
    steps
}

fn imperative() -> Vec<Step> {
    [
        ("create configmap c --from-literal=a=b", 0),
        ("create configmap c --from-literal=a=b", 1),
        ("create secret generic s --from-literal=a=b", 0),
        ("create serviceaccount robot", 0),
        ("create deployment d --image=i --replicas=0 --port=80", 0),
        ("expose deployment d --port=80 --target-port=8080", 0),
        ("create service nodeport n --tcp=80:80", 0),
        ("create role r --verb=get --resource=pods", 0),
        ("create rolebinding b --role=r --serviceaccount={ns}:robot", 0),
        ("run p --image=i --restart=Never", 0),
        ("run q --image=i --labels=a=b --env=X=Y --port=80 --dry-run=server -o yaml", 0),
        ("get pods,deployments,services,serviceaccounts,roles,rolebindings,configmaps,secrets", 0),
        ("get all -o yaml", 0),
        ("describe pod p", 0),
        ("logs p", 0),
        ("exec p -- ls", 1),
        ("delete pod p --now", 0),
        ("delete deployment,service --all", 0),
    ]
    .into_iter()
    .map(|(line, code)| kubectl(line, code))
    .collect()
}
