//! Requests that a node's kubelet answers: logs, exec, attach, port-forward and `nodes/proxy`.
//!
//! The server stands between as a blind courier. It translates path and query, presents its own client
//! certificate, verifies the kubelet's, and speaks HTTP/1.1; an `Upgrade` (SPDY/3.1 or WebSocket) that
//! the kubelet accepts becomes two joined byte streams, one that it refuses goes back as it came, so
//! that kubectl can fall back.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use super::answer::{Body, BodyError, Response};
use super::limits::Room;
use super::query::{Query, encode};
use super::{Call, Face};
use crate::error::{Error, Reason, Result};

/// How long connecting to a kubelet may take, TLS included.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the kubelet may take to answer the head of a request.
const ANSWER: Duration = Duration::from_secs(60);
/// Longest refusal of a kubelet that is passed on, in bytes.
const REFUSAL: usize = 16 << 10;
/// Port of a kubelet whose node does not say.
const KUBELET_PORT: u64 = 10250;

/// Dials kubelets over TLS.
pub(crate) struct KubeletClient {
    connector: tokio_rustls::TlsConnector,
}

impl KubeletClient {
    /// Verifies kubelets, and proves itself to them, as the configuration says.
    pub(crate) fn new(config: rustls::ClientConfig) -> Self {
        Self { connector: Arc::new(config).into() }
    }
}

/// Where a kubelet listens.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    host: String,
    port: u64,
}

/// The first InternalIP of a node, else its ExternalIP or Hostname, and the port that it names.
fn address(node: &Value) -> Option<Address> {
    let addresses = node["status"]["addresses"].as_array();
    let of_type = |wanted: &str| {
        addresses
            .into_iter()
            .flatten()
            .find(|one| one["type"] == wanted)
            .and_then(|one| one["address"].as_str())
    };
    let host = of_type("InternalIP").or_else(|| of_type("ExternalIP")).or_else(|| of_type("Hostname"))?;
    let port =
        node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().filter(|port| *port != 0);
    Some(Address { host: host.to_owned(), port: port.unwrap_or(KUBELET_PORT) })
}

/// Answers a request for a subresource that a kubelet serves. The room is held as long as bytes flow.
pub(super) async fn answer(
    face: &Arc<Face>,
    call: Call,
    request: Request<Incoming>,
    room: Room,
) -> Result<Response> {
    let object = face.store.get(&call.kind, call.namespace(), &call.target.name).await?;
    let (node, path) = match call.target.subresource.as_str() {
        "proxy" => (call.target.name.clone(), proxied(&call, request.uri())),
        "log" if object["spec"]["nodeName"].as_str().unwrap_or("").is_empty() => {
            // Nothing has run yet: an empty log.
            container(&object, call.query.get("container"))?;
            return Ok(super::answer::respond(StatusCode::NO_CONTENT, "text/plain", ""));
        }
        _ => (node_of(&object, &call)?, pod_path(&object, &call)?),
    };
    let kind = face.store.registry().find("", "v1", "nodes").ok_or_else(super::route::unknown_resource)?;
    let node_object = face.store.get(&kind, "", &node).await?;
    let unreachable = |why: &dyn std::fmt::Display| {
        Error::internal(format_args!(
            "error dialing the kubelet of node {node:?}: {why}; is the node connected?"
        ))
    };
    let address = address(&node_object).ok_or_else(|| unreachable(&"it has no address in its status"))?;
    let connected = tokio::time::timeout(CONNECT, connect(&face.kubelet, &address)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(unreachable(&error)),
        Err(_) => return Err(unreachable(&"it did not answer in time")),
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Incoming>(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(&error))?;
    let stop = face.stop.clone();
    face.tasks.spawn(async move {
        tokio::select! {
            _ = connection.with_upgrades() => {}
            () = stop.cancelled() => {}
        }
    });
    let (request, upgrade) = forwarded(request, &path, &address)?;
    let answered = tokio::time::timeout(ANSWER, sender.send_request(request)).await;
    let mut response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return Err(unreachable(&error)),
        Err(_) => return Err(unreachable(&"it took the request and did not answer")),
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if let Some(client) = upgrade {
            let kubelet = hyper::upgrade::on(&mut response);
            join(face, client, kubelet, room);
        }
        let (parts, _) = response.into_parts();
        return Ok(Response::from_parts(parts, super::answer::full("")));
    }
    if call.target.subresource == "log" && !response.status().is_success() {
        return Err(refusal(response).await);
    }
    Ok(passed_back(response, room))
}

/// What the kubelet refused, as the Status object that clients print: its text is the message.
async fn refusal(response: http::Response<Incoming>) -> Error {
    let code = response.status();
    let body = tokio::time::timeout(ANSWER, Limited::new(response.into_body(), REFUSAL).collect()).await;
    let body = body.ok().and_then(std::result::Result::ok).map(|body| body.to_bytes()).unwrap_or_default();
    refused(code, &String::from_utf8_lossy(&body))
}

fn refused(code: StatusCode, body: &str) -> Error {
    let said = match body.trim() {
        "" => format!("the kubelet answered {code} and did not say why"),
        said => said.to_owned(),
    };
    match code {
        StatusCode::BAD_REQUEST => Error::bad_request(said),
        StatusCode::NOT_FOUND => Error::new(Reason::NotFound, said),
        StatusCode::TOO_MANY_REQUESTS => Error::new(Reason::TooManyRequests, said),
        StatusCode::SERVICE_UNAVAILABLE => Error::new(Reason::ServiceUnavailable, said),
        StatusCode::GATEWAY_TIMEOUT => Error::new(Reason::Timeout, said),
        _ => Error::internal_plain(said),
    }
}

async fn connect(
    client: &KubeletClient,
    address: &Address,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let host = address.host.trim_matches(['[', ']']).to_owned();
    let port = u16::try_from(address.port).map_err(|_| std::io::Error::other("its port is out of range"))?;
    let name =
        ServerName::try_from(host.clone()).map_err(|_| std::io::Error::other("its address is malformed"))?;
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    client.connector.connect(name, stream).await
}

/// The request as the kubelet gets it, and the client's side of an upgrade if it asks for one.
fn forwarded(
    mut request: Request<Incoming>,
    path: &str,
    address: &Address,
) -> Result<(Request<Incoming>, Option<hyper::upgrade::OnUpgrade>)> {
    let upgrades = request.headers().contains_key(UPGRADE);
    let upgrade = upgrades.then(|| hyper::upgrade::on(&mut request));
    let uri: Uri = path.parse().map_err(|_| Error::bad_request("the path cannot be passed on"))?;
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_11;
    let headers = request.headers_mut();
    // The client proved itself to this server; its secrets are not the kubelet's business.
    headers.remove(AUTHORIZATION);
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
    if !upgrades {
        headers.remove(CONNECTION);
    }
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
    if let Ok(value) = HeaderValue::from_str(&format!("{host}:{}", address.port)) {
        headers.insert(HOST, value);
    }
    Ok((request, upgrade))
}

/// Joins both sides until one ends.
fn join(face: &Arc<Face>, client: hyper::upgrade::OnUpgrade, kubelet: hyper::upgrade::OnUpgrade, room: Room) {
    let stop = face.stop.clone();
    face.tasks.spawn(async move {
        let joined = async {
            let (client, kubelet) = tokio::try_join!(client, kubelet).ok()?;
            copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(kubelet)).await.ok()
        };
        tokio::select! {
            _ = joined => {}
            () = stop.cancelled() => {}
        }
        drop(room);
    });
}

/// The kubelet's answer, streamed.
fn passed_back(response: http::Response<Incoming>, room: Room) -> Response {
    let (mut parts, body) = response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    let body: Body = body
        .map_frame(move |frame| {
            // Held by the body: given back when the last byte is through.
            let _ = &room;
            frame
        })
        .map_err(|error| Box::new(error) as BodyError)
        .boxed_unsync();
    Response::from_parts(parts, body)
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    for name in ["connection", "transfer-encoding", "keep-alive", "upgrade"] {
        headers.remove(name);
    }
}

fn node_of(pod: &Value, call: &Call) -> Result<String> {
    let node = pod["spec"]["nodeName"].as_str().unwrap_or("");
    if node.is_empty() {
        let name = &call.target.name;
        return Err(Error::bad_request(format!("pod {name} does not have a host assigned")));
    }
    Ok(node.to_owned())
}

/// Names of a pod's containers in a list of its spec.
fn names<'a>(pod: &'a Value, list: &str) -> Vec<&'a str> {
    pod["spec"][list].as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect()
}

/// The container that is meant: the one asked for, or the only one.
fn container(pod: &Value, asked: Option<&str>) -> Result<String> {
    let name = pod["metadata"]["name"].as_str().unwrap_or("");
    let (containers, init) = (names(pod, "containers"), names(pod, "initContainers"));
    let ephemeral = names(pod, "ephemeralContainers");
    match asked {
        Some(asked) if containers.iter().chain(&init).chain(&ephemeral).any(|one| *one == asked) => {
            Ok(asked.to_owned())
        }
        Some(asked) => Err(Error::bad_request(format!("container {asked} is not valid for pod {name}"))),
        None if containers.len() == 1 && init.is_empty() && ephemeral.is_empty() => {
            Ok(containers[0].to_owned())
        }
        None => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                containers.join(" ")
            );
            if !init.is_empty() {
                message.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            if !ephemeral.is_empty() {
                message.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
            }
            Err(Error::bad_request(message))
        }
    }
}

/// Path and query by which the kubelet knows what the client asks of a pod.
fn pod_path(pod: &Value, call: &Call) -> Result<String> {
    const LOG: [&str; 9] = [
        "follow",
        "previous",
        "sinceSeconds",
        "sinceTime",
        "timestamps",
        "tailLines",
        "limitBytes",
        "insecureSkipTLSVerifyBackend",
        "stream",
    ];
    let query = &call.query;
    let (namespace, name) = (encode(call.namespace()), encode(&call.target.name));
    let one = || container(pod, query.get("container")).map(|container| encode(&container));
    let path = match call.target.subresource.as_str() {
        "log" => {
            log_options(query)?;
            format!("/containerLogs/{namespace}/{name}/{}?{}", one()?, query.only(&LOG))
        }
        "portforward" => format!("/portForward/{namespace}/{name}?{}", query.only(&["ports", "port"])),
        "exec" => {
            if query.all("command").is_empty() {
                return Err(Error::bad_request("you must specify at least one command for the container"));
            }
            format!("/exec/{namespace}/{name}/{}?{}", one()?, streams(query))
        }
        "attach" => format!("/attach/{namespace}/{name}/{}?{}", one()?, streams(query)),
        _ => return Err(super::route::unknown_resource()),
    };
    Ok(path.trim_end_matches('?').to_owned())
}

fn log_options(query: &Query) -> Result<()> {
    let numbers = ["sinceSeconds", "tailLines", "limitBytes"];
    for name in numbers {
        let Some(text) = query.get(name) else { continue };
        let number: i64 = text
            .parse()
            .map_err(|_| Error::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))?;
        if number < i64::from(name != "tailLines") {
            let message = format!(
                "PodLogOptions is invalid: {name}: Invalid value: {number}: must be greater than or equal to {}",
                i64::from(name != "tailLines")
            );
            return Err(Error::new(Reason::Invalid, message));
        }
    }
    Ok(())
}

/// The streams of exec and attach, by the names that kubelets use.
fn streams(query: &Query) -> String {
    let mut parameters = Vec::new();
    for (ours, kubelets) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.flag(ours) {
            parameters.push(format!("{kubelets}=1"));
        }
    }
    parameters.extend(query.all("command").into_iter().map(|word| format!("command={}", encode(word))));
    parameters.join("&")
}

fn proxied(call: &Call, uri: &Uri) -> String {
    let rest = call.target.rest.split('/').map(encode).collect::<Vec<_>>().join("/");
    match uri.query() {
        Some(query) => format!("/{rest}?{query}"),
        None => format!("/{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers() {
        let pod = json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(container(&pod, Some("b")).unwrap(), "b");
        assert_eq!(
            container(&pod, None).unwrap_err().to_string(),
            "a container name must be specified for pod x, choose one of: [a b]"
        );
        assert_eq!(container(&pod, Some("c")).unwrap_err().to_string(), "container c is not valid for pod x");
        let single = json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(container(&single, None).unwrap(), "a");
    }

    #[test]
    fn addresses() {
        let node = json!({"status": {
            "addresses": [{"type": "Hostname", "address": "h"}, {"type": "InternalIP", "address": "192.0.2.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 19001}},
        }});
        assert_eq!(address(&node), Some(Address { host: "192.0.2.1".into(), port: 19001 }));
        assert_eq!(address(&json!({})), None);
    }

    #[test]
    fn a_refusal_is_a_status_with_the_kubelets_words() {
        let said = "container \"web\" in pod \"x\" is waiting to start: ImagePullBackOff\n";
        for (code, body, expected, message) in [
            (StatusCode::BAD_REQUEST, said, 400, said.trim()),
            (StatusCode::NOT_FOUND, "pod not found", 404, "pod not found"),
            (StatusCode::INTERNAL_SERVER_ERROR, "broken", 500, "broken"),
            (StatusCode::BAD_GATEWAY, "no node", 500, "no node"),
        ] {
            let (code, status) = refused(code, body).to_status();
            assert_eq!((code, status["message"].as_str()), (expected, Some(message)));
            assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Failure")));
        }
    }

    #[test]
    fn streams_by_the_kubelets_names() {
        let query = Query::parse(Some(
            "stdin=true&stdout=1&stderr=false&tty=true&command=sh&command=-c&command=a%20b",
        ));
        assert_eq!(streams(&query), "input=1&output=1&tty=1&command=sh&command=-c&command=a%20b");
    }
}
