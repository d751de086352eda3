//! Runs a case against one API and keeps its answers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use http::Request;
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use crate::script::{Case, Step};

/// An API under test.
pub(crate) struct Target {
    client: Client,
    kubeconfig: PathBuf,
    home: PathBuf,
}

/// What a step was answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// Status code of a request, exit code of a command.
    pub(crate) code: i64,
    pub(crate) body: Value,
}

/// A client of the cluster that a kubeconfig names.
pub(crate) async fn client(kubeconfig: &str) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

impl Target {
    /// An API by its kubeconfig; `dir` takes the files that kubectl needs.
    pub(crate) async fn new(name: &str, kubeconfig: &str, dir: &Path) -> anyhow::Result<Self> {
        let home = dir.join(format!("home-{name}"));
        std::fs::create_dir_all(&home)?;
        let path = home.join("config");
        std::fs::write(&path, kubeconfig)?;
        Ok(Self { client: client(kubeconfig).await?, kubeconfig: path, home })
    }

    async fn request(&self, step: &Step, namespace: &str) -> anyhow::Result<Answer> {
        let Step::Request { method, path, content_type, accept, body, .. } = step else {
            anyhow::bail!("no request")
        };
        let fill = |text: &str| text.replace("{ns}", namespace);
        let request = Request::builder()
            .method(*method)
            .uri(fill(path))
            .header("content-type", *content_type)
            .header("accept", *accept)
            .header("user-agent", "conformance/1")
            .body(Body::from(fill(body).into_bytes()))?;
        let response = self.client.send(request).await?;
        let code = i64::from(response.status().as_u16());
        let warnings: Vec<String> = response
            .headers()
            .get_all("warning")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(str::to_owned)
            .collect();
        let bytes = response.into_body().collect().await?.to_bytes();
        let mut body = parsed(&String::from_utf8_lossy(&bytes));
        if !warnings.is_empty() {
            body = json!({"warnings": warnings, "body": body});
        }
        Ok(Answer { code, body })
    }

    fn kubectl(&self, line: &str, input: &str, namespace: &str) -> anyhow::Result<Answer> {
        let mut child = Command::new("kubectl")
            .args(["--namespace", namespace])
            .args(line.split(' '))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start kubectl; is it installed?")?;
        if let Some(mut stdin) = child.stdin.take() {
            use std::io::Write as _;
            // A command that reads nothing closes its end: no matter.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Answer {
            code: i64::from(output.status.code().unwrap_or(-1)),
            body: json!({"out": parsed(&text(&output.stdout)), "err": text(&output.stderr)}),
        })
    }
}

/// JSON, or a list of JSON lines, or text.
fn parsed(text: &str) -> Value {
    if let Ok(value) = serde_json::from_str(text) {
        return value;
    }
    let lines: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    lines.map_or_else(|_| json!(text), Value::Array)
}

/// Runs all steps in a namespace of the case's own.
pub(crate) async fn case(target: &Target, case: &Case) -> anyhow::Result<Vec<Answer>> {
    let namespace = format!("conf-{}", case.name);
    for (path, object) in [
        ("/api/v1/namespaces".to_owned(), json!({"metadata": {"name": namespace}})),
        (
            format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
            json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false}),
        ),
    ] {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(Body::from(object.to_string().into_bytes()))?;
        let response = target.client.send(request).await?;
        anyhow::ensure!(response.status().is_success(), "cannot prepare {namespace}: {}", response.status());
    }
    let mut answers = Vec::with_capacity(case.steps.len());
    for step in &case.steps {
        answers.push(match step {
            Step::Request { .. } => target.request(step, &namespace).await?,
            Step::Kubectl { line, input, .. } => {
                let (line, input) = (line.replace("{ns}", &namespace), input.replace("{ns}", &namespace));
                tokio::task::block_in_place(|| target.kubectl(&line, &input, &namespace))?
            }
        });
    }
    Ok(answers)
}
