//! What an empty object of a built-in kind holds when the real server encodes it: parts that are
//! structures are there, so that creating an object does not make its author their owner.
//!
//! `zero.txt` is written by `tools/protobuf-table.py`.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::kinds::KindDef;
use crate::schema::Schema;

static EMPTY: LazyLock<HashMap<&'static str, Value>> = LazyLock::new(|| {
    include_str!("zero.txt")
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name, serde_json::from_str(value).ok()?))
        })
        .collect()
});

/// An object of the kind that nobody has filled.
pub(super) fn object(kind: &KindDef) -> Value {
    let known = match &kind.schema {
        Schema::BuiltIn(name) => name.strip_prefix("io.k8s.api.").and_then(|name| EMPTY.get(name)).cloned(),
        Schema::Custom(_) => None,
    };
    known.unwrap_or_else(|| json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    #[test]
    fn structures_are_there() {
        let registry = Registry::built_in();
        let deployment = object(&registry.find("apps", "v1", "deployments").unwrap());
        assert_eq!(deployment["spec"]["template"]["spec"], json!({"containers": null}));
        assert_eq!(EMPTY.len(), include_str!("zero.txt").lines().count());
    }
}
