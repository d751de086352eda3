//! The CNI configuration of the node's pods: a bridge, addresses of the Node's pod ranges.

use std::fs;
use std::io;
use std::path::Path;

use ipnet::IpNet;
use serde_json::{Value, json};

/// Name of the bridge.
pub const BRIDGE: &str = "edgeloom0";
/// Name of the file: early in the alphabet, because the runtime takes the first.
const FILE: &str = "10-edgeloom.conflist";

/// The configuration list.
pub fn conflist(ranges: &[IpNet], data_dir: &Path, portmap: bool) -> Value {
    let ranges_list: Vec<Value> =
        ranges.iter().map(|range| json!([{ "subnet": range.to_string() }])).collect();
    let mut routes = Vec::new();
    for (any, is_v4) in [("0.0.0.0/0", true), ("::/0", false)] {
        if ranges.iter().any(|range| matches!(range, IpNet::V4(_)) == is_v4) {
            routes.push(json!({ "dst": any }));
        }
    }
    let mut plugins = vec![json!({
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": true,
        "hairpinMode": true,
        // A Node that was made anew may have got another range.
        "forceAddress": true,
        "ipam": { "type": "host-local", "dataDir": data_dir, "ranges": ranges_list, "routes": routes },
    })];
    if portmap {
        plugins.push(json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true }));
    }
    json!({ "cniVersion": "0.4.0", "name": "edgeloom", "plugins": plugins })
}

/// Whether the configuration stands as it is to be.
pub fn stands(directory: &Path, conflist: &Value) -> bool {
    let wanted = serde_json::to_vec_pretty(conflist).ok();
    fs::read(directory.join(FILE)).ok().is_some_and(|before| Some(before) == wanted)
}

/// Writes the configuration where it differs. Returns whether it did.
pub fn write(directory: &Path, conflist: &Value) -> io::Result<bool> {
    let path = directory.join(FILE);
    let text = serde_json::to_vec_pretty(conflist)?;
    if fs::read(&path).is_ok_and(|before| before == text) {
        return Ok(false);
    }
    fs::create_dir_all(directory)?;
    // The runtime reads whatever ends in .conflist as soon as it appears.
    let temporary = directory.join(format!("{FILE}.new"));
    fs::write(&temporary, text)?;
    fs::rename(temporary, path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families() {
        let ranges = ["10.244.1.0/24".parse().unwrap(), "fd00:10:244:1::/64".parse().unwrap()];
        let list = conflist(&ranges, Path::new("/data"), false);
        let ipam = &list["plugins"][0]["ipam"];
        assert_eq!(
            ipam["ranges"],
            json!([[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]])
        );
        assert_eq!(ipam["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
        assert_eq!(list["plugins"].as_array().unwrap().len(), 1);
        let only = conflist(&ranges[..1], Path::new("/data"), true);
        assert_eq!(only["plugins"][0]["ipam"]["routes"], json!([{"dst": "0.0.0.0/0"}]));
        assert_eq!(only["plugins"][1]["type"], "portmap");
    }

    #[test]
    fn written_only_where_it_differs() {
        let root = tempfile::tempdir().unwrap();
        let one = conflist(&[], Path::new("/a"), false);
        assert!(write(root.path(), &one).unwrap());
        assert!(!write(root.path(), &one).unwrap());
        assert!(write(root.path(), &conflist(&[], Path::new("/b"), false)).unwrap());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
