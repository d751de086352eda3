//! Request bodies in Kubernetes' protobuf, which kubectl sends where it uses typed clients (`create
//! deployment`, `auth can-i`, …). They become the JSON that the rest of the server knows; answers are
//! always JSON.
//!
//! `fields.txt` holds the field numbers of the published definitions (`tools/protobuf-table.py` writes
//! it); one decoder walks it. Wire format: <https://protobuf.dev/programming-guides/encoding>; envelope:
//! four bytes `k8s\0`, then `runtime.Unknown`.

mod wire;

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::wire::{Data, fields};

/// Content type of these bodies.
pub(super) const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every body starts with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages.
const DEPTH: usize = 64;

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum ProtobufError {
    #[error("provided data does not appear to be a protobuf message, expected prefix {MAGIC:?}")]
    Prefix,
    #[error("the message is cut off or malformed")]
    Malformed,
    #[error("the message is nested too deeply")]
    Depth,
    #[error("no protobuf definition of {0} is known; send JSON")]
    Unknown(String),
}

/// How a field is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    One,
    Many,
    /// By string.
    Mapped,
    /// Its fields stand in the object around it.
    Inline,
}

#[derive(Debug)]
struct Field {
    name: &'static str,
    shape: Shape,
    kind: &'static str,
    /// Whether zero is said and not left out.
    keeps_zero: bool,
}

type Messages = HashMap<&'static str, HashMap<u32, Field>>;

static MESSAGES: LazyLock<Messages> = LazyLock::new(|| {
    include_str!("fields.txt")
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.filter_map(field).collect()))
        })
        .collect()
});

fn field(word: &'static str) -> Option<(u32, Field)> {
    let (name, rest) = word.split_once(':')?;
    let (number, kind) = rest.split_once(':')?;
    let (kind, keeps_zero) = kind.strip_suffix('!').map_or((kind, false), |kind| (kind, true));
    let shapes = [("*", Shape::Many), ("%", Shape::Mapped), ("^", Shape::Inline)];
    let found = shapes.iter().find_map(|(mark, shape)| Some((*shape, kind.strip_prefix(mark)?)));
    let (shape, kind) = found.unwrap_or((Shape::One, kind));
    Some((number.parse().ok()?, Field { name, shape, kind, keeps_zero }))
}

/// Whether a body is in this format.
pub(super) fn is(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Reads a body: the object, with `apiVersion` and `kind`.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for (number, data) in fields(envelope)? {
        match (number, data) {
            (1, Data::Bytes(meta)) => {
                for (number, data) in fields(meta)? {
                    match number {
                        1 => api_version = data.text()?,
                        2 => kind = data.text()?,
                        _ => {}
                    }
                }
            }
            (2, Data::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let name = message_name(&api_version, &kind);
    let (name, _) = MESSAGES
        .get_key_value(name.as_str())
        .ok_or_else(|| ProtobufError::Unknown(format!("{kind} in {api_version}")))?;
    let mut object = Map::new();
    object.insert("kind".into(), json!(kind));
    object.insert("apiVersion".into(), json!(api_version));
    message(name, raw, DEPTH, &mut object)?;
    Ok(Value::Object(object))
}

/// `core.v1.Pod` for `v1` and `Pod`, `rbac.v1.Role` for `rbac.authorization.k8s.io/v1` and `Role`.
fn message_name(api_version: &str, kind: &str) -> String {
    if kind == "DeleteOptions" {
        return "meta.v1.DeleteOptions".to_owned();
    }
    match api_version.split_once('/') {
        None => format!("core.{api_version}.{kind}"),
        Some((group, version)) => format!("{}.{version}.{kind}", group.split('.').next().unwrap_or("")),
    }
}

/// Reads the fields of a message into `object`.
fn message(
    name: &str,
    bytes: &[u8],
    depth: usize,
    object: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    let depth = depth.checked_sub(1).ok_or(ProtobufError::Depth)?;
    let unknown = || ProtobufError::Unknown(name.to_owned());
    let known = MESSAGES.get(name).ok_or_else(unknown)?;
    for (number, data) in fields(bytes)? {
        let Some(field) = known.get(&number) else { continue };
        match field.shape {
            Shape::Inline => message(field.kind, data.bytes()?, depth, object)?,
            Shape::One => {
                let value = value(field.kind, data, depth)?;
                if field.keeps_zero || !is_zero(&value) {
                    object.insert(field.name.to_owned(), value);
                }
            }
            Shape::Many => {
                let list = object.entry(field.name).or_insert_with(|| json!([]));
                if let Value::Array(list) = list {
                    list.push(value(field.kind, data, depth)?);
                }
            }
            Shape::Mapped => {
                let (key, value) = entry(field.kind, data.bytes()?, depth)?;
                let map = object.entry(field.name).or_insert_with(|| json!({}));
                if let Value::Object(map) = map {
                    map.insert(key, value);
                }
            }
        }
    }
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn entry(kind: &str, bytes: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
    let (mut key, mut held) = (String::new(), None);
    for (number, data) in fields(bytes)? {
        match number {
            1 => key = data.text()?,
            2 => held = Some(value(kind, data, depth)?),
            _ => {}
        }
    }
    let empty = || if kind.len() > 1 { value(kind, Data::Bytes(&[]), depth) } else { Ok(json!("")) };
    Ok((key, held.map_or_else(empty, Ok)?))
}

fn value(kind: &str, data: Data<'_>, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match kind {
        "s" => json!(data.text()?),
        "y" => json!(STANDARD.encode(data.bytes()?)),
        "b" => json!(data.number()? != 0),
        "i" => json!(data.number()?.cast_signed()),
        "d" => json!(f64::from_bits(data.number()?)),
        "meta.v1.Time" => time(data.bytes()?, false)?,
        "meta.v1.MicroTime" => time(data.bytes()?, true)?,
        "resource.Quantity" => {
            fields(data.bytes()?)?.first().map_or(Ok(json!("0")), |(_, text)| text.text().map(Value::from))?
        }
        "intstr.IntOrString" => int_or_string(data.bytes()?)?,
        "meta.v1.FieldsV1" | "runtime.RawExtension" => raw(data.bytes()?)?,
        message_kind => {
            let mut object = Map::new();
            message(message_kind, data.bytes()?, depth, &mut object)?;
            if message_kind.ends_with(".ExtraValue") {
                return Ok(object.remove("items").unwrap_or_else(|| json!([])));
            }
            Value::Object(object)
        }
    })
}

/// Seconds and nanoseconds since 1970; nothing is no time.
fn time(bytes: &[u8], micro: bool) -> Result<Value, ProtobufError> {
    let (mut seconds, mut nanos) = (None, 0);
    for (number, data) in fields(bytes)? {
        match number {
            1 => seconds = Some(data.number()?.cast_signed()),
            2 => nanos = data.number()?,
            _ => {}
        }
    }
    let Some(seconds) = seconds else { return Ok(Value::Null) };
    let time = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| ProtobufError::Malformed)?;
    let whole = time.format(&Rfc3339).map_err(|_| ProtobufError::Malformed)?;
    if !micro {
        return Ok(json!(whole));
    }
    Ok(json!(format!("{}.{:06}Z", whole.trim_end_matches('Z'), nanos / 1000)))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for (at, data) in fields(bytes)? {
        match at {
            1 => is_text = data.number()? == 1,
            2 => number = data.number()?.cast_signed(),
            3 => text = data.text()?,
            _ => {}
        }
    }
    Ok(if is_text { json!(text) } else { json!(number) })
}

/// JSON within protobuf.
fn raw(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let fields = fields(bytes)?;
    let Some((_, data)) = fields.first() else { return Ok(Value::Null) };
    serde_json::from_slice(data.bytes()?).map_err(|_| ProtobufError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of wire type 2.
    fn block(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        bytes.extend_from_slice(content);
        bytes
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [block(1, api_version.as_bytes()), block(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), block(1, &meta), block(2, raw)].concat()
    }

    #[test]
    fn a_deployment() {
        let metadata =
            [block(1, b"web"), block(3, b""), block(11, &[block(1, b"a"), block(2, b"b")].concat())].concat();
        let spec = [vec![8, 0], block(4, &[])].concat();
        let raw = [block(1, &metadata), block(2, &spec)].concat();
        assert_eq!(
            decode(&body("apps/v1", "Deployment", &raw)).unwrap(),
            json!({"kind": "Deployment", "apiVersion": "apps/v1",
                "metadata": {"name": "web", "labels": {"a": "b"}}, "spec": {"replicas": 0, "strategy": {}}})
        );
    }

    #[test]
    fn inline_parts_and_ports() {
        let volume = [block(1, b"v"), block(2, &block(2, &[]))].concat();
        let port =
            [block(1, b"p"), vec![24, 80], block(4, &[vec![8, 1], block(3, b"http")].concat())].concat();
        let mut object = Map::new();
        message("core.v1.Volume", &volume, DEPTH, &mut object).unwrap();
        assert_eq!(Value::Object(object), json!({"name": "v", "emptyDir": {}}));
        let mut object = Map::new();
        message("core.v1.ServicePort", &port, DEPTH, &mut object).unwrap();
        assert_eq!(Value::Object(object), json!({"name": "p", "port": 80, "targetPort": "http"}));
    }

    #[test]
    fn bad_bodies() {
        assert_eq!(decode(b"{}"), Err(ProtobufError::Prefix));
        assert!(matches!(decode(&body("v7", "Pod", b"")), Err(ProtobufError::Unknown(_))));
        assert_eq!(decode(&body("v1", "Pod", &[10, 200])), Err(ProtobufError::Malformed));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ = decode(&[MAGIC, &bytes].concat());
            let _ = message("core.v1.PodSpec", &bytes, DEPTH, &mut Map::new());
        }
    }
}
