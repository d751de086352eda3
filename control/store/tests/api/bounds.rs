//! Bad input: refused in the server's words, bounded, and nobody else the worse for it.

use http::StatusCode;

use crate::server::{CONFIG_MAPS, JSON, Server, get, send};

#[tokio::test]
async fn bodies_that_make_no_sense() {
    let server = Server::start().await;
    let admin = &server.admin;
    for (body, code) in [
        ("nonsense".to_owned(), StatusCode::BAD_REQUEST),
        (String::new(), StatusCode::BAD_REQUEST),
        ("[".repeat(200_000), StatusCode::BAD_REQUEST),
        ("x".repeat(4 * 1024 * 1024), StatusCode::PAYLOAD_TOO_LARGE),
        (r#"{"metadata":{"name":"UPPER"}}"#.to_owned(), StatusCode::UNPROCESSABLE_ENTITY),
        (r#"{"metadata":{"name":"a"},"data":{"x":1}}"#.to_owned(), StatusCode::BAD_REQUEST),
        (r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#.to_owned(), StatusCode::BAD_REQUEST),
    ] {
        let shown = body.chars().take(40).collect::<String>();
        let (got, answer) = send(admin, "POST", CONFIG_MAPS, JSON, body).await;
        assert_eq!(got, code, "{shown}: {answer}");
        assert_eq!(answer["kind"], "Status", "{shown}");
    }
    let aliases = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned()
        + &(0..30)
            .map(|level| {
                let (before, here) = (char::from(b'a' + level % 26), level);
                format!("k{here}: &k{here} [*{before},*{before},*{before},*{before},*{before},*{before}]\n")
            })
            .collect::<String>();
    assert_eq!(
        send(admin, "POST", CONFIG_MAPS, "application/yaml", aliases).await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        send(admin, "POST", CONFIG_MAPS, "text/html", "{}").await.0,
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    );
    assert_eq!(get(admin, "/healthz").await.0, StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn paths_and_methods_that_are_not_there() {
    let server = Server::start().await;
    for (method, path, code) in [
        ("GET", "/api/v1/nonsense", StatusCode::NOT_FOUND),
        ("GET", "/nonsense", StatusCode::NOT_FOUND),
        ("GET", "/apis/apps/v9", StatusCode::NOT_FOUND),
        ("PUT", CONFIG_MAPS, StatusCode::METHOD_NOT_ALLOWED),
        ("POST", "/api/v1/namespaces/default/configmaps/a", StatusCode::METHOD_NOT_ALLOWED),
        ("GET", "/api/v1/namespaces/default/pods/a/nonsense", StatusCode::NOT_FOUND),
    ] {
        let (got, answer) = send(&server.admin, method, path, JSON, "").await;
        assert_eq!(got, code, "{method} {path}: {answer}");
    }
    server.stop().await;
}
