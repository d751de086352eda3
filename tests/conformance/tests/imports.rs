//! Holds the workspace to its layers: imports point one way, from the programs to the leaves.

#![expect(clippy::unwrap_used, reason = "the helpers of a test")]

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// What each crate may import of the workspace, beside its tests.
const LAYERS: &[(&str, &[&str])] = &[
    ("edgeloom-api", &[]),
    ("edgeloom-model", &[]),
    ("edgeloom-store", &["edgeloom-api"]),
    ("edgeloom-plane", &["edgeloom-api"]),
    ("edgeloom-ebpf", &["edgeloom-model"]),
    ("edgeloom-dns", &["edgeloom-model"]),
    ("edgeloom-tunnel", &["edgeloom-api", "edgeloom-model"]),
    ("edgeloom-client", &["edgeloom-api", "edgeloom-model", "edgeloom-tunnel"]),
    (
        "edgeloom-mesh",
        &[
            "edgeloom-api",
            "edgeloom-model",
            "edgeloom-client",
            "edgeloom-ebpf",
            "edgeloom-dns",
            "edgeloom-tunnel",
        ],
    ),
    ("meshctl", &["edgeloom-api", "edgeloom-model"]),
    (
        "edgecore",
        &[
            "edgeloom-api",
            "edgeloom-model",
            "edgeloom-client",
            "edgeloom-dns",
            "edgeloom-mesh",
            "edgeloom-tunnel",
        ],
    ),
    (
        "edgeloom-control",
        &[
            "edgeloom-api",
            "edgeloom-model",
            "edgeloom-store",
            "edgeloom-plane",
            "edgeloom-tunnel",
            "edgeloom-mesh",
        ],
    ),
];

/// `cargo metadata` of the workspace's own packages.
fn packages() -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// A package's or a dependency's name.
fn name(package: &Value) -> String {
    package["name"].as_str().unwrap().to_owned()
}

/// The workspace's own normal and build dependencies of each crate of the workspace.
fn imports() -> BTreeMap<String, Vec<String>> {
    let packages = packages();
    let own: Vec<String> = packages.iter().map(name).collect();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let real = dependencies.filter(|dependency| dependency["kind"] != "dev").map(name);
            (name(package), real.filter(|dependency| own.contains(dependency)).collect())
        })
        .collect()
}

#[test]
fn imports_point_one_way() {
    let imports = imports();
    for (layer, allowed) in LAYERS {
        let found = imports.get(*layer).unwrap_or_else(|| panic!("no crate {layer} in the workspace"));
        for import in found {
            assert!(allowed.contains(&import.as_str()), "{layer} must not import {import}");
        }
    }
}

#[test]
fn nothing_but_tests_and_examples_is_left_out_of_the_layers() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    for package in packages() {
        let name = name(&package);
        let manifest = std::path::Path::new(package["manifest_path"].as_str().unwrap());
        let place = manifest.strip_prefix(&root).unwrap();
        let outside = place.starts_with("tests") || place.starts_with("deploy/examples");
        let layered = LAYERS.iter().any(|(layer, _)| *layer == name);
        assert!(layered || outside, "{name} has no place among the layers");
    }
}
