//! One check: a command in the container, an HTTP request, or a TCP connection.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::{grpc, http};
use crate::cri::Cri;

/// The most that is read and told of an answer.
pub(super) const MAX_BODY: usize = 10 << 10;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As it should be.
    Success,
    /// Not so, and why.
    Failure(String),
}

/// What is checked.
pub struct Target<'a> {
    /// Its specification, for ports by name.
    pub container: &'a Container,
    /// Its id.
    pub id: &'a str,
    /// Address of its pod.
    pub ip: &'a str,
    /// The runtime.
    pub cri: &'a Cri,
}

/// Runs a probe once.
pub(super) async fn probe(probe: &Probe, target: &Target<'_>, timeout: Duration) -> Outcome {
    let timeout = timeout.max(Duration::from_secs(1));
    let check = async {
        if let Some(action) = &probe.exec {
            return exec(action, target, timeout).await;
        }
        if let Some(action) = &probe.http_get {
            return http::get(action, target).await;
        }
        if let Some(action) = &probe.tcp_socket {
            let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(target.ip);
            return connect(host, &action.port, target).await.map(drop);
        }
        if let Some(action) = &probe.grpc {
            return grpc::check(action, target.ip).await;
        }
        Ok(())
    };
    // The runtime enforces an exec's own limit; this one is for networks that swallow packets.
    let grace = if probe.exec.is_some() { Duration::from_secs(5) } else { Duration::ZERO };
    match tokio::time::timeout(timeout + grace, check).await {
        Ok(Ok(())) => Outcome::Success,
        Ok(Err(message)) => Outcome::Failure(message),
        Err(_) => Outcome::Failure(timed_out(timeout)),
    }
}

/// Runs a lifecycle handler. `sleep` and `tcpSocket` included.
pub async fn run_handler(
    handler: &LifecycleHandler,
    target: &Target<'_>,
    timeout: Duration,
) -> Result<(), String> {
    let work = async {
        if let Some(action) = &handler.exec {
            return exec(action, target, timeout).await;
        }
        if let Some(action) = &handler.http_get {
            return http::get(action, target).await;
        }
        if let Some(action) = &handler.tcp_socket {
            let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(target.ip);
            return connect(host, &action.port, target).await.map(drop);
        }
        if let Some(action) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        }
        Ok(())
    };
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(timed_out(timeout)))
}

fn timed_out(timeout: Duration) -> String {
    format!("timed out: no answer within {}s", timeout.as_secs())
}

async fn exec(action: &ExecAction, target: &Target<'_>, timeout: Duration) -> Result<(), String> {
    let command = action.command.as_deref().unwrap_or_default();
    match target.cri.exec_sync(target.id, command, timeout).await {
        Ok(answer) if answer.exit_code == 0 => Ok(()),
        Ok(mut answer) => {
            answer.stdout.extend(answer.stderr);
            answer.stdout.truncate(MAX_BODY);
            let said = String::from_utf8_lossy(&answer.stdout).trim_end().to_owned();
            Err(if said.is_empty() { format!("command exited with {}", answer.exit_code) } else { said })
        }
        Err(error) if error.is_timeout() => Err(timed_out(timeout)),
        Err(error) => Err(error.message()),
    }
}

/// Connects to a port of the container, by number or by name.
pub(super) async fn connect(
    host: &str,
    port: &IntOrString,
    target: &Target<'_>,
) -> Result<TcpStream, String> {
    let port = port_of(port, target.container)?;
    let stream = TcpStream::connect((host, port)).await;
    stream.map_err(|error| format!("dial tcp {host}:{port}: {error}"))
}

pub(super) fn port_of(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = container.ports.as_deref().unwrap_or_default();
            let named =
                ports.iter().find(|port| port.name.as_deref() == Some(name)).map(|port| port.container_port);
            named.or_else(|| name.parse().ok())
        }
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("port {port:?} is neither a number nor one of the container's ports"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn container(port: u16) -> Container {
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": port}]}))
            .unwrap()
    }

    async fn outcome(description: serde_json::Value, port: u16) -> Outcome {
        let cri = Cri::new(std::path::Path::new("/nonexistent")).unwrap();
        let container = container(port);
        let target = Target { container: &container, id: "x", ip: "127.0.0.1", cri: &cri };
        let description: Probe = serde_json::from_value(description).unwrap();
        probe(&description, &target, Duration::from_secs(5)).await
    }

    async fn server(answer: &'static str) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0; 1024];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    #[tokio::test]
    async fn http() {
        let good = server("HTTP/1.1 204 No Content\r\n\r\n").await;
        let http = json!({"httpGet": {"port": "web", "path": "x"}});
        assert_eq!(outcome(http.clone(), good).await, Outcome::Success);
        let bad = server("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
        let expected = Outcome::Failure("HTTP probe failed with statuscode: 503".into());
        assert_eq!(outcome(http, bad).await, expected);
    }

    #[tokio::test]
    async fn https_with_any_certificate() {
        let made = rcgen::generate_simple_self_signed(vec!["nobody.example".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        });
        assert_eq!(
            outcome(json!({"httpGet": {"port": port, "scheme": "HTTPS"}}), port).await,
            Outcome::Success
        );
    }

    #[tokio::test]
    async fn grpc_health() {
        for (status, expected) in [(1, Ok(())), (2, Err("service unhealthy (responded with status 2)"))] {
            let port = health_server(status).await;
            let expected =
                expected.map_or_else(|text| Outcome::Failure(text.to_owned()), |()| Outcome::Success);
            assert_eq!(outcome(json!({"grpc": {"port": port}}), port).await, expected);
        }
    }

    /// Answers every call with a health status: a frame of one message, then the trailer.
    async fn health_server(status: u8) -> u16 {
        use http_body_util::{BodyExt as _, Full};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = hyper::service::service_fn(move |_| async move {
                let frame = bytes::Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]);
                let trailers = hyper::HeaderMap::from_iter([(
                    hyper::header::HeaderName::from_static("grpc-status"),
                    hyper::header::HeaderValue::from_static("0"),
                )]);
                let body = Full::new(frame).with_trailers(std::future::ready(Some(Ok(trailers))));
                let answer = hyper::Response::builder().header("content-type", "application/grpc").body(body);
                Ok::<_, std::convert::Infallible>(answer.unwrap())
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            let executor = hyper_util::rt::TokioExecutor::new();
            let _ = hyper::server::conn::http2::Builder::new(executor).serve_connection(io, answer).await;
        });
        port
    }

    #[tokio::test]
    async fn tcp() {
        let port = server("").await;
        assert_eq!(outcome(json!({"tcpSocket": {"port": port}}), port).await, Outcome::Success);
        assert!(matches!(outcome(json!({"tcpSocket": {"port": "absent"}}), port).await, Outcome::Failure(_)));
    }
}
