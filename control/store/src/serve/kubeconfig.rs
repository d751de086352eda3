//! kubeconfig files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::auth::pki::Pair;

/// A kubeconfig (YAML) with everything embedded.
pub(super) fn render(server: &str, ca_pem: &str, user: &str, pair: &Pair) -> String {
    let cluster = json!({"server": server, "certificate-authority-data": STANDARD.encode(ca_pem)});
    let credentials = json!({
        "client-certificate-data": STANDARD.encode(&pair.certificate),
        "client-key-data": STANDARD.encode(&pair.key),
    });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "edgeloom", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "edgeloom", "context": {"cluster": "edgeloom", "user": user}}],
        "current-context": "edgeloom",
    });
    serde_yaml_ng::to_string(&config).unwrap_or_default()
}
