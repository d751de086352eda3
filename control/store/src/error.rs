//! Failures as the Kubernetes API tells them: a reason, an HTTP code, a message in the server's words,
//! and details that clients read. Everything below the HTTP face returns [`Error`].

use std::fmt;

use serde_json::{Map, Value, json};

use crate::kinds::KindDef;

/// Result of everything in this crate that can refuse.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request was refused: `metav1.StatusReason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    AlreadyExists,
    Conflict,
    Expired,
    Invalid,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
    Timeout,
}

impl Reason {
    /// The HTTP status code that goes with the reason.
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
        }
    }
}

/// One field that is wrong: `field.Error` of apimachinery, and a cause in the Status it becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Machine-readable kind of the fault, such as `FieldValueRequired`.
    pub reason: &'static str,
    /// Path in dots and brackets: `spec.containers[0].image`.
    pub field: String,
    /// What is wrong, without the path.
    pub message: String,
}

impl FieldError {
    fn new(reason: &'static str, field: impl Into<String>, message: String) -> Self {
        Self { reason, field: field.into(), message }
    }

    /// A field that must be there is not.
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::new("FieldValueRequired", field, with_detail("Required value", detail))
    }

    /// A value that the field cannot have.
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::new(
            "FieldValueInvalid",
            field,
            with_detail(&format!("Invalid value: {}", shown(value)), detail),
        )
    }

    /// A value of the wrong JSON type, in a custom resource.
    pub fn type_invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::new(
            "FieldValueTypeInvalid",
            field,
            with_detail(&format!("Invalid value: {}", shown(value)), detail),
        )
    }

    /// A value outside a closed set.
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        let detail = format!("supported values: {}", quoted.join(", "));
        Self::new(
            "FieldValueNotSupported",
            field,
            with_detail(&format!("Unsupported value: {}", shown(value)), &detail),
        )
    }

    /// A value that must be unique and is not.
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::new("FieldValueDuplicate", field, format!("Duplicate value: {}", shown(value)))
    }

    /// A field that may not be set, or not be set so, here.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::new("FieldValueForbidden", field, with_detail("Forbidden", detail))
    }

    /// A string or object that is longer than `max` bytes.
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        Self::new("FieldValueTooLong", field, format!("Too long: may not be more than {max} bytes"))
    }

    /// A list with more than `max` items.
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Self::new("FieldValueTooMany", field, format!("Too many: {actual}: must have at most {max} {items}"))
    }

    /// A reference to something that is not there.
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self::new("FieldValueNotFound", field, format!("Not found: {}", shown(value)))
    }

    /// A fault of the server while it looked at the field.
    pub fn internal(field: impl Into<String>, detail: &str) -> Self {
        Self::new("InternalError", field, with_detail("Internal error", detail))
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

fn with_detail(what: &str, detail: &str) -> String {
    if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") }
}

/// A value as the server prints it: strings quoted, null as Go's, all else as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// A refusal, ready to become a `Status` object.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    reason: Reason,
    message: String,
    name: String,
    group: String,
    /// Plural, or kind for validation failures: clients print `details.kind`.
    kind: String,
    uid: String,
    causes: Vec<FieldError>,
    retry_after: Option<u32>,
    form: Form,
}

/// How much of the Status object is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Usual,
    /// With details even where there are none: what the real server answers for a route, not an object.
    Generic,
    /// A message and a code alone: a fault that it did not foresee.
    Plain,
}

impl Error {
    /// A refusal with a message of the caller's own.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after: None,
            form: Form::Usual,
        }))
    }

    /// The same refusal about this object: fills `details`.
    pub fn about(mut self, kind: &KindDef, name: &str) -> Self {
        self.0.group.clone_from(&kind.group);
        self.0.kind.clone_from(&kind.plural);
        name.clone_into(&mut self.0.name);
        self
    }

    /// The same refusal about an object of another kind than the one asked for.
    pub(crate) fn about_other(mut self, plural: &str, name: &str) -> Self {
        plural.clone_into(&mut self.0.kind);
        name.clone_into(&mut self.0.name);
        self
    }

    /// The same refusal about a resource that may not be declared.
    pub fn about_resource(mut self, group: &str, kind: &str, name: &str) -> Self {
        group.clone_into(&mut self.0.group);
        kind.clone_into(&mut self.0.kind);
        name.clone_into(&mut self.0.name);
        self
    }

    /// `pods "x" not found`.
    pub fn not_found(kind: &KindDef, name: &str) -> Self {
        Self::new(Reason::NotFound, format!("{} {name:?} not found", kind.resource())).about(kind, name)
    }

    /// `pods "x" already exists`.
    pub fn already_exists(kind: &KindDef, name: &str) -> Self {
        Self::new(Reason::AlreadyExists, format!("{} {name:?} already exists", kind.resource()))
            .about(kind, name)
    }

    /// `Operation cannot be fulfilled on pods "x": …`.
    pub fn conflict(kind: &KindDef, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", kind.resource());
        Self::new(Reason::Conflict, message).about(kind, name)
    }

    /// A precondition of a delete does not hold; `title` is `UID` or `ResourceVersion`.
    pub(crate) fn precondition(kind: &KindDef, name: &str, title: &str, wanted: &str, actual: &str) -> Self {
        let happened = if title == "UID" { "deleted and then recreated" } else { "modified" };
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: the {title} in the precondition ({wanted}) does not match \
             the {title} in record ({actual}). The object might have been {happened}",
            kind.kind
        );
        let mut error = Self::new(Reason::Conflict, message).about(kind, name);
        error.0.kind.clone_from(&kind.kind);
        error
    }

    /// The write was based on another version than the stored one.
    pub fn stale(kind: &KindDef, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// `Deployment.apps "x" is invalid: …`, with a cause for each field.
    pub fn invalid(kind: &KindDef, name: &str, causes: Vec<FieldError>) -> Self {
        let shown: Vec<String> = causes.iter().map(ToString::to_string).collect();
        let list = if shown.len() == 1 { shown[0].clone() } else { format!("[{}]", shown.join(", ")) };
        let qualified =
            if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
        let mut error =
            Self::new(Reason::Invalid, format!("{qualified} {name:?} is invalid: {list}")).about(kind, name);
        error.0.kind.clone_from(&kind.kind);
        error.0.causes = causes;
        error
    }

    /// The same for one field, naming the resource and not the kind: `leases.coordination.k8s.io "x" is
    /// invalid: …`.
    pub(crate) fn invalid_resource(kind: &KindDef, name: &str, cause: FieldError) -> Self {
        let message = format!("{} {name:?} is invalid: {cause}", kind.resource());
        Self::new(Reason::Invalid, message).about(kind, name).with_causes(vec![cause])
    }

    /// `pods "x" is forbidden: why`: admission refused it.
    pub fn forbidden(kind: &KindDef, name: &str, why: &str) -> Self {
        let object = if name.is_empty() { String::new() } else { format!(" {name:?}") };
        Self::new(Reason::Forbidden, format!("{}{object} is forbidden: {why}", kind.resource()))
            .about(kind, name)
    }

    /// A request that cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// A version that was compacted away: `too old resource version: 5 (10)`.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// The kind has no such verb.
    pub fn method_not_allowed(kind: &KindDef, verb: &str) -> Self {
        let message = format!("{verb} is not supported on resources of kind {:?}", kind.resource());
        Self::new(Reason::MethodNotAllowed, message).about(kind, "")
    }

    /// A fault of the server; the message says what failed.
    pub fn internal(what: impl fmt::Display) -> Self {
        Self::new(Reason::InternalError, format!("Internal error occurred: {what}"))
    }

    /// A fault whose message is told as it stands: what the real server answers with 500 and no reason.
    pub(crate) fn internal_plain(message: impl Into<String>) -> Self {
        let mut error = Self::new(Reason::InternalError, message);
        error.0.form = Form::Plain;
        error
    }

    /// A refusal that is about the request and no object.
    pub(crate) fn generic(reason: Reason, message: impl Into<String>) -> Self {
        let mut error = Self::new(reason, message);
        error.0.form = Form::Generic;
        error
    }

    /// Tells the client to come back after this many seconds.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }

    /// Adds causes to the details, for conflicts of server-side apply and the like.
    pub fn with_causes(mut self, causes: Vec<FieldError>) -> Self {
        self.0.causes = causes;
        self
    }

    /// Why it was refused.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The fields that are wrong, for [`Reason::Invalid`] and apply conflicts.
    pub fn causes(&self) -> &[FieldError] {
        &self.0.causes
    }

    /// Whether a retry with a fresh read can succeed.
    pub fn is_conflict(&self) -> bool {
        self.0.reason == Reason::Conflict
    }

    /// Whether the object is not there.
    pub fn is_not_found(&self) -> bool {
        self.0.reason == Reason::NotFound
    }

    /// The HTTP code and the `Status` object of the answer.
    pub fn to_status(&self) -> (u16, Value) {
        let inner = &*self.0;
        let code = inner.reason.code();
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": inner.message,
        });
        if inner.form != Form::Plain {
            status["reason"] = json!(format!("{:?}", inner.reason));
        }
        if let Some(details) = self.details() {
            status["details"] = details;
        }
        status["code"] = json!(code);
        (code, status)
    }

    fn details(&self) -> Option<Value> {
        let inner = &*self.0;
        let mut details = Map::new();
        for (key, text) in
            [("name", &inner.name), ("group", &inner.group), ("kind", &inner.kind), ("uid", &inner.uid)]
        {
            if !text.is_empty() {
                details.insert(key.into(), json!(text));
            }
        }
        if !inner.causes.is_empty() {
            let causes: Vec<Value> = inner
                .causes
                .iter()
                .map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field}))
                .collect();
            details.insert("causes".into(), Value::Array(causes));
        }
        if let Some(seconds) = inner.retry_after {
            details.insert("retryAfterSeconds".into(), json!(seconds));
        }
        (!details.is_empty() || inner.form == Form::Generic).then_some(Value::Object(details))
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::internal(format_args!("the object database failed: {error}"))
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::internal(format_args!("a stored object is not JSON: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    #[test]
    fn says_what_the_real_server_says() {
        let registry = Registry::built_in();
        let deployments = registry.find("apps", "v1", "deployments").unwrap();
        let causes = vec![FieldError::invalid("spec.selector", &json!({"a": "b"}), "field is immutable")];
        let (code, status) = Error::invalid(&deployments, "x", causes).to_status();
        assert_eq!(code, 422);
        assert_eq!(
            status["message"],
            r#"Deployment.apps "x" is invalid: spec.selector: Invalid value: {"a":"b"}: field is immutable"#
        );
        assert_eq!(status["details"]["causes"][0]["field"], "spec.selector");
        let (_, status) = Error::stale(&deployments, "x").to_status();
        assert!(status["message"].as_str().unwrap().starts_with(
            r#"Operation cannot be fulfilled on deployments.apps "x": the object has been modified; please apply"#
        ));
        let pods = registry.find("", "v1", "pods").unwrap();
        let (code, status) = Error::not_found(&pods, "x").to_status();
        assert_eq!((code, &status["message"]), (404, &json!("pods \"x\" not found")));
        assert_eq!(status["details"], json!({"name": "x", "kind": "pods"}));
    }
}
