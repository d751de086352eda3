//! Watches: every change once and in order, in every form, for as long as asked.

use futures::AsyncBufReadExt as _;
use futures::StreamExt as _;
use http::Request;
use kube::Client;
use serde_json::{Value, json};

use crate::server::{CONFIG_MAPS, JSON, MERGE, Server, config_map, get, post, send};

/// The events of a watch until the server ends it.
async fn events(client: &Client, query: &str, accept: &str) -> Vec<Value> {
    let request = Request::get(format!("{CONFIG_MAPS}?watch=true&{query}")).header("accept", accept);
    let stream = client.request_stream(request.body(Vec::new()).unwrap()).await.unwrap();
    stream.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect().await
}

#[tokio::test]
async fn changes_in_order() {
    let server = Server::start().await;
    let from = get(&server.admin, CONFIG_MAPS).await.1["metadata"]["resourceVersion"].clone();
    let query = format!("resourceVersion={}&timeoutSeconds=2", from.as_str().unwrap());
    let client = server.admin.clone();
    let watch = tokio::spawn(async move { events(&client, &query, JSON).await });
    post(&server.admin, CONFIG_MAPS, &config_map("a", json!({"x": "1"}))).await;
    let one = format!("{CONFIG_MAPS}/a");
    send(&server.admin, "PATCH", &one, MERGE, r#"{"data":{"x":"2"}}"#).await;
    send(&server.admin, "DELETE", &one, JSON, "").await;
    let seen = watch.await.unwrap();
    let types: Vec<&str> = seen.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(types, ["ADDED", "MODIFIED", "DELETED"]);
    assert_eq!(seen[1]["object"]["data"]["x"], "2");
    server.stop().await;
}

#[tokio::test]
async fn what_leaves_the_selector_is_deleted() {
    let server = Server::start().await;
    let mut labelled = config_map("a", json!({}));
    labelled["metadata"]["labels"] = json!({"l": "v"});
    post(&server.admin, CONFIG_MAPS, &labelled).await;
    let client = server.admin.clone();
    let watch =
        tokio::spawn(async move { events(&client, "labelSelector=l%3Dv&timeoutSeconds=2", JSON).await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    send(&server.admin, "PATCH", &format!("{CONFIG_MAPS}/a"), MERGE, r#"{"metadata":{"labels":null}}"#).await;
    let seen = watch.await.unwrap();
    let types: Vec<&str> = seen.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(types, ["ADDED", "DELETED"]);
    server.stop().await;
}

#[tokio::test]
async fn as_tables_with_one_head() {
    let server = Server::start().await;
    for name in ["a", "b"] {
        post(&server.admin, CONFIG_MAPS, &config_map(name, json!({}))).await;
    }
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let seen = events(&server.admin, "timeoutSeconds=1", table).await;
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0]["object"]["kind"], "Table");
    assert_eq!(seen[0]["object"]["columnDefinitions"].as_array().unwrap().len(), 3);
    assert_eq!(seen[1]["object"]["columnDefinitions"], json!(null));
    assert_eq!(seen[1]["object"]["rows"][0]["cells"][0], "b");
    server.stop().await;
}

#[tokio::test]
async fn the_initial_state_ends_with_a_bookmark() {
    let server = Server::start().await;
    post(&server.admin, CONFIG_MAPS, &config_map("a", json!({}))).await;
    let query =
        "sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1";
    let seen = events(&server.admin, query, JSON).await;
    let last = seen.last().unwrap();
    assert_eq!((&seen[0]["type"], &last["type"]), (&json!("ADDED"), &json!("BOOKMARK")));
    assert_eq!(last["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_them() {
    let server = Server::start().await;
    let client = server.admin.clone();
    let watch = tokio::spawn(async move { events(&client, "timeoutSeconds=600", JSON).await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let started = std::time::Instant::now();
    server.stop().await;
    assert!(watch.await.unwrap().is_empty());
    assert!(started.elapsed() < std::time::Duration::from_secs(5));
}
