//! A real kube-apiserver with etcd, on loopback ports of its own, with keys made for the occasion.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use edgeloom_ports::free;
use edgeloom_store::auth::pki::{Authority, Pair};

/// How long the server may take to be ready.
const PATIENCE: Duration = Duration::from_secs(90);

/// Both processes; stopped when dropped.
pub(crate) struct Real {
    children: Vec<Child>,
    authority: Authority,
    port: u16,
}

impl Real {
    /// Starts both and waits until the API is ready. State, keys and logs are in `dir`.
    pub(crate) async fn start(assets: &Path, dir: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let authority = Authority::load_or_create(dir, "conformance-ca")?;
        save(
            dir,
            "apiserver",
            &authority.server("kube-apiserver", &["127.0.0.1".into(), "localhost".into()])?,
        )?;
        save(
            dir,
            "kubelet-client",
            &authority.client("kube-apiserver-kubelet-client", &["system:masters"])?,
        )?;
        // The same key signs and checks service-account tokens.
        save(dir, "sa", &authority.server("sa", &[])?)?;
        let (etcd_port, peer_port, port) = (free().port(), free().port(), free().port());
        let etcd = format!("http://127.0.0.1:{etcd_port}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let mut real = Self { children: Vec::new(), authority, port };
        real.spawn(
            dir,
            &assets.join("etcd"),
            &[
                "--data-dir=etcd".to_owned(),
                "--unsafe-no-fsync".to_owned(),
                format!("--listen-client-urls={etcd}"),
                format!("--advertise-client-urls={etcd}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster=default={peer}"),
            ],
        )?;
        let flags = [
            "--bind-address=127.0.0.1",
            // Documentation range: nothing is to reach it there.
            "--advertise-address=192.0.2.1",
            "--client-ca-file=ca.crt",
            "--tls-cert-file=apiserver.crt",
            "--tls-private-key-file=apiserver.key",
            "--service-account-key-file=sa.crt",
            "--service-account-signing-key-file=sa.key",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-cluster-ip-range=10.96.0.0/12,fd00:10:96::/108",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            "--kubelet-certificate-authority=ca.crt",
            "--kubelet-client-certificate=kubelet-client.crt",
            "--kubelet-client-key=kubelet-client.key",
        ];
        let mut flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        flags.push(format!("--etcd-servers={etcd}"));
        flags.push(format!("--secure-port={port}"));
        real.spawn(dir, &assets.join("kube-apiserver"), &flags)?;
        real.wait(dir).await?;
        Ok(real)
    }

    fn spawn(&mut self, dir: &Path, program: &Path, flags: &[String]) -> anyhow::Result<()> {
        let name = program.file_name().context("a program has a name")?;
        let log = fs::File::create(dir.join(name).with_extension("log"))?;
        let child = Command::new(program)
            .args(flags)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| {
                format!("cannot start {}; does KUBEBUILDER_ASSETS hold it?", program.display())
            })?;
        self.children.push(child);
        Ok(())
    }

    async fn wait(&self, dir: &Path) -> anyhow::Result<()> {
        let client = crate::run::client(&self.kubeconfig()?).await?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < deadline {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            if client.request_text(request).await.is_ok_and(|text| text == "ok") {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        bail!("kube-apiserver is not ready; see {}", dir.join("kube-apiserver.log").display())
    }

    /// A kubeconfig of an administrator.
    pub(crate) fn kubeconfig(&self) -> anyhow::Result<String> {
        use base64::Engine as _;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let pair = self.authority.client("kubernetes-admin", &["system:masters"])?;
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority-data": encode(self.authority.certificate_pem()),
            }}],
            "users": [{"name": "c", "user": {
                "client-certificate-data": encode(&pair.certificate), "client-key-data": encode(&pair.key),
            }}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        Ok(serde_yaml_ng::to_string(&config)?)
    }

    /// Ends both processes.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn save(dir: &Path, name: &str, pair: &Pair) -> anyhow::Result<()> {
    fs::write(dir.join(format!("{name}.crt")), &pair.certificate)?;
    fs::write(dir.join(format!("{name}.key")), &pair.key)?;
    Ok(())
}
