//! The kinds that a CustomResourceDefinition defines: one for each served version.

use std::sync::Arc;

use serde_json::Value;

use super::registry::priority;
use super::{Cell, Column, Conversion, KindDef, ScalePaths, Subresource};
use crate::crd::Structural;
use crate::jsonpath::JsonPath;
use crate::schema::{Node, Schema};

/// The kinds of a definition, preferred version first. The stored version is among them even if it is
/// not served, marked by having no verbs.
pub(crate) fn from_crd(crd: &Value) -> Vec<KindDef> {
    let spec = &crd["spec"];
    let versions = spec["versions"].as_array();
    let Some(storage) = versions.into_iter().flatten().find(|version| version["storage"] == true) else {
        return Vec::new();
    };
    let api_version = format!("{}/{}", text(&spec["group"]), text(&storage["name"]));
    let mut kinds: Vec<KindDef> = versions
        .into_iter()
        .flatten()
        .filter(|version| version["served"] == true || version["storage"] == true)
        .map(|version| kind(spec, version, &api_version))
        .collect();
    kinds.sort_by_key(|kind| std::cmp::Reverse(priority(&kind.version)));
    kinds
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn kind(spec: &Value, version: &Value, stored_api_version: &str) -> KindDef {
    let names = &spec["names"];
    let mut kind = super::groups::kind(
        &text(&spec["group"]),
        &text(&version["name"]),
        &text(&names["kind"]),
        &text(&names["plural"]),
        "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
    );
    let schema = &version["schema"]["openAPIV3Schema"];
    kind.schema = Schema::Custom(Arc::new(Node::from_openapi(schema)));
    kind.custom = Some(Arc::new(Structural::new(schema)));
    for (own, given) in [(&mut kind.singular, "singular"), (&mut kind.list_kind, "listKind")] {
        if let Some(name) = names[given].as_str().filter(|name| !name.is_empty()) {
            name.clone_into(own);
        }
    }
    kind.short_names = texts(&names["shortNames"]);
    kind.categories = texts(&names["categories"]);
    kind.namespaced = spec["scope"] == "Namespaced";
    kind.generation = true;
    kind.unconditional_update = false;
    kind.columns = columns(version);
    kind.subresources = subresources(version);
    kind.selectable = version["selectableFields"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|field| text(&field["jsonPath"]).trim_start_matches('.').to_owned())
        .collect();
    if version["served"] != true {
        kind.verbs.clear();
    }
    if kind.api_version() != stored_api_version {
        kind.conversion = Some((stored_api_version.to_owned(), Conversion::Rename));
    }
    kind
}

fn subresources(version: &Value) -> Vec<Subresource> {
    let mut all = Vec::new();
    if version["subresources"]["status"].is_object() {
        all.push(Subresource::Status);
    }
    let scale = &version["subresources"]["scale"];
    if scale.is_object() {
        all.push(Subresource::Scale(ScalePaths {
            spec_replicas: text(&scale["specReplicasPath"]),
            status_replicas: text(&scale["statusReplicasPath"]),
            selector: scale["labelSelectorPath"].as_str().map(str::to_owned),
        }));
    }
    all
}

fn columns(version: &Value) -> Vec<Column> {
    let mut columns = vec![Column::name()];
    let Some(given) = version["additionalPrinterColumns"].as_array().filter(|list| !list.is_empty()) else {
        columns.push(Column::age());
        return columns;
    };
    for column in given {
        let Ok(path) = JsonPath::parse(column["jsonPath"].as_str().unwrap_or("")) else { continue };
        let description = match column["description"].as_str() {
            Some(text) if !text.is_empty() => text.to_owned(),
            _ => format!(
                "Custom resource definition column (in JSONPath format): {}",
                column["jsonPath"].as_str().unwrap_or("")
            ),
        };
        columns.push(Column {
            name: text(&column["name"]),
            kind: text(&column["type"]),
            format: text(&column["format"]),
            description,
            priority: column["priority"].as_i64().and_then(|one| i32::try_from(one).ok()).unwrap_or(0),
            cell: Cell::Path(path),
        });
    }
    columns
}
