//! What the API serves: one declaration a kind, in the files of this folder, and nothing about a
//! kind anywhere else but in the functions its declaration names.
//!
//! A [`KindDef`] says how a kind is called, which verbs and subresources it has, how it prints as a
//! table, what its fields are ([`crate::schema`]), and which pure functions default and validate it.
//! The [`Registry`] holds the built-in ones and those that CustomResourceDefinitions add at run time.

mod apps;
mod cells;
mod column;
mod custom;
mod events;
mod groups;
mod registry;

use std::sync::Arc;

use serde_json::Value;

pub use self::cells::{age, human_duration};
pub use self::column::{Cell, Column};
pub(crate) use self::custom::from_crd;
pub use self::registry::{Group, Registry};
use crate::error::FieldError;
use crate::schema::Schema;

/// A subresource of a kind, beyond the object itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Subresource {
    /// `/status`: written apart from the spec.
    Status,
    /// `/scale`: an `autoscaling/v1` Scale that maps to these fields.
    Scale(ScalePaths),
    /// One that the HTTP face implements: `log`, `exec`, `token`, `binding`, `eviction`, `approval`, …
    Other {
        /// Last element of the path.
        name: &'static str,
        /// Kind of the body, with its group and version where they are not the parent's.
        kind: (&'static str, &'static str, &'static str),
        verbs: &'static [&'static str],
    },
}

/// Where a kind keeps what `Scale` shows, as dotted paths such as `.spec.replicas`.
#[derive(Clone, Debug, PartialEq)]
pub struct ScalePaths {
    pub spec_replicas: String,
    pub status_replicas: String,
    /// The selector: a string in the status (custom resources) or a `LabelSelector` (built-in kinds).
    pub selector: Option<String>,
}

/// Sets the fields that a client left out. Runs on every object that comes in.
pub type Defaulter = fn(&mut Value);
/// Reports what is wrong with a whole, defaulted object. `old` is the stored one on update.
pub type Validator = fn(new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>);
/// Fits a new object before it is validated: sets what the server owns on create, and keeps it on
/// update (`old` given).
pub type Preparer = fn(new: &mut Value, old: Option<&Value>);

/// A pure function over one object, the same for all versions of a kind.
pub type Convert = fn(Value) -> Value;

/// How a version that is not the stored one is read and written.
#[derive(Clone, Copy)]
pub enum Conversion {
    /// Only `apiVersion` differs: custom resources with the strategy `None`.
    Rename,
    /// The fields differ.
    Functions {
        /// From this version to the stored one.
        to_stored: Convert,
        /// From the stored version to this one.
        from_stored: Convert,
    },
}

/// Everything the server knows about a kind in one version.
pub struct KindDef {
    pub group: String,
    pub version: String,
    /// CamelCase name, as in an object's `kind`.
    pub kind: String,
    /// `kind` of a collection.
    pub list_kind: String,
    /// Lower-case plural, as in paths.
    pub plural: String,
    pub singular: String,
    pub short_names: Vec<String>,
    /// Groups of kinds for `kubectl get`, such as `all`.
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// Verbs of the main resource, sorted, as discovery lists them.
    pub verbs: Vec<&'static str>,
    pub subresources: Vec<Subresource>,
    /// Columns after NAME… of `kubectl get`: the first is the name.
    pub columns: Vec<Column>,
    /// Whether the server keeps no object of the kind, but answers a POST: reviews.
    pub is_virtual: bool,
    /// A PUT to a name that is not there creates it.
    pub create_on_update: bool,
    /// A PUT without a resourceVersion replaces whatever is there.
    pub unconditional_update: bool,
    /// DELETE answers the object and not a Status.
    pub returns_deleted: bool,
    /// Whether `metadata.generation` counts the changes of everything but metadata and status.
    pub generation: bool,
    /// How names of this kind are checked.
    pub name_rule: crate::validate::NameRule,
    /// Fields that a field selector can name, besides `metadata.name` and `metadata.namespace`.
    pub selectable: Vec<String>,
    pub schema: Schema,
    pub default: Defaulter,
    pub prepare: Preparer,
    pub validate: Validator,
    /// Key of the stored objects, the same for all versions of a kind: `pods`, `deployments.apps`.
    pub storage: String,
    /// `apiVersion` and `kind` of what is stored, with the way there, if it is not this version.
    pub conversion: Option<(String, Conversion)>,
    /// The CustomResourceDefinition's schema, if the kind is custom.
    pub custom: Option<Arc<crate::crd::Structural>>,
}

impl std::fmt::Debug for KindDef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KindDef({}/{})", self.resource(), self.version)
    }
}

impl KindDef {
    /// `v1` or `group/version`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods` or `deployments.apps`: how messages name the resource.
    pub fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether `/status` is written apart.
    pub fn has_status(&self) -> bool {
        self.subresources.contains(&Subresource::Status)
    }

    /// The paths of `/scale`, if the kind has it.
    pub fn scale(&self) -> Option<&ScalePaths> {
        self.subresources.iter().find_map(|one| match one {
            Subresource::Scale(paths) => Some(paths),
            _ => None,
        })
    }

    /// Whether the main resource has this verb.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// Whether objects come from a CustomResourceDefinition.
    pub fn is_custom(&self) -> bool {
        self.custom.is_some()
    }

    /// An object as it is stored, in this kind's version.
    pub(crate) fn present(&self, stored: Value) -> Value {
        match &self.conversion {
            None => stored,
            Some((_, Conversion::Rename)) => renamed(stored, &self.api_version()),
            Some((_, Conversion::Functions { from_stored, .. })) => {
                renamed(from_stored(stored), &self.api_version())
            }
        }
    }

    /// An object in this kind's version, as it is stored.
    pub(crate) fn stored(&self, object: Value) -> Value {
        match &self.conversion {
            None => object,
            Some((api_version, Conversion::Rename)) => renamed(object, api_version),
            Some((api_version, Conversion::Functions { to_stored, .. })) => {
                renamed(to_stored(object), api_version)
            }
        }
    }
}

fn renamed(mut object: Value, api_version: &str) -> Value {
    object["apiVersion"] = Value::String(api_version.to_owned());
    object
}
