//! Where maps and links are kept when the agent is not there.
//!
//! `<pin>/v<schema>/`: one file a map, and `link-<program>` for each link. A directory of another schema
//! is somebody's predecessor; it is cleared once its successor is attached.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::{MapInfo, MapType};

use crate::abi;
use crate::kernel::Capacity;
use crate::sys;

/// Where a bpf file system belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// The program whose link is to the network namespace.
pub(crate) const STEER: &str = "steer";

/// A directory of pins of this schema.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
}

/// What a map must look like for these programs.
struct Shape {
    name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
}

impl Pins {
    /// Prepares the directory, and mounts a bpf file system where none is.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        if root.starts_with(BPFFS) && !sys::on_bpffs(Path::new(BPFFS)) {
            sys::mount_bpffs(Path::new(BPFFS))?;
        }
        let pins = Self { root: root.to_owned() };
        fs::create_dir_all(pins.directory())?;
        if sys::on_bpffs(&pins.directory()) {
            return Ok(pins);
        }
        fs::remove_dir(pins.directory())?;
        Err(io::Error::other("not on a bpf file system"))
    }

    /// The directory of this schema.
    pub(crate) fn directory(&self) -> PathBuf {
        self.root.join(format!("v{}", abi::SCHEMA))
    }

    /// Where a link is pinned.
    pub(crate) fn link(&self, program: &str) -> PathBuf {
        self.directory().join(format!("link-{program}"))
    }

    /// Where a map is pinned.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// Whether another network namespace, a living one, works by these pins: a second agent that shares
    /// the file system must not take the first one's maps.
    pub(crate) fn is_in_use_elsewhere(&self, netns: u64) -> bool {
        let link = sys::pinned(&self.link(STEER)).and_then(|link| sys::link_info(&link));
        // A namespace that is gone has no number any more.
        link.is_ok_and(|link| link.netns() != 0 && link.netns() != netns)
    }

    /// Whether what is pinned can be taken over. If not, says which map and why; pins of a kernel
    /// object that nobody can read count as such.
    pub(crate) fn check(&self, capacity: Capacity) -> Result<(), String> {
        for shape in shapes(capacity) {
            let path = self.map(shape.name);
            if !path.try_exists().unwrap_or(false) {
                continue;
            }
            let info = MapInfo::from_pin(&path).map_err(|error| format!("{}: {error}", shape.name))?;
            let same = info.map_type().is_ok_and(|kind| kind == shape.kind)
                && info.key_size() as usize == shape.key
                && info.value_size() as usize == shape.value
                && info.max_entries() == shape.entries;
            if !same {
                return Err(format!("map `{}` has another shape", shape.name));
            }
        }
        Ok(())
    }

    /// Removes the pins of this schema; what no process holds goes with them.
    pub(crate) fn clear(&self) -> io::Result<()> {
        clear(&self.directory())
    }

    /// Removes the pins of other schemas.
    pub(crate) fn clear_others(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let is_schema = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
                name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
            });
            if is_schema && path != self.directory() {
                clear(&path)?;
            }
        }
        Ok(())
    }

    /// Removes everything, the directory included.
    pub(crate) fn remove(&self) -> io::Result<()> {
        self.clear_others()?;
        self.clear()?;
        // Something of somebody else's may be in it: then it stays.
        fs::remove_dir(&self.root).or_else(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    }
}

/// The names of the maps, which are pinned one by one.
pub(crate) fn map_names() -> impl Iterator<Item = &'static str> {
    shapes(Capacity::default()).into_iter().map(|shape| shape.name)
}

fn clear(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        fs::remove_file(entry?.path())?;
    }
    fs::remove_dir(directory)
}

fn shapes(capacity: Capacity) -> [Shape; 9] {
    let Capacity { frontends, backends, clients } = capacity;
    let shape = |name, kind, key, value, entries| Shape { name, kind, key, value, entries };
    let word = size_of::<u32>();
    [
        shape("services", MapType::Hash, size_of::<abi::Frontend>(), size_of::<abi::Service>(), frontends),
        shape("backends", MapType::Hash, size_of::<abi::BackendKey>(), size_of::<abi::Backend>(), backends),
        shape("members", MapType::Hash, size_of::<abi::Member>(), word, backends),
        shape("affinity", MapType::LruHash, size_of::<abi::Client>(), size_of::<abi::Sticky>(), clients),
        shape("counters", MapType::PerCpuHash, word, size_of::<abi::Counters>(), frontends),
        shape("ranges", MapType::LpmTrie, size_of::<abi::Range>(), word, 4096),
        shape("agent", MapType::SockMap, word, word, abi::AGENT_SOCKETS),
        shape("pointed", MapType::LruHash, size_of::<u64>(), size_of::<abi::Backend>(), clients),
        shape("reverse", MapType::SkStorage, word, size_of::<abi::Translations>(), 0),
    ]
}
