//! What is remembered of a lab on disk: enough to find and remove all of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::nat::{Egress, NatKind};
use crate::topology::NatSpec;
use crate::wan::Wan;
use crate::{Error, Result, Topology};

const FILE: &str = "lab.json";

/// Contents of `lab.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    /// Name of the lab.
    pub(crate) name: String,
    /// What it consists of, as it was asked for.
    pub(crate) topology: Topology,
    /// Links to the machine's own namespace, by host.
    pub(crate) machine_links: BTreeMap<String, MachineLink>,
    /// NATs as they are now.
    pub(crate) nats: BTreeMap<String, NatState>,
    /// Conditions that were changed since it came up, by the end at the switch.
    #[serde(default)]
    pub(crate) wans: BTreeMap<String, Wan>,
}

/// A link between a host and the machine's own namespace: a /30.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MachineLink {
    /// Its interface on the machine.
    pub(crate) interface: String,
    /// The machine's address on it.
    pub(crate) machine: Ipv4Addr,
    /// The host's.
    pub(crate) host: Ipv4Addr,
}

/// A NAT as it is now.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct NatState {
    pub(crate) kind: NatKind,
    pub(crate) rebinds: u16,
    #[serde(default)]
    pub(crate) egress: Egress,
    /// Its outside address, where it is no longer the topology's.
    #[serde(default)]
    pub(crate) address: Option<Ipv4Net>,
}

impl NatState {
    /// As the topology has it.
    pub(crate) fn new(spec: &NatSpec) -> Self {
        Self { kind: spec.kind, rebinds: 0, egress: spec.egress, address: None }
    }
}

impl State {
    /// Reads the state of the lab in `directory`; `None` where there is no lab.
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| {
                Error::Machine(format!("{}: {error}; `lab down` removes what it can find", path.display()))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", &path)(error)),
        }
    }

    /// Writes it whole or not at all.
    pub(crate) fn save(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).map_err(Error::io("create", directory))?;
        let (path, fresh) = (directory.join(FILE), directory.join("lab.json.new"));
        let text = serde_json::to_string_pretty(self).expect("a state has no maps with odd keys");
        fs::write(&fresh, text).map_err(Error::io("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(Error::io("write", &path))
    }
}
