//! The admin API over a Unix socket or over the control's HTTPS.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use edgeloom_api::admin::Failure;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long an answer may take: a node behind a relay that lost its path asks twice.
const LIMIT: Duration = Duration::from_secs(15);

/// Somebody who answers.
#[derive(Clone)]
pub(crate) struct Client {
    way: Way,
    /// How to call the one asked in errors.
    name: String,
}

#[derive(Clone)]
enum Way {
    Socket(PathBuf),
    Control(Box<kube::Client>),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("{0}: there is no such socket; is the daemon running, and on this machine?")]
    NoSocket(String),
    #[error("{0}: permission denied; run meshctl as root or as a member of the socket's group")]
    NoPermission(String),
    #[error("{0}: connection refused; is the daemon running?")]
    Refused(String),
    #[error("{0}: {1}; check the address (--control HOST:PORT), and that a firewall lets it through")]
    Unreachable(String, String),
    #[error("{0}: its certificate is not trusted: {1}; is the control's CA the one of the kubeconfig?")]
    Certificate(String, String),
    #[error("{0}: no answer within {LIMIT:?}; check that it runs and that the network lets it through")]
    TimedOut(String),
    #[error("{0}: who you are is not known there (401); check the kubeconfig's credentials")]
    Unauthorized(String),
    #[error("{name}: {failure}; the kubeconfig's user needs that right")]
    Forbidden { name: String, failure: String },
    #[error("{failure}{remedy}")]
    Failed { failure: String, remedy: String },
    #[error("{0}: the answer makes no sense: {1}; meshctl and the daemon should be of the same release")]
    Answer(String, String),
}

impl Client {
    pub(crate) fn socket(path: PathBuf) -> Self {
        Self { name: path.display().to_string(), way: Way::Socket(path) }
    }

    pub(crate) fn control(authority: String, client: kube::Client) -> Self {
        Self { name: format!("the control at {authority}"), way: Way::Control(Box::new(client)) }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.call(Method::GET, path, None::<&()>).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, CallError> {
        self.call(Method::POST, path, body).await
    }

    /// Deletes; an answer without a body is fine.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), CallError> {
        let (status, bytes) = self.send(Method::DELETE, path, Vec::new()).await?;
        if status.is_success() { Ok(()) } else { Err(self.failed(status, &bytes)) }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, CallError> {
        let answer = |error: serde_json::Error| CallError::Answer(self.name.clone(), error.to_string());
        let body = body.map(serde_json::to_vec).transpose().map_err(answer)?.unwrap_or_default();
        let (status, bytes) = self.send(method, path, body).await?;
        if !status.is_success() {
            return Err(self.failed(status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(answer)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .header(http::header::HOST, "edgeloom")
            .body(body)
            .map_err(|error| CallError::Answer(self.name.clone(), error.to_string()))?;
        let sent = async {
            match &self.way {
                Way::Socket(path) => over_socket(path, request).await,
                Way::Control(client) => over_https(client, request).await,
            }
        };
        match timeout(LIMIT, sent).await {
            Err(_) => Err(CallError::TimedOut(self.name.clone())),
            Ok(result) => result.map_err(|error| self.unreached(&*error)),
        }
    }

    /// An error of the connection, by what the user can do about it.
    fn unreached(&self, error: &(dyn StdError + 'static)) -> CallError {
        let name = self.name.clone();
        let mut causes = std::iter::successors(Some(error), |&error| error.source());
        let kind = causes.clone().find_map(|cause| cause.downcast_ref::<io::Error>().map(io::Error::kind));
        let tls = causes.clone().find_map(|cause| cause.downcast_ref::<rustls::Error>());
        let last = causes.clone().last().map(ToString::to_string).unwrap_or_default();
        match (&self.way, kind) {
            _ if tls.is_some() || causes.any(|cause| cause.to_string().contains("certificate")) => {
                CallError::Certificate(name, tls.map_or(last, ToString::to_string))
            }
            (Way::Socket(_), Some(io::ErrorKind::NotFound)) => CallError::NoSocket(name),
            (Way::Socket(_), Some(io::ErrorKind::PermissionDenied)) => CallError::NoPermission(name),
            (Way::Socket(_), Some(io::ErrorKind::ConnectionRefused)) => CallError::Refused(name),
            _ => CallError::Unreachable(name, last),
        }
    }

    fn failed(&self, status: StatusCode, body: &[u8]) -> CallError {
        let failure = serde_json::from_slice::<Failure>(body).unwrap_or_else(|_| Failure {
            error: format!("{} answered {status}: {}", self.name, String::from_utf8_lossy(body).trim()),
            remedy: None,
        });
        match status {
            StatusCode::UNAUTHORIZED => CallError::Unauthorized(self.name.clone()),
            StatusCode::FORBIDDEN => CallError::Forbidden { name: self.name.clone(), failure: failure.error },
            _ => {
                let remedy = failure.remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
                CallError::Failed { failure: failure.error, remedy }
            }
        }
    }
}

type Sent = Result<(StatusCode, Bytes), Box<dyn StdError + Send + Sync>>;

async fn over_socket(path: &PathBuf, request: Request<Vec<u8>>) -> Sent {
    let stream = UnixStream::connect(path).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let response = sender.send_request(request.map(|body| Full::new(Bytes::from(body)))).await?;
        let status = response.status();
        Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
    };
    // The connection must be polled for the exchange to go on, and ends when its sender is dropped there.
    let (answer, _) = tokio::join!(exchange, connection);
    Ok(answer?)
}

async fn over_https(client: &kube::Client, request: Request<Vec<u8>>) -> Sent {
    let mut request = request.map(kube::client::Body::from);
    request.headers_mut().remove(http::header::HOST);
    let response = client.send(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    /// A daemon that answers one request with these bytes, and the request that it got.
    async fn daemon(answer: &'static str) -> (Client, tempfile::TempDir, tokio::task::JoinHandle<String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        (Client::socket(path), folder, task)
    }

    #[tokio::test]
    async fn a_request_and_its_answer() {
        let (client, _folder, task) = daemon("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n[1,2,3]").await;
        let got: Vec<u8> = client.post("/v1/x?count=1", Some(&"body")).await.unwrap();
        assert_eq!(got, [1, 2, 3]);
        let request = task.await.unwrap();
        assert!(request.starts_with("POST /v1/x?count=1 HTTP/1.1\r\n") && request.ends_with("\"body\""));
    }

    #[tokio::test]
    async fn a_failure_is_told_with_its_remedy() {
        let (client, _folder, _task) = daemon(
            "HTTP/1.1 404 Not Found\r\nContent-Length: 40\r\n\r\n{\"error\":\"no node x\",\"remedy\":\"look up\"}",
        )
        .await;
        let error = client.get::<()>("/v1/x").await.unwrap_err();
        assert_eq!(error.to_string(), "no node x; look up");
    }

    #[tokio::test]
    async fn what_is_not_there_is_told_with_what_to_check() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Client::socket(folder.path().join("none.sock"));
        let error = missing.get::<()>("/v1/status").await.unwrap_err();
        assert!(matches!(error, CallError::NoSocket(_)), "{error}");
        let dead = folder.path().join("dead.sock");
        drop(UnixListener::bind(&dead).unwrap());
        let error = Client::socket(dead).get::<()>("/v1/status").await.unwrap_err();
        assert!(matches!(error, CallError::Refused(_)), "{error}");
    }
}
