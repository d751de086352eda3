//! The datapath of this host: programs, maps, routes, and their pins.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use aya::maps::Map;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use edgeloom_model::Protocol;
use ipnet::IpNet;

use crate::attach::{Group, own_netns};
use crate::desired::Desired;
use crate::destroy::Known;
use crate::error::Error;
use crate::kernel::{Capacity, KernelMaps, chain};
use crate::maps::Maps as _;
use crate::pin::Pins;
use crate::route::Routes;
use crate::status::{Feature, State, Status};
use crate::table::{Applied, Table};
use crate::{AgentSockets, Steering, abi, cgroup, destroy, pin, sys};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/datapath.o"));

/// How long an old generation of backends stays readable after it was replaced. A program in the kernel
/// is between its two look-ups for microseconds, unless its processor is taken away from it.
const RETIRE_AFTER: Duration = Duration::from_millis(5);

/// How often the routes are looked at even if nothing changed: other programs of a host (systemd-networkd
/// for one) remove routes that they do not know.
const LOOK_AT_ROUTES: Duration = Duration::from_secs(10);

/// Where the datapath belongs and how it is kept.
#[derive(Clone, Debug, Default)]
pub struct LoadConfig {
    /// The cgroup2 directory whose processes' near calls are served; by default the host's root.
    pub cgroup: Option<PathBuf>,
    /// A directory on a bpf file system, by custom below `/sys/fs/bpf`, where programs and maps stay when
    /// the agent ends. Without it they end with the agent.
    pub pin: Option<PathBuf>,
    /// The node's own addresses: the first of each family is the source of the host's own calls to
    /// Service addresses.
    pub node_addresses: Vec<IpAddr>,
    /// Sizes of the maps.
    pub capacity: Capacity,
}

/// The datapath in the kernel. It works on the network namespace of the thread that loads it.
///
/// Dropping it leaves what is pinned and ends what is not, routes excepted: call [`Datapath::shutdown`]
/// or [`Datapath::detach`].
pub struct Datapath {
    maps: KernelMaps,
    table: Table,
    ranges: BTreeMap<IpNet, u32>,
    routes_seen: Option<Instant>,
    routes: Routes,
    near: Result<Group, Error>,
    far: Result<Group, Error>,
    cgroup: PathBuf,
    pins: Option<Pins>,
    pin_problem: Option<String>,
    kernel: Kernel,
    /// Holds the maps that only the programs use.
    object: Ebpf,
}

/// What this kernel offers beyond the floor.
#[derive(Clone, Copy, Debug)]
struct Kernel {
    netns_cookie: Option<u64>,
    set_retval: bool,
}

impl Kernel {
    fn probe() -> Self {
        let helper = BpfHelper::BPF_FUNC_set_retval;
        Self {
            netns_cookie: sys::netns_cookie().ok(),
            set_retval: is_helper_supported(ProgramType::CgroupSockAddr, helper).unwrap_or(false),
        }
    }
}

impl Datapath {
    /// Loads the programs and attaches them, or takes over what a predecessor pinned: its Services and
    /// backends stay in force without a gap. Must be called within a tokio runtime.
    ///
    /// A part that this kernel has not got is left out and named by [`Steering::status`]; an error means
    /// that nothing works: no rights, no cgroup, or no eBPF at all.
    pub fn load(config: LoadConfig) -> Result<Self, Error> {
        let cgroup = config.cgroup.map_or_else(cgroup::host_root, Ok)?;
        cgroup::open(&cgroup)?;
        let (pins, pin_problem) = open_pins(config.pin, config.capacity);
        let kernel = Kernel::probe();
        let mut object = load_object(kernel, config.capacity, pins.as_ref())?;
        let mut maps = KernelMaps::take(&mut object, config.capacity)?;
        let (table, retired) = Table::adopt(&maps, epoch())?;
        retired.delete(&mut maps)?;
        let near = Group::near(&mut object, &cgroup, pins.as_ref());
        let far = Group::far(&mut object, pins.as_ref());
        for error in [near.as_ref().err(), far.as_ref().err()].into_iter().flatten() {
            tracing::warn!(error = chain(error), "a part of the datapath does not work on this host");
        }
        if let Some(pins) = &pins
            && let Err(error) = pins.clear_others()
        {
            tracing::warn!(%error, "pins of another version could not be removed");
        }
        let routes = Routes::open(&config.node_addresses)?;
        Ok(Self {
            maps,
            table,
            ranges: BTreeMap::new(),
            routes_seen: None,
            routes,
            near,
            far,
            cgroup,
            pins,
            pin_problem,
            kernel,
            object,
        })
    }

    /// Ends the agent's part: what is pinned stays in force, all else is removed.
    pub async fn shutdown(self) -> Result<(), Error> {
        match &self.pins {
            Some(_) => Ok(()),
            None => self.routes.retain(&BTreeSet::new()).await,
        }
    }

    /// Removes everything, pins included: afterwards the host is as if the datapath never had been.
    pub async fn detach(self) -> Result<(), Error> {
        self.routes.retain(&BTreeSet::new()).await?;
        if let Some(pins) = &self.pins {
            pins.remove().map_err(|source| Error::Pin { path: pins.directory(), source })?;
        }
        Ok(())
    }

    /// Another handle of a map that only the programs write.
    fn map(&self, name: &'static str) -> Result<OwnedFd, Error> {
        match self.object.map(name) {
            Some(Map::SkStorage(map) | Map::LruHashMap(map)) => {
                map.fd().as_fd().try_clone_to_owned().map_err(Error::Destroy)
            }
            _ => Err(Error::Missing(name)),
        }
    }

    /// Attaches again where a hook was deleted since.
    fn mend(&mut self) {
        for group in [&mut self.near, &mut self.far] {
            let Ok(attached) = group else { continue };
            match attached.mend(&self.cgroup, self.pins.as_ref()) {
                Ok(0) => {}
                Ok(count) => tracing::warn!(count, "programs whose hook had been deleted are attached again"),
                Err(error) => tracing::error!(error = chain(&error), "cannot attach programs again"),
            }
        }
    }

    /// Ranges before routes when they come, routes before ranges when they go: a packet that is routed
    /// here always meets a verdict of ours.
    async fn set_ranges(&mut self, desired: &Desired) -> Result<(), Error> {
        let services = desired.service_ranges.iter().map(|net| (net.trunc(), abi::RANGE_SERVICES));
        let pods = desired.pod_ranges.iter().map(|net| (net.trunc(), abi::RANGE_PODS));
        let wanted: BTreeMap<IpNet, u32> = services.chain(pods).collect();
        // Without the steering program a local route would lead to the host's own listeners.
        let routed = if self.far.is_ok() { wanted.keys().copied().collect() } else { BTreeSet::new() };
        let is_fresh = self.routes_seen.is_some_and(|seen| seen.elapsed() < LOOK_AT_ROUTES);
        if is_fresh && self.ranges == wanted {
            return Ok(());
        }
        self.routes_seen = None;
        self.routes.retain(&routed).await?;
        self.maps.set_ranges(&wanted)?;
        self.routes.add(&routed).await?;
        self.ranges = wanted;
        self.routes_seen = Some(Instant::now());
        Ok(())
    }

    fn features(&self) -> Vec<Feature> {
        let feature = |name, state: Result<(), String>| Feature {
            name,
            state: state.map_or_else(State::Off, |()| State::On),
        };
        let part = |group: &Result<Group, Error>, means: &str| match group {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{}: {means}; there is no fall-back to nftables", chain(error))),
        };
        let cookie = self.kernel.netns_cookie.map(drop);
        let pinned = match (&self.pins, &self.pin_problem) {
            (Some(_), _) => Ok(()),
            (None, Some(problem)) => Err(format!("{problem}: Services end with the agent")),
            (None, None) => Err("not configured: Services end with the agent".to_owned()),
        };
        vec![
            feature("near", part(&self.near, "calls to endpoints of this site fail")),
            feature("far", part(&self.far, "calls to endpoints of other sites fail")),
            feature(
                "errno",
                (self.kernel.set_retval.then_some(())).ok_or_else(|| {
                    "kernel before 5.18: a refused call sees EPERM, not EHOSTUNREACH".to_owned()
                }),
            ),
            feature(
                "namespaces",
                cookie
                    .ok_or_else(|| "kernel before 5.14: loopback backends are not kept from pods".to_owned()),
            ),
            feature("pinned", pinned),
        ]
    }
}

#[async_trait]
impl Steering for Datapath {
    async fn apply(&mut self, desired: &Desired) -> Result<Applied, Error> {
        self.mend();
        let (applied, retired) = self.table.apply(desired, &mut self.maps);
        self.set_ranges(desired).await?;
        if !retired.is_empty() {
            tokio::time::sleep(RETIRE_AFTER).await;
            retired.delete(&mut self.maps)?;
        }
        let silent =
            applied.gone.iter().filter(|(_, protocol)| *protocol == Protocol::Udp).copied().collect();
        if let Err(error) = self.end_connections(&silent).await {
            tracing::warn!(error = chain(&error), "UDP sockets may go on sending to a backend that is gone");
        }
        Ok(applied)
    }

    async fn end_connections(&mut self, gone: &BTreeSet<(SocketAddr, Protocol)>) -> Result<usize, Error> {
        if gone.is_empty() {
            return Ok(0);
        }
        let (cgroup, gone) = (self.cgroup.clone(), gone.clone());
        let known = Known { reverse: self.map("reverse")?, pointed: self.map("pointed")? };
        // It enters other namespaces, thread by thread, and reads /proc.
        let looked = tokio::task::spawn_blocking(move || destroy::destroy(&cgroup, &known, &gone));
        looked.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(Error::Destroy)
    }

    fn set_agent_sockets(&mut self, sockets: AgentSockets<'_>) -> Result<(), Error> {
        self.maps.set_agent(sockets)
    }

    fn status(&mut self) -> Status {
        let counters = |id| Some(self.maps.counters(id).ok()??.into());
        Status {
            cgroup: self.near.is_ok().then(|| self.cgroup.clone()),
            pin: self.pins.as_ref().map(Pins::directory),
            features: self.features(),
            services: self.table.rows().filter_map(|(at, id)| Some((*at, counters(id)?))).collect(),
            other: counters(abi::COUNTERS_OTHER).unwrap_or_default(),
        }
    }
}

impl fmt::Debug for Datapath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Datapath")
            .field("cgroup", &self.cgroup)
            .field("pins", &self.pins)
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

/// Seconds of the clock. A clock that went backwards costs nothing but a rare wrong guess about where an
/// unconnected UDP socket went before.
fn epoch() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32)
}

/// The pins to use, if any; what is pinned in another shape is discarded.
fn open_pins(root: Option<PathBuf>, capacity: Capacity) -> (Option<Pins>, Option<String>) {
    let Some(root) = root else { return (None, None) };
    let opened = Pins::open(&root).and_then(|pins| {
        if pins.is_in_use_elsewhere(own_netns()?) {
            return Err(io::Error::other(
                "in use by an agent of another network namespace: give each a directory of its own",
            ));
        }
        if let Err(problem) = pins.check(capacity) {
            tracing::warn!(pin = %root.display(), problem, "what is pinned cannot be taken over; starting anew");
            pins.clear()?;
            return Pins::open(&root);
        }
        Ok(pins)
    });
    match opened {
        Ok(pins) => (Some(pins), None),
        Err(source) => {
            let problem = Error::Pin { path: root, source }.to_string();
            tracing::warn!(problem, "the datapath will end with the agent");
            (None, Some(problem))
        }
    }
}

fn load_object(kernel: Kernel, capacity: Capacity, pins: Option<&Pins>) -> Result<Ebpf, Error> {
    let host_netns = kernel.netns_cookie.unwrap_or(0);
    let has_set_retval = u8::from(kernel.set_retval);
    let mut loader = EbpfLoader::new();
    loader
        .override_global("host_netns", &host_netns, true)
        .override_global("has_set_retval", &has_set_retval, true)
        .map_max_entries("services", capacity.frontends)
        .map_max_entries("backends", capacity.backends)
        .map_max_entries("members", capacity.backends)
        .map_max_entries("affinity", capacity.clients)
        .map_max_entries("pointed", capacity.clients)
        .map_max_entries("counters", capacity.frontends);
    if let Some(pins) = pins {
        for name in pin::map_names() {
            loader.map_pin_path(name, pins.map(name));
        }
    }
    Ok(loader.load(OBJECT)?)
}
