//! From a client certificate or a bearer token to a user of the cluster.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::{Api, PostParams};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Denied;

/// A user as the cluster's authorizer knows them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// `CN` of the certificate, or the user name of the token.
    pub name: String,
    /// `O`s of the certificate, or the groups of the token.
    pub groups: Vec<String>,
}

/// Tells users by what they present.
#[derive(Clone)]
pub struct Authenticator {
    reviews: Api<TokenReview>,
}

impl Authenticator {
    /// Asks the API server behind `client` about tokens.
    pub fn new(client: kube::Client) -> Self {
        Self { reviews: Api::all(client) }
    }

    /// The user of a certificate that the TLS handshake has verified, else of the request's bearer token.
    pub async fn user(
        &self,
        certificate: Option<&CertificateDer<'_>>,
        headers: &http::HeaderMap,
    ) -> Result<User, Denied> {
        if let Some(user) = certificate.and_then(certificate_user) {
            return Ok(user);
        }
        let token = bearer(headers).ok_or(Denied::Unauthenticated)?;
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), audiences: None },
            ..TokenReview::default()
        };
        let answer = self.reviews.create(&PostParams::default(), &review).await?;
        let status = answer.status.unwrap_or_default();
        match (status.authenticated, status.user) {
            (Some(true), Some(user)) => {
                Ok(User { name: user.username.unwrap_or_default(), groups: user.groups.unwrap_or_default() })
            }
            _ => Err(Denied::Unauthenticated),
        }
    }
}

fn certificate_user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let text =
        |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let name = subject.iter_common_name().find_map(text)?;
    let mut groups: Vec<String> = subject.iter_organization().filter_map(text).collect();
    groups.push("system:authenticated".to_owned());
    Some(User { name, groups })
}

fn bearer(headers: &http::HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_tokens() {
        let with = |value: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert(http::header::AUTHORIZATION, value.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(with("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(with("bearer  abc ").as_deref(), Some("abc"));
        for nothing in ["Basic abc", "Bearer ", "Bearer", "abc"] {
            assert_eq!(with(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_certificate_names_user_and_groups() {
        let mut parameters = rcgen::CertificateParams::default();
        for (kind, value) in
            [(rcgen::DnType::CommonName, "ada"), (rcgen::DnType::OrganizationName, "shop:operators")]
        {
            parameters.distinguished_name.push(kind, value);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let user = certificate_user(certificate.der()).unwrap();
        assert_eq!(user.name, "ada");
        assert_eq!(user.groups, ["shop:operators", "system:authenticated"]);
        assert_eq!(certificate_user(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
