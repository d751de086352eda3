//! Objects: made, read in every form, patched in every way, applied, deleted.

use http::StatusCode;
use serde_json::json;

use crate::server::{APPLY, CONFIG_MAPS, JSON, MERGE, Server, config_map, get, post, send};

#[tokio::test]
async fn made_read_changed_deleted() {
    let server = Server::start().await;
    let admin = &server.admin;
    let (code, made) = post(admin, CONFIG_MAPS, &config_map("a", json!({"x": "1"}))).await;
    assert_eq!((code, &made["data"]["x"]), (StatusCode::CREATED, &json!("1")));
    let (code, twice) = post(admin, CONFIG_MAPS, &config_map("a", json!({}))).await;
    assert_eq!((code, &twice["message"]), (StatusCode::CONFLICT, &json!("configmaps \"a\" already exists")));
    let one = format!("{CONFIG_MAPS}/a");
    let (code, merged) = send(admin, "PATCH", &one, MERGE, r#"{"data":{"y":"2"}}"#).await;
    assert_eq!((code, &merged["data"]), (StatusCode::OK, &json!({"x": "1", "y": "2"})));
    let (code, stale) = send(admin, "PUT", &one, JSON, made.to_string()).await;
    assert_eq!(code, StatusCode::CONFLICT);
    assert!(stale["message"].as_str().unwrap().contains("the object has been modified"));
    let json_patch = r#"[{"op":"remove","path":"/data/x"}]"#;
    let (_, patched) = send(admin, "PATCH", &one, "application/json-patch+json", json_patch).await;
    assert_eq!(patched["data"], json!({"y": "2"}));
    let dry = format!("{one}?dryRun=All");
    let (_, shown) = send(admin, "PATCH", &dry, MERGE, r#"{"data":{"y":"3"}}"#).await;
    assert_eq!(shown["data"]["y"], "3");
    assert_eq!(get(admin, &one).await.1["data"]["y"], "2");
    let (code, gone) = send(admin, "DELETE", &one, JSON, "").await;
    assert_eq!((code, &gone["status"]), (StatusCode::OK, &json!("Success")));
    assert_eq!(get(admin, &one).await.0, StatusCode::NOT_FOUND);
    server.stop().await;
}

#[tokio::test]
async fn a_list_in_pages() {
    let server = Server::start().await;
    for number in 0..5 {
        let name = format!("m{number}");
        post(&server.admin, CONFIG_MAPS, &config_map(&name, json!({}))).await;
    }
    let (_, first) = get(&server.admin, &format!("{CONFIG_MAPS}?limit=2")).await;
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    let token = first["metadata"]["continue"].as_str().unwrap();
    post(&server.admin, CONFIG_MAPS, &config_map("m9", json!({}))).await;
    let (_, rest) = get(&server.admin, &format!("{CONFIG_MAPS}?limit=10&continue={token}")).await;
    let names: Vec<&str> =
        rest["items"].as_array().unwrap().iter().filter_map(|one| one["metadata"]["name"].as_str()).collect();
    // The second page is of the first one's version: what came between is not in it.
    assert_eq!(names, ["m2", "m3", "m4"]);
    server.stop().await;
}

#[tokio::test]
async fn applied_by_two() {
    let server = Server::start().await;
    let path = |manager: &str| format!("{CONFIG_MAPS}/a?fieldManager={manager}");
    let apply = |manager: &str, data| {
        let (client, path) = (server.admin.clone(), path(manager));
        let body = config_map("a", data).to_string();
        async move { send(&client, "PATCH", &path, APPLY, body).await }
    };
    assert_eq!(apply("one", json!({"x": "1", "y": "1"})).await.0, StatusCode::CREATED);
    let (code, refusal) = apply("two", json!({"x": "2"})).await;
    assert_eq!(code, StatusCode::CONFLICT);
    assert_eq!(refusal["message"], "Apply failed with 1 conflict: conflict with \"one\": .data.x");
    assert_eq!(refusal["details"]["causes"][0]["field"], ".data.x");
    let forced = format!("{}&force=true", path("two"));
    let (_, taken) =
        send(&server.admin, "PATCH", &forced, APPLY, config_map("a", json!({"x": "2"})).to_string()).await;
    assert_eq!(taken["data"], json!({"x": "2", "y": "1"}));
    let (_, left) = apply("one", json!({})).await;
    assert_eq!(left["data"], json!({"x": "2"}));
    let version = left["metadata"]["resourceVersion"].clone();
    assert_eq!(apply("one", json!({})).await.1["metadata"]["resourceVersion"], version);
    server.stop().await;
}

#[tokio::test]
async fn status_and_scale_are_apart() {
    let server = Server::start().await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    });
    let collection = "/apis/apps/v1/namespaces/default/deployments";
    post(&server.admin, collection, &deployment).await;
    let one = format!("{collection}/d");
    let patch = r#"{"spec":{"replicas":7},"status":{"readyReplicas":3}}"#;
    let (_, status) = send(&server.admin, "PATCH", &format!("{one}/status"), MERGE, patch).await;
    assert_eq!((&status["spec"]["replicas"], &status["status"]["readyReplicas"]), (&json!(1), &json!(3)));
    let (_, main) = send(&server.admin, "PATCH", &one, MERGE, patch).await;
    assert_eq!((&main["spec"]["replicas"], &main["status"]["readyReplicas"]), (&json!(7), &json!(3)));
    let scale = format!("{one}/scale");
    let (_, shown) = get(&server.admin, &scale).await;
    assert_eq!((&shown["kind"], &shown["status"]["selector"]), (&json!("Scale"), &json!("a=b")));
    let (code, _) = send(&server.admin, "PATCH", &scale, MERGE, r#"{"spec":{"replicas":2}}"#).await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(get(&server.admin, &one).await.1["spec"]["replicas"], 2);
    server.stop().await;
}

#[tokio::test]
async fn what_was_stored_outlives_the_server() {
    let server = Server::start().await;
    post(&server.admin, CONFIG_MAPS, &config_map("a", json!({"x": "1"}))).await;
    let (dir, ca) = (server.dir, server.api.ca_certificate_pem().to_owned());
    drop(server.admin);
    server.api.shutdown(std::time::Duration::from_secs(5)).await;
    let config = edgeloom_store::ServerConfig::new(dir.path(), "127.0.0.1:0".parse().unwrap());
    let api = edgeloom_store::ApiServer::start(config, &prometheus::Registry::new()).await.unwrap();
    assert_eq!(api.ca_certificate_pem(), ca);
    let admin = crate::server::client(&api.admin_kubeconfig().unwrap()).await;
    assert_eq!(get(&admin, &format!("{CONFIG_MAPS}/a")).await.1["data"]["x"], "1");
    drop(admin);
    api.shutdown(std::time::Duration::from_secs(5)).await;
}
