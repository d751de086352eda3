//! Answers: bodies, the representation that the client accepts, Status objects.

use std::convert::Infallible;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT, WARNING};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use serde::Serialize;

use super::query::Query;
use crate::error::{Error, Reason};

/// Failure of a body: the connection to the client or the kubelet is gone.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// Body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;
/// An answer.
pub(crate) type Response = http::Response<Body>;

/// A body that is there as a whole.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// How the objects of an answer are to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Object,
    /// `meta.k8s.io/v1` Table, for `kubectl get`.
    Table,
    /// Metadata alone.
    Partial,
}

/// How the client wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) form: Form,
    yaml: bool,
    pretty: bool,
}

/// Protobuf is named as the real server names it, and answered in JSON to those who take that too.
const TYPES: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

impl Wanted {
    /// Negotiates. The first acceptable range wins.
    pub(crate) fn negotiate(headers: &HeaderMap, query: &Query) -> Result<Self, Error> {
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
        let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
        let for_people = ["curl", "Wget", "Mozilla/5.0"].iter().any(|one| agent.starts_with(one));
        let pretty = query.get("pretty").map_or(for_people, |value| !matches!(value, "false" | "0"));
        let found = accept.split(',').find_map(range);
        let (form, yaml) = found.ok_or_else(|| {
            let message = format!("406: Not Acceptable\n\nAvailable representations: {TYPES}");
            Error::generic(Reason::NotAcceptable, message)
        })?;
        Ok(Self { form, yaml, pretty })
    }

    /// JSON, whatever the client asked for.
    pub(crate) fn plain(query: &Query) -> Self {
        Self { form: Form::Object, yaml: false, pretty: query.flag("pretty") }
    }

    /// An answer with this object.
    pub(crate) fn respond<T: Serialize + ?Sized>(self, code: StatusCode, object: &T) -> Response {
        let (text, content_type) = if self.yaml {
            (serde_yaml_ng::to_string(object).unwrap_or_default(), "application/yaml")
        } else if self.pretty {
            (serde_json::to_string_pretty(object).unwrap_or_default(), "application/json")
        } else {
            (serde_json::to_string(object).unwrap_or_default() + "\n", "application/json")
        };
        respond(code, content_type, text)
    }
}

/// One media range of `Accept`: `None` if nothing here satisfies it.
fn range(text: &str) -> Option<(Form, bool)> {
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next()?;
    let yaml = match essence {
        "application/json" | "*/*" | "application/*" => false,
        "application/yaml" => true,
        _ => return None,
    };
    let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
    let parameter = |name: &str| parameters.iter().find(|(one, _)| *one == name).map(|(_, value)| *value);
    let form = match (parameter("as"), parameter("g"), parameter("v")) {
        (None, _, _) => Form::Object,
        (Some("Table"), Some("meta.k8s.io"), Some("v1")) => Form::Table,
        (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) => {
            Form::Partial
        }
        _ => return None,
    };
    Some((form, yaml))
}

/// An answer with this body.
pub(crate) fn respond(code: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(full(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A refusal as a Status object.
pub(crate) fn refuse(error: &Error, wanted: Wanted) -> Response {
    let (code, status) = error.to_status();
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = wanted.respond(code, &status);
    if let Some(seconds) = status["details"]["retryAfterSeconds"].as_u64() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Adds `Warning` headers, which kubectl prints.
pub(crate) fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn negotiated(accept: &str) -> Result<Wanted, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        Wanted::negotiate(&headers, &Query::default())
    }

    #[test]
    fn accepted_forms() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,\
                     application/json";
        assert_eq!(negotiated(table).unwrap().form, Form::Table);
        let protobuf = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(negotiated(protobuf).unwrap().form, Form::Object);
        let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
        assert_eq!(negotiated(partial).unwrap().form, Form::Partial);
        assert!(negotiated("application/yaml").unwrap().yaml);
        assert_eq!(negotiated("text/html").unwrap_err().reason(), Reason::NotAcceptable);
        assert_eq!(
            negotiated("application/vnd.kubernetes.protobuf").unwrap_err().reason(),
            Reason::NotAcceptable
        );
    }
}
