//! exec, attach and port-forward: the runtime is asked for a URL, and the request goes there as it is, its
//! upgrade included. What flows after the upgrade (SPDY of old clients, WebSocket of new ones) is not looked
//! at; a refusal goes back as it came, so that a client can fall back.

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Context, Refusal, lookup};
use crate::cri::proto::{AttachRequest, ExecRequest, PortForwardRequest};

type Names = HashMap<String, String>;
type Pairs = Vec<(String, String)>;

/// The streams that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn of(query: &Pairs) -> Result<Self, Refusal> {
        let asked = |name: &str| {
            query.iter().any(|(key, value)| key == name && matches!(value.as_str(), "1" | "true"))
        };
        let tty = asked("tty");
        // A terminal has one output.
        let streams =
            Self { stdin: asked("input"), stdout: asked("output"), stderr: asked("error") && !tty, tty };
        if streams.stdin || streams.stdout || streams.stderr {
            Ok(streams)
        } else {
            Err(bad("you must specify at least 1 of stdin, stdout, stderr"))
        }
    }
}

pub(super) async fn exec(
    State(context): State<Context>,
    Path(names): Path<Names>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Result<Response, Refusal> {
    let streams = Streams::of(&query)?;
    let container_id = container(&context, &names).await?;
    let cmd: Vec<String> =
        query.into_iter().filter(|(key, _)| key == "command").map(|(_, word)| word).collect();
    if cmd.is_empty() {
        return Err(bad("you must specify a command"));
    }
    let Streams { stdin, stdout, stderr, tty } = streams;
    let asked = ExecRequest { container_id, cmd, tty, stdin, stdout, stderr };
    let url = context.node.runtime.cri.exec(asked).await?.url;
    forward(&context, request, &url).await
}

pub(super) async fn attach(
    State(context): State<Context>,
    Path(names): Path<Names>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Result<Response, Refusal> {
    let Streams { stdin, stdout, stderr, tty } = Streams::of(&query)?;
    let container_id = container(&context, &names).await?;
    let asked = AttachRequest { container_id, stdin, tty, stdout, stderr };
    let url = context.node.runtime.cri.attach(asked).await?.url;
    forward(&context, request, &url).await
}

pub(super) async fn port_forward(
    State(context): State<Context>,
    Path(names): Path<Names>,
    Query(query): Query<Pairs>,
    request: Request,
) -> Result<Response, Refusal> {
    let found = lookup::pod(&context, &names["namespace"], &names["pod"]).await?;
    let sandbox = found.observed.sandbox().filter(|sandbox| sandbox.ready);
    let sandbox =
        sandbox.ok_or_else(|| Refusal(StatusCode::NOT_FOUND, "the pod is not running".to_owned()))?;
    let ports = query.iter().filter(|(key, _)| key == "port").flat_map(|(_, value)| value.split(','));
    let port = ports
        .map(|port| port.parse().map_err(|_| bad(&format!("port {port:?} is no number"))))
        .collect::<Result<Vec<i32>, _>>()?;
    let asked = PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port };
    let url = context.node.runtime.cri.port_forward(asked).await?.url;
    forward(&context, request, &url).await
}

async fn container(context: &Context, names: &Names) -> Result<String, Refusal> {
    let found = lookup::pod(context, &names["namespace"], &names["pod"]).await?;
    Ok(found.running(&names["container"])?.id.clone())
}

fn bad(text: &str) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, text.to_owned())
}

fn unreachable(error: impl std::fmt::Display) -> Refusal {
    Refusal(
        StatusCode::BAD_GATEWAY,
        format!("the container runtime's streaming server does not answer: {error}"),
    )
}

/// Sends the request to `url` and its answer back; after an upgrade, everything both ways.
async fn forward(context: &Context, mut request: Request, url: &str) -> Result<Response, Refusal> {
    let url: Uri = url.parse().map_err(unreachable)?;
    let host = url.host().ok_or_else(|| unreachable("its URL has no host"))?.trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    let cancel = context.cancel.clone();
    context.tasks.spawn(async move {
        tokio::select! {
            ended = connection.with_upgrades() => if let Err(error) = ended {
                tracing::debug!(%error, "the connection to the streaming server broke");
            },
            () = cancel.cancelled() => {}
        }
    });
    let from_client = hyper::upgrade::on(&mut request);
    *request.uri_mut() =
        url.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")).into();
    let authority = url.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let authority = HeaderValue::try_from(authority).map_err(unreachable)?;
    request.headers_mut().insert(header::HOST, authority);
    let mut answer = sender.send_request(request).await.map_err(unreachable)?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let from_runtime = hyper::upgrade::on(&mut answer);
        let cancel = context.cancel.clone();
        context.tasks.spawn(async move {
            tokio::select! {
                () = splice(from_client, from_runtime) => {}
                () = cancel.cancelled() => {}
            }
        });
    }
    Ok(answer.map(Body::new))
}

async fn splice(client: hyper::upgrade::OnUpgrade, runtime: hyper::upgrade::OnUpgrade) {
    let (client, runtime) = match tokio::try_join!(client, runtime) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "an upgrade was not finished");
            return;
        }
    };
    // Each direction ends by itself: a client that has sent its last byte still wants the answer.
    let copied = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(runtime)).await;
    if let Err(error) = copied {
        tracing::debug!(%error, "a stream to a container broke");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams() {
        let query = |names: &[&str]| -> Pairs {
            names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect()
        };
        let all = Streams::of(&query(&["input", "output", "error"])).unwrap();
        assert_eq!(all, Streams { stdin: true, stdout: true, stderr: true, tty: false });
        let terminal = Streams::of(&query(&["output", "error", "tty"])).unwrap();
        assert_eq!(terminal, Streams { stdin: false, stdout: true, stderr: false, tty: true });
        assert!(Streams::of(&query(&["tty"])).is_err());
    }
}
