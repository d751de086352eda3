//! What must be found again after a restart: the members and the addresses at which they answered.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeloom_model::{NodeName, Site};
use libp2p::PeerId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::identity::write_private;
use crate::status::DirectKind;

/// Name of the file in the state directory.
const FILE: &str = "peers.json";
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// A peer as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) peer: PeerId,
    pub(crate) node: NodeName,
    pub(crate) site: Site,
    pub(crate) addresses: Vec<(SocketAddr, DirectKind)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    peers: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    peer: String,
    node: NodeName,
    site: Site,
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Address {
    address: SocketAddr,
    kind: String,
}

/// The file, written in the background: the last content wins.
#[derive(Debug)]
pub(crate) struct Store {
    path: Option<PathBuf>,
    latest: watch::Sender<Arc<Vec<Remembered>>>,
}

impl Store {
    pub(crate) fn new(state_dir: Option<&Path>) -> Self {
        Self { path: state_dir.map(|folder| folder.join(FILE)), latest: watch::Sender::new(Arc::default()) }
    }

    /// Reads the file. One that is damaged is said so and passed over: the hub tells the members again.
    pub(crate) fn load(&self) -> Vec<Remembered> {
        let Some(path) = &self.path else { return Vec::new() };
        match read(path) {
            Ok(peers) => peers,
            Err(reason) => {
                tracing::warn!(path = %path.display(), %reason, "remembered peers cannot be read; they will be learnt again");
                Vec::new()
            }
        }
    }

    /// Has this written as soon as the writer gets to it.
    pub(crate) fn save(&self, peers: Vec<Remembered>) {
        self.latest.send_if_modified(|latest| {
            let news = **latest != peers;
            if news {
                *latest = Arc::new(peers);
            }
            news
        });
    }

    /// Writes what [`Store::save`] was last given, until the store is dropped.
    pub(crate) fn writer(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let path = self.path.clone()?;
        let mut latest = self.latest.subscribe();
        Some(async move {
            while latest.changed().await.is_ok() {
                let peers = latest.borrow_and_update().clone();
                let target = path.clone();
                let written =
                    tokio::task::spawn_blocking(move || write_private(&target, &encode(&peers))).await;
                if let Ok(Err(error)) = written {
                    tracing::warn!(path = %path.display(), %error, "peers cannot be remembered; check the disk");
                }
            }
        })
    }
}

fn read(path: &Path) -> Result<Vec<Remembered>, String> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE => return Err("it is too large".into()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let file: File = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    Ok(file.peers.into_iter().filter_map(decode).collect())
}

fn decode(entry: Entry) -> Option<Remembered> {
    let kind = |name: &str| {
        [DirectKind::Lan, DirectKind::Public, DirectKind::Punched].into_iter().find(|k| k.as_str() == name)
    };
    let addresses =
        entry.addresses.into_iter().filter_map(|known| Some((known.address, kind(&known.kind)?))).collect();
    Some(Remembered { peer: entry.peer.parse().ok()?, node: entry.node, site: entry.site, addresses })
}

fn encode(peers: &[Remembered]) -> Vec<u8> {
    let address = |(address, kind): &(SocketAddr, DirectKind)| Address {
        address: *address,
        kind: kind.as_str().to_owned(),
    };
    let entry = |known: &Remembered| Entry {
        peer: known.peer.to_string(),
        node: known.node.clone(),
        site: known.site.clone(),
        addresses: known.addresses.iter().map(address).collect(),
    };
    let file = File { version: 1, peers: peers.iter().map(entry).collect() };
    serde_json::to_vec_pretty(&file).expect("strings and numbers are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn peers_are_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(Some(folder.path()));
        assert_eq!(store.load(), Vec::new());
        let known = Remembered {
            peer: PeerId::random(),
            node: NodeName::new("b").unwrap(),
            site: Site::new("south").unwrap(),
            addresses: vec![("203.0.113.22:20006".parse().unwrap(), DirectKind::Punched)],
        };
        let writer = tokio::spawn(store.writer().unwrap());
        store.save(vec![known.clone()]);
        while !folder.path().join(FILE).exists() {
            tokio::task::yield_now().await;
        }
        assert_eq!(Store::new(Some(folder.path())).load(), vec![known]);
        drop(store);
        writer.await.unwrap();
    }

    #[test]
    fn a_damaged_file_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        for content in ["", "{", "[]", r#"{"version":1,"peers":[{"peer":"x","node":"b","site":"s"}]}"#] {
            std::fs::write(folder.path().join(FILE), content).unwrap();
            assert_eq!(Store::new(Some(folder.path())).load(), Vec::new(), "{content}");
        }
    }
}
