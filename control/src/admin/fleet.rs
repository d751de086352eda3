//! The nodes of the fleet, and what each of them says itself.

use std::time::Duration;

use edgeloom_api::admin::{FleetNode, KUBELET_PREFIX, Link, PeerCounts, Status};
use edgeloom_tunnel::{Path, PeerId};
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use super::{Parts, failure};
use crate::forward::ForwardError;
use crate::https::{Body, json};

/// How long a node may take over what it only looks up: less than its client waits for the control, which would
/// be blamed for it.
const LOOK_UP: Duration = Duration::from_secs(8);
/// What to do about a node without a session.
const LOOK_THERE: &str = "check that edgecore runs there and has a way out; its log says what it tries";

/// Every EdgeNode with its session.
pub(super) async fn list(parts: &Parts) -> Result<Response<Body>, Response<Body>> {
    let nodes = parts.edge_nodes.list(&ListParams::default()).await.map_err(unavailable)?;
    let connected: Vec<String> = parts.hub.connected().iter().map(ToString::to_string).collect();
    let mut nodes: Vec<FleetNode> = nodes
        .iter()
        .map(|node| FleetNode {
            node: node.name_any(),
            site: node.spec.site.clone(),
            roles: node.spec.roles.iter().map(|role| role.as_str().to_owned()).collect(),
            // The control needs no session with itself.
            session: Link {
                connected: node.name_any() == crate::member::NAME || connected.contains(&node.name_any()),
                since: None,
            },
            revoked: node.spec.revoked,
        })
        .collect();
    nodes.sort_by(|a, b| (&a.site, &a.node).cmp(&(&b.site, &b.node)));
    Ok(json(StatusCode::OK, &nodes))
}

/// Asks `node` itself.
pub(super) async fn forward(
    parts: &Parts,
    node: &str,
    path: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Response<Body>> {
    if node == crate::member::NAME {
        let error = format!(
            "{node} is the control itself: it has no agent that knows paths and Services or sends echoes"
        );
        return Err(failure(
            StatusCode::NOT_FOUND,
            error,
            Some("name an edge node; `meshctl status` lists them"),
        ));
    }
    let known = parts.edge_nodes.get_opt(node).await.map_err(unavailable)?;
    let peer = known.and_then(|known| known.spec.peer_id.parse::<PeerId>().ok()).ok_or_else(|| {
        let error = format!("there is no node {node} in the mesh");
        failure(StatusCode::NOT_FOUND, error, Some("`meshctl status` lists the nodes"))
    })?;
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    *request.uri_mut() = format!("{KUBELET_PREFIX}{path}{query}")
        .parse::<Uri>()
        .map_err(|error| failure(StatusCode::BAD_REQUEST, format!("{path}: {error}"), None))?;
    if !parts.hub.connected().iter().any(|connected| connected.as_str() == node) {
        return Err(failure(
            StatusCode::BAD_GATEWAY,
            format!("node {node} is not connected"),
            Some(LOOK_THERE),
        ));
    }
    // What is only looked up is there at once; what the node first measures may take it as long as it takes.
    let limit = if request.method() == Method::GET { LOOK_UP } else { Duration::MAX };
    let error = match tokio::time::timeout(limit, parts.forwarder.send(node, peer, request)).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => error,
        Err(_) => ForwardError::Silent { node: node.to_owned(), waited: limit },
    };
    // Not 504: clients ask again by themselves upon that, for longer than they wait.
    Err(failure(StatusCode::BAD_GATEWAY, error.to_string(), None))
}

/// The control's own status.
pub(super) async fn own(parts: &Parts) -> Result<Response<Body>, Response<Body>> {
    let services: Api<Service> = Api::all(parts.client.clone());
    let slices: Api<EndpointSlice> = Api::all(parts.client.clone());
    let all = ListParams::default();
    let services = services.list_metadata(&all).await.map_err(unavailable)?.items.len();
    let slices = slices.list(&all).await.map_err(unavailable)?;
    let peers = parts.tunnel.peers();
    let status = Status {
        node: crate::member::NAME.to_owned(),
        site: parts.site.clone(),
        program: "edgeloom-control".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: parts.started,
        control: Link { connected: true, since: None },
        datapath: None,
        services,
        endpoints: slices.iter().map(|slice| slice.endpoints.len()).sum(),
        peers: PeerCounts {
            known: peers.len(),
            direct: peers.iter().filter(|peer| peer.path.is_direct()).count(),
            relayed: peers.iter().filter(|peer| matches!(peer.path, Path::Relayed { .. })).count(),
            near: 0,
        },
    };
    Ok(json(StatusCode::OK, &status))
}

fn unavailable(error: kube::Error) -> Response<Body> {
    let remedy = Some("check that the API server runs and that the control can reach it");
    failure(StatusCode::SERVICE_UNAVAILABLE, format!("reading the EdgeNodes: {error}"), remedy)
}
