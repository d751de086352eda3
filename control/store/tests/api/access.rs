//! Who may: certificates, tokens, roles, reviews.

use http::{Request, StatusCode};
use kube::Client;
use serde_json::json;

use crate::server::{CONFIG_MAPS, Server, get, post};

/// A client that shows a bearer token and no certificate.
async fn bearer(server: &Server, token: &str) -> Client {
    let url: http::Uri = server.api.url().parse().unwrap();
    let mut config = kube::Config::new(url);
    let pem = server.api.ca_certificate_pem().to_owned();
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    config.root_cert = Some(vec![block.contents]);
    config.auth_info.token = Some(token.to_owned().into());
    Client::try_from(config).unwrap()
}

async fn grant(server: &Server, user: &str) {
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]}],
    });
    assert_eq!(post(&server.admin, &format!("{rbac}/roles"), &role).await.0, StatusCode::CREATED);
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    assert_eq!(post(&server.admin, &format!("{rbac}/rolebindings"), &binding).await.0, StatusCode::CREATED);
}

/// Rights follow the store a moment later.
async fn eventually(client: &Client, path: &str, wanted: StatusCode) {
    for _ in 0..100 {
        if get(client, path).await.0 == wanted {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{path} never answered {wanted}");
}

#[tokio::test]
async fn roles_decide() {
    let server = Server::start().await;
    let anna = server.user("anna", &[]).await;
    let (code, refusal) = get(&anna, CONFIG_MAPS).await;
    assert_eq!(code, StatusCode::FORBIDDEN);
    assert_eq!(
        refusal["message"],
        "configmaps is forbidden: User \"anna\" cannot list resource \"configmaps\" in API group \"\" in the \
         namespace \"default\""
    );
    grant(&server, "anna").await;
    eventually(&anna, CONFIG_MAPS, StatusCode::OK).await;
    assert_eq!(get(&anna, "/api/v1/configmaps").await.0, StatusCode::FORBIDDEN);
    let review = |verb: &str| {
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {
            "resourceAttributes": {"verb": verb, "resource": "configmaps", "namespace": "default"}}})
    };
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    assert_eq!(post(&anna, reviews, &review("get")).await.1["status"]["allowed"], true);
    assert_eq!(post(&anna, reviews, &review("delete")).await.1["status"]["allowed"], false);
    server.stop().await;
}

#[tokio::test]
async fn strangers_see_health_alone() {
    let server = Server::start().await;
    let stranger = bearer(&server, "").await;
    assert_eq!(get(&stranger, "/healthz").await.0, StatusCode::OK);
    let (code, refusal) = get(&stranger, CONFIG_MAPS).await;
    assert!(matches!(code, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED), "{refusal}");
    let forger = bearer(&server, "eyJhbGciOiJub25lIn0.e30.").await;
    let (code, refusal) = get(&forger, "/healthz").await;
    assert_eq!((code, &refusal["reason"]), (StatusCode::UNAUTHORIZED, &json!("Unauthorized")));
    server.stop().await;
}

#[tokio::test]
async fn a_service_account_proves_itself_until_it_is_gone() {
    let server = Server::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa"}});
    post(&server.admin, accounts, &account).await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let (code, answer) = post(&server.admin, &format!("{accounts}/sa/token"), &request).await;
    assert_eq!(code, StatusCode::CREATED);
    let token = answer["status"]["token"].as_str().unwrap();
    let client = bearer(&server, token).await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let (_, who) = post(&client, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &review).await;
    assert_eq!(who["status"]["userInfo"]["username"], "system:serviceaccount:default:sa");
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    assert_eq!(post(&server.admin, reviews, &review).await.1["status"]["authenticated"], true);
    let (_, keys) = get(&server.admin, "/openid/v1/jwks").await;
    assert_eq!(keys["keys"][0]["alg"], "ES256");
    crate::server::send(&server.admin, "DELETE", &format!("{accounts}/sa"), "application/json", "").await;
    assert_eq!(get(&client, "/healthz").await.0, StatusCode::UNAUTHORIZED);
    let (_, after) = post(&server.admin, reviews, &review).await;
    assert!(after["status"].get("authenticated").is_none(), "{after}");
    server.stop().await;
}

#[tokio::test]
async fn acting_as_another_takes_the_right_to() {
    let server = Server::start().await;
    let as_bob = |client: &Client| {
        let client = client.clone();
        async move {
            let request = Request::get(CONFIG_MAPS).header("impersonate-user", "bob");
            client.send(request.body(kube::client::Body::empty()).unwrap()).await.unwrap().status()
        }
    };
    grant(&server, "bob").await;
    let mut code = as_bob(&server.admin).await;
    for _ in 0..100 {
        if code == StatusCode::OK {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        code = as_bob(&server.admin).await;
    }
    assert_eq!(code, StatusCode::OK);
    let anna = server.user("anna", &[]).await;
    assert_eq!(as_bob(&anna).await, StatusCode::FORBIDDEN);
    server.stop().await;
}
