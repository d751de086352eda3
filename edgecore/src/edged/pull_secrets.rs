//! Credentials for registries, from the Secrets that a pod names.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::cluster::Cluster;
use super::objects::{self, Source};
use super::pod::Pod;
use crate::cri::proto::AuthConfig;

/// Registry of an image reference, as Docker reads it.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

/// Credentials of the pod's pull secrets for the image's registry; the last one is tried first.
pub(super) fn credentials(pod: &Pod, image: &str, cluster: &dyn Cluster) -> Vec<AuthConfig> {
    let registry = registry(image);
    let mut found = Vec::new();
    for reference in pod.spec.image_pull_secrets.iter().flatten() {
        let data = objects::data(cluster, Source::Secret, &pod.id.namespace, &reference.name, true);
        let Ok(Some(data)) = data else { continue };
        let Some(config) = data.get(".dockerconfigjson").or_else(|| data.get(".dockercfg")) else { continue };
        let Ok(config) = serde_json::from_slice::<Value>(config) else { continue };
        let all = config.get("auths").unwrap_or(&config).as_object().into_iter().flatten();
        found.extend(
            all.filter(|(server, _)| serves(server, registry)).map(|(server, entry)| auth(server, entry)),
        );
    }
    found
}

fn serves(server: &str, registry: &str) -> bool {
    let host = server.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or(host);
    host == registry
        || (registry == "docker.io" && matches!(host, "index.docker.io" | "registry-1.docker.io"))
}

fn auth(server: &str, entry: &Value) -> AuthConfig {
    let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let pair = STANDARD.decode(text("auth")).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (user, password) = pair
        .as_deref()
        .and_then(|pair| pair.split_once(':'))
        .map_or_else(|| (text("username"), text("password")), |(u, p)| (u.to_owned(), p.to_owned()));
    AuthConfig {
        username: user,
        password,
        server_address: server.to_owned(),
        identity_token: text("identitytoken"),
        ..AuthConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edged::pod::tests::pod;
    use crate::edged::testing::Memory;
    use edgeloom_api::kind;
    use serde_json::json;

    #[test]
    fn credentials_for_the_right_registry() {
        let cluster = Memory::default();
        let config = json!({"auths": {
            "https://index.docker.io/v1/": {"auth": STANDARD.encode("u:p:q")},
            "registry.example:5000": {"username": "a", "password": "b"}}});
        cluster.put(
            &kind::SECRET,
            json!({
            "metadata": {"namespace": "shop", "name": "pull"},
            "data": {".dockerconfigjson": STANDARD.encode(config.to_string())}}),
        );
        let pod = pod(
            json!({"containers": [{"name": "c"}], "imagePullSecrets": [{"name": "pull"}, {"name": "x"}]}),
        );
        let of = |image: &str| -> Vec<(String, String)> {
            credentials(&pod, image, &cluster).into_iter().map(|c| (c.username, c.password)).collect()
        };
        assert_eq!(of("busybox:1"), [("u".to_owned(), "p:q".to_owned())]);
        assert_eq!(of("registry.example:5000/x"), [("a".to_owned(), "b".to_owned())]);
        assert!(of("ghcr.io/x").is_empty());
    }
}
