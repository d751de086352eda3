//! Signs approved CertificateSigningRequests of the two signers that nodes and users need:
//! `kubernetes.io/kubelet-serving` and `kubernetes.io/kube-apiserver-client`.

use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use crate::controller::{Error, Next, Reconcile};
use crate::queue::Queue;
use crate::watch::{Hook, Key};

/// Signer of a kubelet's serving certificate.
const SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signer of a user's client certificate.
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Life of a certificate whose request asks for none.
const LIFE: Duration = Duration::days(365);

/// Signs requests.
pub(crate) struct Controller {
    pub(crate) client: Client,
    pub(crate) requests: Store<CertificateSigningRequest>,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

pub(crate) fn on_request(queue: Arc<Queue<Key>>) -> Hook<CertificateSigningRequest> {
    Box::new(move |request| {
        if waits(request) {
            queue.add(Key::of(request));
        }
    })
}

/// Approved, not denied, not signed, and for one of the two signers.
fn waits(request: &CertificateSigningRequest) -> bool {
    let status = request.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let has = |kind: &str| conditions.iter().any(|condition| condition.type_ == kind);
    let ours = [SERVING, CLIENT].contains(&request.spec.signer_name.as_str());
    ours && has("Approved") && !has("Denied") && !has("Failed") && status.certificate.is_none()
}

impl Reconcile for Controller {
    type Key = Key;
    const NAME: &'static str = "signer";

    async fn reconcile(&self, key: Key) -> Result<Next, Error> {
        let Some(request) = self.requests.get(&key.reference()).filter(|request| waits(request)) else {
            return Ok(Next::Wait);
        };
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let status = match sign(&request, &self.issuer, OffsetDateTime::now_utc()) {
            Ok(pem) => json!({ "certificate": ByteString(pem.into_bytes()) }),
            Err(reason) => {
                let mut conditions =
                    request.status.clone().unwrap_or_default().conditions.unwrap_or_default();
                conditions.push(k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition {
                    type_: "Failed".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("SignerValidationFailure".to_owned()),
                    message: Some(reason),
                    ..Default::default()
                });
                json!({ "conditions": conditions })
            }
        };
        let patch = Patch::Merge(json!({ "status": status }));
        api.patch_status(&request.name_any(), &PatchParams::default(), &patch).await?;
        Ok(Next::Wait)
    }
}

/// The certificate, or why the request is none that its signer signs.
fn sign(
    request: &CertificateSigningRequest,
    issuer: &Issuer<'static, KeyPair>,
    now: OffsetDateTime,
) -> Result<String, String> {
    let pem =
        String::from_utf8(request.spec.request.0.clone()).map_err(|_| "spec.request is no PEM".to_owned())?;
    let mut csr =
        CertificateSigningRequestParams::from_pem(&pem).map_err(|error| format!("spec.request: {error}"))?;
    if request.spec.signer_name == SERVING {
        check_serving(&csr)?;
    }
    let asked = request.spec.expiration_seconds.map(|seconds| Duration::seconds(i64::from(seconds)));
    csr.params.not_before = now - Duration::minutes(5);
    csr.params.not_after = now + asked.map_or(LIFE, |asked| asked.clamp(Duration::minutes(10), LIFE));
    csr.params.is_ca = rcgen::IsCa::ExplicitNoCa;
    let usages = request.spec.usages.clone().unwrap_or_default();
    csr.params.key_usages = usages.iter().filter_map(|usage| key_usage(usage)).collect();
    csr.params.extended_key_usages = usages.iter().filter_map(|usage| extended_usage(usage)).collect();
    csr.signed_by(issuer).map(|certificate| certificate.pem()).map_err(|error| error.to_string())
}

/// What the real signer demands of a kubelet's request.
fn check_serving(csr: &CertificateSigningRequestParams) -> Result<(), String> {
    let name = &csr.params.distinguished_name;
    let text = |kind| match name.get(&kind) {
        Some(rcgen::DnValue::Utf8String(text)) => text.clone(),
        Some(rcgen::DnValue::PrintableString(text)) => text.as_str().to_owned(),
        _ => String::new(),
    };
    if text(rcgen::DnType::OrganizationName) != "system:nodes" {
        return Err("subject organization is not system:nodes".to_owned());
    }
    if !text(rcgen::DnType::CommonName).starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:".to_owned());
    }
    if csr.params.subject_alt_names.is_empty() {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    Ok(())
}

fn key_usage(usage: &str) -> Option<KeyUsagePurpose> {
    match usage {
        "digital signature" => Some(KeyUsagePurpose::DigitalSignature),
        "key encipherment" => Some(KeyUsagePurpose::KeyEncipherment),
        _ => None,
    }
}

fn extended_usage(usage: &str) -> Option<ExtendedKeyUsagePurpose> {
    match usage {
        "server auth" => Some(ExtendedKeyUsagePurpose::ServerAuth),
        "client auth" => Some(ExtendedKeyUsagePurpose::ClientAuth),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType};

    fn issuer() -> Issuer<'static, KeyPair> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Issuer::new(parameters, KeyPair::generate().unwrap())
    }

    fn request(organization: &str, names: &[&str]) -> CertificateSigningRequest {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, "system:node:edge-a");
        parameters.distinguished_name.push(DnType::OrganizationName, organization);
        let key = KeyPair::generate().unwrap();
        let pem = parameters.serialize_request(&key).unwrap().pem().unwrap();
        let mut request = CertificateSigningRequest::default();
        request.spec.request = ByteString(pem.into_bytes());
        request.spec.signer_name = SERVING.to_owned();
        request.spec.usages = Some(vec!["digital signature".to_owned(), "server auth".to_owned()]);
        request
    }

    #[test]
    fn a_kubelets_request_is_signed_with_its_names() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let pem = sign(&request("system:nodes", &["203.0.113.10"]), &issuer(), now).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        let certificate = block.parse_x509().unwrap();
        assert!(certificate.subject().to_string().contains("system:node:edge-a"));
        assert!(certificate.extended_key_usage().unwrap().unwrap().value.server_auth);
        assert_eq!(certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
        assert!(!certificate.is_ca());
    }

    #[test]
    fn others_are_refused_with_the_reason() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let refusal = |request: &CertificateSigningRequest| sign(request, &issuer(), now).unwrap_err();
        assert!(refusal(&request("somebody", &["203.0.113.10"])).contains("system:nodes"));
        assert!(refusal(&request("system:nodes", &[])).contains("subjectAltName"));
        let mut broken = request("system:nodes", &["a"]);
        broken.spec.request = ByteString(b"no PEM".to_vec());
        assert!(refusal(&broken).contains("spec.request"));
    }

    #[test]
    fn only_what_is_approved_waits() {
        let mut request = request("system:nodes", &["a"]);
        assert!(!waits(&request));
        let condition = |kind: &str| k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition {
            type_: kind.to_owned(),
            ..Default::default()
        };
        request.status.get_or_insert_default().conditions = Some(vec![condition("Approved")]);
        assert!(waits(&request));
        request.status.get_or_insert_default().conditions =
            Some(vec![condition("Approved"), condition("Denied")]);
        assert!(!waits(&request));
    }
}
