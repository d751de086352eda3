//! HTTP and HTTPS requests of probes and lifecycle handlers.

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use tokio::io::{AsyncRead, AsyncWrite};

use super::check::{MAX_BODY, Target, connect, port_of};
use super::tls;

/// An HTTP GET that succeeds with a status from 200 to 399.
pub(super) async fn get(action: &HTTPGetAction, target: &Target<'_>) -> Result<(), String> {
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(target.ip);
    let stream = connect(host, &action.port, target).await?;
    let port = port_of(&action.port, target.container)?;
    let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let request = request(action, &path, &authority)?;
    let secure = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let url = format!("{}://{authority}{path}", if secure { "https" } else { "http" });
    let status = if secure {
        let stream = tls::connect(stream, host).await.map_err(|error| format!("Get {url:?}: {error}"))?;
        exchange(stream, request, &url).await?
    } else {
        exchange(stream, request, &url).await?
    };
    if (200..400).contains(&status.as_u16()) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
    }
}

fn request(action: &HTTPGetAction, path: &str, authority: &str) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::get(path)
        .header("Host", authority)
        .header("User-Agent", "kube-probe/1.34")
        .header("Accept", "*/*")
        .header("Connection", "close");
    for header in action.http_headers.iter().flatten() {
        if header.name.eq_ignore_ascii_case("host") {
            request.headers_mut().map(|headers| headers.remove("Host"));
        }
        request = request.header(&header.name, &header.value);
    }
    request.body(Empty::new()).map_err(|error| error.to_string())
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    request: Request<Empty<Bytes>>,
    url: &str,
) -> Result<StatusCode, String> {
    let said = |error: hyper::Error| format!("Get {url:?}: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(said)?;
        let status = answer.status();
        // Whether the body ends well does not matter, only that the server is not cut off early.
        let _ = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        Ok::<_, String>(status)
    };
    tokio::select! {
        status = answer => status,
        Err(error) = connection => Err(said(error)),
    }
}
