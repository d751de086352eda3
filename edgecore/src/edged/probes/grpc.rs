//! The gRPC health-checking protocol (`grpc.health.v1`).

use k8s_openapi::api::core::v1::GRPCAction;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

const CHECK: &str = "/grpc.health.v1.Health/Check";
/// `SERVING`.
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct Question {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Answer {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks the service whether it serves.
pub(super) async fn check(action: &GRPCAction, ip: &str) -> Result<(), String> {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let endpoint =
        Endpoint::from_shared(format!("http://{host}:{}", action.port)).map_err(|e| e.to_string())?;
    let failed = |what: String| format!("error: health rpc probe failed: {what}");
    let channel = endpoint.connect().await.map_err(|error| failed(error.to_string()))?;
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.map_err(|error| failed(error.to_string()))?;
    let question = Question { service: action.service.clone().unwrap_or_default() };
    let codec = ProstCodec::<Question, Answer>::default();
    let answer = grpc.unary(tonic::Request::new(question), PathAndQuery::from_static(CHECK), codec).await;
    match answer.map_err(|status| failed(status.message().to_owned()))?.into_inner().status {
        SERVING => Ok(()),
        other => Err(format!("service unhealthy (responded with status {other})")),
    }
}
