//! Questions of a node that wait for an answer.

use edgeloom_api::hub::{Answer, Failure, Request};
use edgeloom_api::kind::SERVICE_ACCOUNT;
use edgeloom_tunnel::identity::Verified;
use http::Method;
use serde_json::Value;

use super::Shared;
use super::uplink::request;

/// Answers `asked`.
pub(super) async fn answer(shared: &Shared, node: &Verified, asked: Request) -> Result<Answer, Failure> {
    let result = match asked {
        Request::Token { namespace, service_account, body } => {
            token(shared, node, &namespace, &service_account, &body).await.map(Answer::Object)
        }
        Request::Renew => {
            shared.join.renew(node).await.map(|credential| Answer::Credential(credential.into()))
        }
        Request::Unknown => Err(failure(501, "this control does not know that question: upgrade it")),
    };
    let label = if result.is_ok() { "answered" } else { "refused" };
    shared.metrics.requests.with_label_values(&[label]).inc();
    result
}

/// A token of a service account, for a pod on the node and bound to it.
async fn token(
    shared: &Shared,
    node: &Verified,
    namespace: &str,
    account: &str,
    body: &Value,
) -> Result<Value, Failure> {
    let bound = &body["spec"]["boundObjectRef"];
    let (kind, uid) = (bound["kind"].as_str(), bound["uid"].as_str().unwrap_or_default());
    let pods = shared.cache.pods_on(node.node.as_str());
    let allowed = kind == Some("Pod")
        && pods
            .iter()
            .any(|(home, pod)| home == namespace && pod.uid == uid && pod.service_account == account);
    if !allowed {
        let message = format!(
            "node {} asked for a token of service account {namespace}/{account} that is not bound to a pod of this \
             account on it",
            node.node
        );
        return Err(failure(403, &message));
    }
    let path = format!("{}/token", SERVICE_ACCOUNT.path(namespace, Some(account)));
    request(&shared.client, Method::POST, &path, "application/json", body).await.map_err(
        |error| match error {
            kube::Error::Api(status) => failure(status.code, &status.message),
            other => failure(503, &other.to_string()),
        },
    )
}

fn failure(code: u16, message: &str) -> Failure {
    Failure { code, message: message.to_owned() }
}
