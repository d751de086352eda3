//! The fields of every kind, as data: which there are, of which type, and how lists and maps merge.
//!
//! Built-in kinds take names and types from `k8s-openapi` at first use (`builtin`); what its types do
//! not say (patch strategies, keys of lists) stands in a table (`facts`). Custom kinds bring an
//! OpenAPI schema ([`Node::from_openapi`]). Decoding, strict field validation, strategic merge,
//! server-side apply and the OpenAPI documents all walk this one tree.

mod builtin;
mod decode;
mod facts;
mod openapi;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

pub(crate) use self::builtin::{documents, references};
pub use self::decode::{Decoded, Strictness, decode};
pub(crate) use self::facts::extensions;

/// Handle to the schema of one kind: cheap to clone.
#[derive(Clone, Debug)]
pub enum Schema {
    /// A type of Kubernetes' own, by its definition name such as `io.k8s.api.core.v1.Pod`.
    BuiltIn(&'static str),
    /// The schema of a custom kind.
    Custom(Arc<Node>),
}

impl Schema {
    /// The node of a whole object.
    pub fn root(&self) -> &Node {
        match self {
            Self::BuiltIn(name) => builtin::definition(name),
            Self::Custom(node) => node,
        }
    }
}

/// One place in an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// A type that others share, by definition name: [`Node::resolve`] follows it.
    Reference(Box<str>),
    /// A map with known fields.
    Object(Object),
    /// A map with any keys.
    Map {
        values: Box<Node>,
        /// Whether it is replaced as a whole by server-side apply.
        atomic: bool,
    },
    /// A list.
    List(List),
    /// A string, number or boolean.
    Scalar(Scalar),
    /// Anything: nothing is known of what is inside.
    Any,
}

/// A map with known fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    pub fields: BTreeMap<Box<str>, Node>,
    /// Fields that must be there.
    pub required: Vec<Box<str>>,
    /// Whether it is replaced as a whole by server-side apply.
    pub atomic: bool,
    /// Whether fields that are not listed are kept.
    pub keeps_unknown: bool,
    /// Last part of the definition name, as decoding errors call the type.
    pub type_name: Box<str>,
}

/// A list and how two of them merge.
#[derive(Clone, Debug, PartialEq)]
pub struct List {
    pub items: Box<Node>,
    /// `x-kubernetes-list-type`, for server-side apply.
    pub kind: ListKind,
    /// `x-kubernetes-patch-merge-key` with strategy `merge`: strategic merge joins items of the same
    /// key; an empty key joins lists of scalars; `None` replaces the list.
    pub patch_merge_key: Option<Box<str>>,
    /// `x-kubernetes-patch-strategy` holds `retainKeys`.
    pub retain_keys: bool,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Debug, PartialEq)]
pub enum ListKind {
    /// Replaced as a whole.
    Atomic,
    /// Of scalars, each at most once.
    Set,
    /// Of objects that these fields tell apart.
    Map(Vec<Box<str>>),
}

/// JSON type of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    String,
    /// Base64 of bytes.
    Bytes,
    /// RFC 3339.
    Time,
    Int32,
    Int64,
    Number,
    Boolean,
    /// `IntOrString` and `Quantity`.
    IntOrString,
    Quantity,
}

impl Node {
    /// The node itself, with references followed.
    pub fn resolve(&self) -> &Node {
        match self {
            Self::Reference(name) => builtin::definition(name),
            other => other,
        }
    }

    /// The node of a field or map value.
    pub fn field(&self, name: &str) -> Option<&Node> {
        match self.resolve() {
            Self::Object(object) => object.fields.get(name),
            Self::Map { values, .. } => Some(values),
            _ => None,
        }
    }

    /// The node of a list's items.
    pub fn items(&self) -> Option<&Node> {
        self.list().map(|list| &*list.items)
    }

    /// The list this node is, if it is one.
    pub fn list(&self) -> Option<&List> {
        match self.resolve() {
            Self::List(list) => Some(list),
            _ => None,
        }
    }

    /// Whether server-side apply replaces the value as a whole.
    pub fn is_atomic(&self) -> bool {
        match self.resolve() {
            Self::Object(object) => object.atomic,
            Self::Map { atomic, .. } => *atomic,
            Self::List(list) => list.kind == ListKind::Atomic,
            Self::Scalar(_) => true,
            Self::Any | Self::Reference(_) => false,
        }
    }

    /// A node from an OpenAPI v3 schema, as a CustomResourceDefinition has it (structural, no
    /// references). The root gains the `metadata` of every object.
    pub fn from_openapi(schema: &Value) -> Self {
        let mut root = openapi::node(schema, "", "");
        if let Self::Object(object) = &mut root {
            let metadata = Self::Reference("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta".into());
            object.fields.insert("metadata".into(), metadata);
            for name in ["apiVersion", "kind"] {
                object.fields.insert(name.into(), Self::Scalar(Scalar::String));
            }
        }
        root
    }
}
