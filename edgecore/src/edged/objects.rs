//! The data of ConfigMaps and Secrets.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgeloom_api::kind::{self, Kind};
use serde_json::Value;

use super::cluster::Cluster;

/// Where keys and values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl Source {
    fn kind(self) -> &'static Kind {
        match self {
            Self::ConfigMap => &kind::CONFIG_MAP,
            Self::Secret => &kind::SECRET,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind().kind)
    }
}

/// Keys and values of an object; `None` where it is absent and may be. Errors are in kubelet's words.
pub fn data(
    cluster: &dyn Cluster,
    source: Source,
    namespace: &str,
    name: &str,
    optional: bool,
) -> Result<Option<BTreeMap<String, Vec<u8>>>, String> {
    match cluster.get(source.kind(), namespace, name).map_err(|error| error.to_string())? {
        Some(object) => Ok(Some(decode(source, &object))),
        None if optional => Ok(None),
        None => Err(format!("{} {name:?} not found", source.kind().kind.to_lowercase())),
    }
}

/// Values that cannot be decoded are left out: the API server refuses them.
fn decode(source: Source, object: &Value) -> BTreeMap<String, Vec<u8>> {
    let texts = |field: &str| {
        let map = object[field].as_object().into_iter().flatten();
        map.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
    };
    let binary = |field: &str| -> Vec<(String, Vec<u8>)> {
        texts(field).filter_map(|(key, value)| Some((key, STANDARD.decode(value).ok()?))).collect()
    };
    match source {
        Source::Secret => binary("data").into_iter().collect(),
        Source::ConfigMap => {
            let plain = texts("data").map(|(key, value)| (key, value.into_bytes()));
            plain.chain(binary("binaryData")).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_kinds_of_data() {
        let map = json!({"data": {"a": "text"}, "binaryData": {"b": "AAE=", "c": "%"}});
        let data = decode(Source::ConfigMap, &map);
        assert_eq!((data["a"].as_slice(), data["b"].as_slice()), (b"text".as_slice(), [0, 1].as_slice()));
        assert!(!data.contains_key("c"));
        assert_eq!(decode(Source::Secret, &json!({"data": {"k": "dg=="}}))["k"], b"v");
    }
}
