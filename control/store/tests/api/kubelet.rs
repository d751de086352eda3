//! Logs and exec: what reaches the kubelet, and what of its answer reaches the client.

use std::sync::Arc;

use edgeloom_store::auth::pki::{Authority, user_of};
use http::StatusCode;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{MERGE, Server, get, post, send};

fn roots(server: &Server) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.api.ca_certificate_pem().as_bytes()).unwrap()).unwrap();
    roots
}

/// A kubelet that demands a client certificate: it answers logs with what it was asked and by whom,
/// accepts SPDY and echoes, and refuses all other upgrades.
async fn kubelet(server: &Server) -> u16 {
    let authority = Authority::load_or_create(&server.dir.path().join("pki"), "").unwrap();
    let pair = authority.server("node", &["127.0.0.1".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots(server)),
        provider.clone(),
    );
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.clone()));
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let client = user_of(&stream.get_ref().1.peer_certificates().unwrap()[0]).unwrap();
                let mut stream = BufReader::new(stream);
                let mut head = Vec::new();
                while head.last().is_none_or(|line: &String| line != "\r\n") {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.unwrap();
                    head.push(line);
                }
                let asked = head[0].split(' ').nth(1).unwrap().to_owned();
                let head = head.concat().to_lowercase();
                if head.contains("upgrade: spdy/3.1") {
                    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    stream.write_all(asked.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                    let mut bytes = [0; 64];
                    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
                        stream.write_all(&bytes[..count]).await.unwrap();
                        stream.flush().await.unwrap();
                    }
                    return;
                }
                let (code, body) = if head.contains("upgrade:") {
                    ("403 Forbidden", "unable to upgrade: only SPDY".to_owned())
                } else {
                    ("200 OK", format!("{asked} for {}\n", client.name))
                };
                let answer = format!(
                    "HTTP/1.1 {code}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            });
        }
    });
    port
}

/// A node with that kubelet, and a pod of two containers on it.
async fn node_and_pod(server: &Server) {
    let port = kubelet(server).await;
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        },
    });
    assert_eq!(post(&server.admin, "/api/v1/nodes", &node).await.0, StatusCode::CREATED);
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    post(&server.admin, "/api/v1/namespaces/default/serviceaccounts", &account).await;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]},
    });
    let (code, made) = post(&server.admin, "/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
}

#[tokio::test]
async fn logs_pass_through() {
    let server = Server::start().await;
    node_and_pod(&server).await;
    let log = "/api/v1/namespaces/default/pods/p/log";
    let (code, refusal) = get(&server.admin, log).await;
    assert_eq!(code, StatusCode::BAD_REQUEST);
    assert_eq!(refusal["message"], "a container name must be specified for pod p, choose one of: [a b]");
    let (code, text) = get(&server.admin, &format!("{log}?container=b&tailLines=5&follow=true")).await;
    assert_eq!(code, StatusCode::OK);
    let expected = "/containerLogs/default/p/b?tailLines=5&follow=true for kube-apiserver-kubelet-client\n";
    let sorted = |text: &str| {
        let mut letters: Vec<char> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    // The order of the parameters is nobody's business.
    assert_eq!(sorted(text.as_str().unwrap()), sorted(expected));
    let (_, text) = get(&server.admin, "/api/v1/nodes/n/proxy/stats/summary?x=y").await;
    assert_eq!(text, "/stats/summary?x=y for kube-apiserver-kubelet-client\n");
    server.stop().await;
}

#[tokio::test]
async fn a_kubelet_that_is_not_there_is_named() {
    let server = Server::start().await;
    node_and_pod(&server).await;
    let patch = r#"{"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":1}}}}"#;
    send(&server.admin, "PATCH", "/api/v1/nodes/n/status", MERGE, patch).await;
    let (code, refusal) = get(&server.admin, "/api/v1/namespaces/default/pods/p/log?container=a").await;
    assert_eq!(code, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(refusal["message"].as_str().unwrap().contains("the kubelet of node \"n\""), "{refusal}");
    server.stop().await;
}

/// Speaks HTTP/1.1 to the API by hand, with the administrator's certificate; the head of the answer.
async fn upgrade(server: &Server, protocol: &str) -> (String, tokio_rustls::client::TlsStream<TcpStream>) {
    let pair = server.api.client_certificate("admin", &["system:masters"]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(server))
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let stream = TcpStream::connect(server.api.address()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let path =
        "/api/v1/namespaces/default/pods/p/exec?container=a&command=ls&command=-l&stdin=true&stdout=true";
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(head).unwrap(), stream)
}

#[tokio::test]
async fn an_upgrade_becomes_two_joined_streams() {
    let server = Server::start().await;
    node_and_pod(&server).await;
    let (head, mut stream) = upgrade(&server, "SPDY/3.1").await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_lowercase().contains("upgrade: spdy/3.1"), "{head}");
    let asked = b"/exec/default/p/a?input=1&output=1&command=ls&command=-l";
    let mut got = vec![0; asked.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(got, asked);
    stream.write_all(b"to and fro").await.unwrap();
    let mut got = [0; 10];
    stream.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"to and fro");
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn a_refused_upgrade_comes_back_as_it_is() {
    let server = Server::start().await;
    node_and_pod(&server).await;
    let (head, stream) = upgrade(&server, "websocket").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    drop(stream);
    server.stop().await;
}
