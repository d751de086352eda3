//! The certificate with which the control stands for the nodes' kubelets.
//!
//! One serves all ports, since it names the control's addresses and the API server verifies no more. It
//! is asked for by a CertificateSigningRequest for `kubernetes.io/kubelet-serving`, which the control
//! approves itself, and kept in a Secret, so that replicas share it. It is renewed at two thirds of its
//! life.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edgeloom_api::names::SYSTEM_NAMESPACE;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};

use crate::tls::{Pair, serves, validity};

/// The Secret that holds certificate and key.
const SECRET: &str = "edgeloom-kubelet-serving";
/// Name in the certificate's subject; `system:node:` is what the signer demands.
const COMMON_NAME: &str = "system:node:edgeloom-control";
/// How long the cluster may take to sign.
const SIGNING: Duration = Duration::from_secs(60);

/// Why there is no serving certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The API server refused something.
    #[error(
        "the kubelet serving certificate: {doing}: {source}; `edgeloom-control install` grants what it needs"
    )]
    Api {
        /// What was tried.
        doing: &'static str,
        /// What the API server said.
        source: kube::Error,
    },
    /// Nobody signed the request in time.
    #[error(
        "CertificateSigningRequest {name} was approved but not signed within {} s; check that the \
         cluster's kube-controller-manager has --cluster-signing-cert-file, or give kubelet.certificate \
         in the configuration",
        SIGNING.as_secs()
    )]
    NotSigned {
        /// The request's name.
        name: String,
    },
    /// The signer refused the request.
    #[error("CertificateSigningRequest {name} was refused: {reason}")]
    Refused {
        /// The request's name.
        name: String,
        /// The condition's message.
        reason: String,
    },
    /// A key or request could not be made.
    #[error("the kubelet serving certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// The serving certificate for `names` (addresses and DNS names), from the Secret if that one still
/// serves them, else newly signed. Also says when to renew it.
pub async fn obtain(client: &kube::Client, names: &[String]) -> Result<(Pair, SystemTime), CertificateError> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let api = |doing| move |source| CertificateError::Api { doing, source };
    let stored = secrets.get_opt(SECRET).await.map_err(api("reading its Secret"))?;
    if let Some(pair) = stored.and_then(pair_of)
        && serves(&pair.certificate, names, now() + 3600)
        && renewal(&pair.certificate) > SystemTime::now()
    {
        let renew = renewal(&pair.certificate);
        return Ok((pair, renew));
    }
    let pair = request(client, names).await?;
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": { "name": SECRET, "namespace": SYSTEM_NAMESPACE },
        "stringData": { "tls.crt": pair.certificate, "tls.key": pair.key },
    });
    let parameters = PatchParams::apply(crate::MANAGER).force();
    secrets.patch(SECRET, &parameters, &Patch::Apply(secret)).await.map_err(api("writing its Secret"))?;
    let renew = renewal(&pair.certificate);
    Ok((pair, renew))
}

async fn request(client: &kube::Client, names: &[String]) -> Result<Pair, CertificateError> {
    let api = |doing| move |source| CertificateError::Api { doing, source };
    let requests: Api<CertificateSigningRequest> = Api::all(client.clone());
    let key = rcgen::KeyPair::generate()?;
    let created = requests
        .create(&PostParams::default(), &signing_request(&key, names)?)
        .await
        .map_err(api("creating the CertificateSigningRequest"))?;
    let name = created.metadata.name.clone().unwrap_or_default();
    let approved = approve(created);
    requests
        .replace_subresource("approval", &name, &PostParams::default(), &approved)
        .await
        .map_err(api("approving the CertificateSigningRequest"))?;
    let deadline = tokio::time::Instant::now() + SIGNING;
    loop {
        let status = requests.get(&name).await.map_err(api("waiting for the signature"))?.status;
        let status = status.unwrap_or_default();
        if let Some(ByteString(pem)) = status.certificate {
            return Ok(Pair {
                certificate: String::from_utf8_lossy(&pem).into_owned(),
                key: key.serialize_pem(),
            });
        }
        let refused = status
            .conditions
            .unwrap_or_default()
            .into_iter()
            .find(|condition| condition.type_ == "Failed" || condition.type_ == "Denied");
        if let Some(condition) = refused {
            let reason = condition.message.or(condition.reason).unwrap_or_default();
            return Err(CertificateError::Refused { name, reason });
        }
        if tokio::time::Instant::now() > deadline {
            return Err(CertificateError::NotSigned { name });
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn signing_request(
    key: &rcgen::KeyPair,
    names: &[String],
) -> Result<CertificateSigningRequest, rcgen::Error> {
    let mut parameters = rcgen::CertificateParams::new(names.to_vec())?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
    parameters.distinguished_name.push(rcgen::DnType::CommonName, COMMON_NAME);
    let pem = parameters.serialize_request(key)?.pem()?;
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("edgeloom-kubelet-serving-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: "kubernetes.io/kubelet-serving".to_owned(),
            usages: Some(vec!["digital signature".to_owned(), "server auth".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

fn approve(mut request: CertificateSigningRequest) -> CertificateSigningRequest {
    let condition = CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("EdgeloomControl".to_owned()),
        message: Some("the control's own kubelet ports".to_owned()),
        ..CertificateSigningRequestCondition::default()
    };
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    request
}

fn pair_of(secret: Secret) -> Option<Pair> {
    let data: BTreeMap<String, ByteString> = secret.data?;
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    Some(Pair { certificate: text("tls.crt")?, key: text("tls.key")? })
}

fn renewal(pem: &str) -> SystemTime {
    let (from, to) = validity(pem).unwrap_or((0, 0));
    let seconds = from + (to - from) / 3 * 2;
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
