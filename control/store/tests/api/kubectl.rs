//! The commands of every day, by the kubectl of this machine and by any that `EDGELOOM_KUBECTL` lists
//! (separated by colons). Without kubectl there is nothing to try.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::server::{Server, post};

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

const KIND: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {colour: {type: string}}}}
    additionalPrinterColumns: [{name: Colour, type: string, jsonPath: .spec.colour}]
";

const WIDGET: &str = "apiVersion: example.com/v1
kind: Widget
metadata: {name: w}
spec: {colour: blue}
";

fn kubectls() -> Vec<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let own = path.split(':').map(|dir| PathBuf::from(dir).join("kubectl")).find(|file| file.is_file());
    let more = std::env::var("EDGELOOM_KUBECTL").unwrap_or_default();
    own.into_iter().chain(more.split(':').filter(|one| !one.is_empty()).map(PathBuf::from)).collect()
}

/// One command, what its output must hold, and whether it must succeed.
type Step = (&'static str, &'static str, bool);

const STEPS: &[Step] = &[
    ("apply -f web.yaml", "deployment.apps/web created", true),
    ("apply -f web.yaml", "deployment.apps/web unchanged", true),
    ("get all -o wide", "nginx", true),
    ("get deployment web -o jsonpath={.spec.selector.matchLabels.app}", "web", true),
    ("get deployment web -o yaml", "kind: Deployment", true),
    ("get service web", "ClusterIP", true),
    ("describe deployment web", "Pod Template", true),
    ("describe service web", "Endpoints", true),
    ("label deployment web tier=front", "labeled", true),
    ("get deployment -l tier=front -o name", "deployment.apps/web", true),
    ("annotate service web note=a", "annotated", true),
    ("scale deployment web --replicas=3", "scaled", true),
    ("get deployment web -o jsonpath={.spec.replicas}", "3", true),
    ("patch deployment web -p {\"spec\":{\"replicas\":2}}", "patched", true),
    ("patch deployment web --type=merge -p {\"spec\":{\"replicas\":1}}", "patched", true),
    (
        "patch deployment web --type=json -p [{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":4}]",
        "patched",
        true,
    ),
    ("set image deployment/web web=nginx:2", "image updated", true),
    ("get deployment web -o jsonpath={.spec.template.spec.containers[0].image}", "nginx:2", true),
    ("edit deployment web", "edited", true),
    ("get deployment web -o jsonpath={.metadata.labels.tier}", "back", true),
    ("replace -f web.yaml", "replaced", true),
    ("apply --server-side --force-conflicts -f web.yaml", "serverside-applied", true),
    ("diff -f web.yaml", "", true),
    ("apply -f kind.yaml", "created", true),
    ("wait --for=condition=Established crd/widgets.example.com --timeout=20s", "condition met", true),
    ("apply -f widget.yaml", "widget.example.com/w created", true),
    ("get widgets", "blue", true),
    ("patch widget w --type=merge -p {\"spec\":{\"colour\":\"red\"}}", "patched", true),
    ("get wd w -o jsonpath={.spec.colour}", "red", true),
    ("patch widget w -p {\"spec\":{\"colour\":\"red\"}}", "", false),
    ("delete -f kind.yaml", "deleted", true),
    ("create configmap c --from-literal=a=b", "created", true),
    ("create deployment d --image=i --replicas=0", "created", true),
    ("create secret generic s --from-literal=a=b", "created", true),
    ("create namespace n", "created", true),
    ("create serviceaccount robot", "created", true),
    ("create role r --verb=get --resource=pods", "created", true),
    ("create rolebinding b --role=r --serviceaccount=default:robot", "created", true),
    ("auth can-i delete nodes", "yes", true),
    ("auth can-i get secrets --as=system:serviceaccount:default:robot", "no", false),
    ("explain deployment.spec.replicas", "replicas", true),
    ("api-resources", "endpointslices", true),
    ("api-versions", "apps/v1", true),
    ("get --raw /readyz", "ok", true),
    ("run p --image=i --restart=Never", "created", true),
    ("get pods", "Pending", true),
    ("logs p", "", true),
    ("delete pod p --wait=false", "deleted", true),
    ("get configmap nonsense", "NotFound", false),
    ("get nonsense", "the server doesn't have a resource type", false),
    ("apply -f bad.yaml", "nonsense", false),
    ("delete -f web.yaml", "deleted", true),
    ("delete configmap,secret,deployment --all", "deleted", true),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_day() {
    let kubectls = kubectls();
    if kubectls.is_empty() {
        eprintln!("left out: there is no kubectl on this machine");
        return;
    }
    for kubectl in kubectls {
        let server = Server::start().await;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        post(&server.admin, "/api/v1/namespaces/default/serviceaccounts", &account).await;
        let home = server.dir.path().join("home");
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("config"), server.api.admin_kubeconfig().unwrap()).unwrap();
        std::fs::write(home.join("web.yaml"), WEB).unwrap();
        std::fs::write(home.join("kind.yaml"), KIND).unwrap();
        std::fs::write(home.join("widget.yaml"), WIDGET).unwrap();
        std::fs::write(home.join("bad.yaml"), WEB.replace("replicas: 0", "nonsense: 0")).unwrap();
        tokio::task::spawn_blocking(move || STEPS.iter().for_each(|step| run(&kubectl, &home, step)))
            .await
            .unwrap();
        server.stop().await;
    }
}

fn run(kubectl: &PathBuf, home: &std::path::Path, (line, wanted, succeeds): &Step) {
    let output = Command::new(kubectl)
        .args(line.split(' '))
        .current_dir(home)
        .env("KUBECONFIG", home.join("config"))
        .env("HOME", home)
        .env("KUBE_EDITOR", "sed -i s/tier:.front/tier:\\ back/")
        .output()
        .unwrap();
    let shown =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert_eq!(output.status.success(), *succeeds, "{} {line}: {shown}", kubectl.display());
    assert!(shown.contains(wanted), "{} {line}: wanted {wanted:?} in: {shown}", kubectl.display());
}
