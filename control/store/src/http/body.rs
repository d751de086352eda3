//! Request bodies: bounded in size and time, JSON or YAML, with the real server's words for bad ones.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use super::{duplicates, protobuf};
use crate::error::{Error, Reason, Result};
use crate::kinds::KindDef;

/// Bytes that a request may hold.
const MAX_BODY: usize = 3 * 1024 * 1024;
/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

const TYPES: &str = "application/json, application/yaml";
const TYPES_AND_PROTOBUF: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Reads the whole body.
pub(crate) async fn read(body: hyper::body::Incoming) -> Result<Bytes> {
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(Error::new(
            Reason::RequestEntityTooLarge,
            format!("Request entity too large: limit is {MAX_BODY}"),
        )),
        Ok(Err(error)) => Err(Error::bad_request(format!("the body of the request broke off: {error}"))),
        Err(_) => Err(Error::new(Reason::Timeout, "the body of the request did not arrive in time")),
    }
}

/// A body read as JSON or YAML.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) value: Value,
    /// Paths of fields that occur twice in the text.
    pub(crate) duplicates: Vec<String>,
}

/// Reads an object of the kind, by the content type of the request.
pub(crate) fn document(headers: &HeaderMap, bytes: &[u8], kind: &KindDef) -> Result<Document> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = content_type.split(';').next().unwrap_or("").trim();
    let unrecognized = |why: &str, shown: &str| {
        Error::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: \
             {why} ({shown})",
            kind.kind
        ))
    };
    let yaml = match essence {
        "" | "application/json" | "*/*" => false,
        "application/yaml" => true,
        protobuf::CONTENT_TYPE if !kind.is_custom() => {
            let value = protobuf::decode(bytes).map_err(|error| Error::bad_request(error.to_string()))?;
            return Ok(Document { value, duplicates: Vec::new() });
        }
        _ => {
            let types = if kind.is_custom() { TYPES } else { TYPES_AND_PROTOBUF };
            return Err(Error::new(
                Reason::UnsupportedMediaType,
                format!(
                    "the body of the request was in an unknown format - accepted media types include: {types}"
                ),
            ));
        }
    };
    let value: Value = if yaml {
        serde_yaml_ng::from_slice(bytes).map_err(|error| unrecognized(&error.to_string(), &excerpt(bytes)))?
    } else {
        serde_json::from_slice(bytes)
            .map_err(|error| unrecognized(&syntax(bytes, &error), &excerpt(bytes)))?
    };
    if !value.is_object() {
        let target = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
        let why = format!(
            "json: cannot unmarshal {} into Go value of type {target}",
            crate::patch::json::go_type(&value)
        );
        return Err(unrecognized(&why, &excerpt(bytes)));
    }
    let duplicates = if yaml { Vec::new() } else { duplicates::find(bytes) };
    Ok(Document { value, duplicates })
}

/// Reads a patch or an options object: JSON, or YAML or protobuf where that is allowed.
pub(crate) fn loose(bytes: &[u8], yaml: bool, what: &str) -> Result<Value> {
    if yaml && protobuf::is(bytes) {
        return protobuf::decode(bytes)
            .map_err(|error| Error::bad_request(format!("error decoding {what}: {error}")));
    }
    match serde_json::from_slice(bytes) {
        Ok(value) => Ok(value),
        Err(_) if yaml => serde_yaml_ng::from_slice(bytes)
            .map_err(|error| Error::bad_request(format!("error decoding {what}: {error}"))),
        Err(error) => Err(Error::bad_request(format!("error decoding {what}: {}", syntax(bytes, &error)))),
    }
}

/// Reads the options in the body of a DELETE.
pub(crate) fn options(headers: &HeaderMap, bytes: &[u8]) -> Result<Value> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let refused =
        |why: &str| Error::internal_plain(format!("couldn't get version/kind; json parse error: {why}"));
    let value = if protobuf::is(bytes) {
        protobuf::decode(bytes).map_err(|error| Error::bad_request(error.to_string()))?
    } else if content_type.starts_with("application/yaml") {
        serde_yaml_ng::from_slice(bytes).map_err(|error| refused(&error.to_string()))?
    } else {
        serde_json::from_slice(bytes).map_err(|error| refused(&syntax(bytes, &error)))?
    };
    if value.is_object() { Ok(value) } else { Err(refused("the options are not an object")) }
}

/// Whether what the object says of itself is the kind at the URL.
pub(crate) fn check_type(value: &Value, kind: &KindDef) -> Result<()> {
    let text = |field: &str| value[field].as_str().filter(|text| !text.is_empty());
    let (api_version, name) = (text("apiVersion"), text("kind"));
    let expected = kind.api_version();
    if name.is_none_or(|name| name == kind.kind) && api_version.is_none_or(|version| version == expected) {
        return Ok(());
    }
    let (api_version, name) = (api_version.unwrap_or(&expected), name.unwrap_or(&kind.kind));
    let version = api_version.rsplit('/').next().unwrap_or(api_version);
    if kind.is_custom() && name == kind.kind {
        return Err(Error::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )));
    }
    let why = if api_version == expected && name != kind.kind {
        format!("converting ({version}.{name}) to ({}.{}): unknown conversion", package(kind), kind.kind)
    } else {
        format!(
            "no kind {name:?} is registered for version {api_version:?} in scheme \"pkg/runtime/scheme.go:110\""
        )
    };
    Err(Error::bad_request(format!(
        "{name} in version {version:?} cannot be handled as a {}: {why}",
        kind.kind
    )))
}

fn package(kind: &KindDef) -> &str {
    if kind.group.is_empty() { "core" } else { kind.group.split('.').next().unwrap_or("") }
}

/// A syntax error in the words of Go's decoder, which users search the web for.
pub(crate) fn syntax(bytes: &[u8], error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    match error.classify() {
        Category::Eof => "unexpected end of JSON input".to_owned(),
        Category::Syntax => {
            let at = offset(bytes, error);
            let bad =
                std::str::from_utf8(&bytes[at.min(bytes.len())..]).ok().and_then(|rest| rest.chars().next());
            let what = error.to_string();
            if let Some(wrong) = literal(&bytes[..at.min(bytes.len())], bytes, at) {
                return wrong;
            }
            match bad {
                Some(bad) if what.starts_with("expected value") => {
                    format!("invalid character '{bad}' looking for beginning of value")
                }
                Some(bad) if what.starts_with("key must be a string") => {
                    format!("invalid character '{bad}' looking for beginning of object key string")
                }
                Some(bad) if what.starts_with("trailing characters") => {
                    format!("invalid character '{bad}' after top-level value")
                }
                _ => what,
            }
        }
        _ => error.to_string(),
    }
}

/// A word that begins as `null`, `true` or `false` does and goes on otherwise.
fn literal(before: &[u8], bytes: &[u8], at: usize) -> Option<String> {
    let start = before.iter().rposition(|byte| !byte.is_ascii_lowercase()).map_or(0, |last| last + 1);
    let word =
        ["null", "true", "false"].into_iter().find(|word| bytes.get(start) == word.as_bytes().first())?;
    let known = word.bytes().zip(&bytes[start..]).take_while(|(one, other)| one == *other).count();
    let (bad, expected) = (*bytes.get(start + known)?, word.as_bytes().get(known)?);
    let (bad, expected) = (char::from(bad), char::from(*expected));
    (start <= at).then(|| format!("invalid character '{bad}' in literal {word} (expecting '{expected}')"))
}

fn offset(bytes: &[u8], error: &serde_json::Error) -> usize {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').take(error.line().saturating_sub(1));
    lines.map(<[u8]>::len).sum::<usize>() + error.column().saturating_sub(1)
}

/// The start of a body that could not be read, for the message.
fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 30;
    if bytes.is_empty() {
        return "<empty>".to_owned();
    }
    let printable = bytes.iter().take(SHOWN).all(|byte| (0x20..0x7f).contains(byte)) && bytes.contains(&b'{');
    let cut = &bytes[..bytes.len().min(SHOWN)];
    let more = if bytes.len() > SHOWN { " ..." } else { "" };
    if printable {
        format!("{}{more}", String::from_utf8_lossy(cut))
    } else {
        format!("{}{more}", hex::encode(cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    fn refusal(bytes: &[u8]) -> String {
        let kind = Registry::built_in().find("", "v1", "configmaps").unwrap();
        document(&HeaderMap::new(), bytes, &kind).unwrap_err().to_string()
    }

    #[test]
    fn bad_bodies_in_the_real_words() {
        let prefix = "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; \
                      json parse error: ";
        for (body, why) in [
            (&b"xx"[..], "invalid character 'x' looking for beginning of value (7878)"),
            (b"", "unexpected end of JSON input (<empty>)"),
            (b"nonsense", "invalid character 'o' in literal null (expecting 'u') (6e6f6e73656e7365)"),
            (
                br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"q4""#,
                r#"unexpected end of JSON input ({"kind":"ConfigMap","apiVersio ...)"#,
            ),
            (
                b"[]",
                r#"json: cannot unmarshal array into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" } (5b5d)"#,
            ),
        ] {
            assert_eq!(refusal(body), format!("{prefix}{why}"));
        }
    }

    #[test]
    fn depth_is_bounded() {
        let bomb = "[".repeat(100_000);
        assert!(refusal(bomb.as_bytes()).contains("recursion limit"));
    }
}
