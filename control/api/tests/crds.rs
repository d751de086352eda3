//! `deploy/crds` holds what the types say. `EDGELOOM_WRITE=1 cargo test -p edgeloom-api --test crds` writes it.

use std::path::PathBuf;

#[test]
fn the_checked_in_definitions_are_those_of_the_types() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    for definition in edgeloom_api::v1alpha1::definitions() {
        let name = definition.metadata.name.clone().unwrap();
        let expected = serde_yaml_ng::to_string(&definition).unwrap();
        let path = folder.join(format!("{name}.yaml"));
        if std::env::var_os("EDGELOOM_WRITE").is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == expected, "{} is not what the types say: run with EDGELOOM_WRITE=1", path.display());
    }
}
