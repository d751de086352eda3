//! The delta writer: turns [`Desired`] Services into the few map writes that lead there.
//!
//! A Service's backends are written under a generation of their own first, then its entry is
//! replaced in one step, so a reader sees the old set or the new one. The old generation is handed
//! back as [`Retired`] and deleted once no reader can be between its two look-ups.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::abi;
use crate::desired::{Desired, Frontend, Target};
use crate::maps::{MapError, Maps};

/// What is in the maps for one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Installed {
    id: u32,
    generation: u32,
    target: Target,
}

/// What [`Table::apply`] did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Frontends whose entry is new or other than before.
    pub changed: usize,
    /// Frontends that are gone.
    pub removed: usize,
    /// Frontends that kept what they had, because a map did not take the new.
    pub failed: Vec<(Frontend, MapError)>,
    /// Near backends that no frontend of their protocol uses any more.
    pub gone: BTreeSet<(SocketAddr, edgeloom_model::Protocol)>,
}

/// Entries that no new call finds any more, to be deleted when running calls have finished.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Retired {
    backends: Vec<abi::BackendKey>,
    members: Vec<abi::Member>,
    counters: Vec<u32>,
}

/// The Services in the maps.
#[derive(Debug, Default)]
pub(crate) struct Table {
    installed: BTreeMap<Frontend, Installed>,
    /// The last identifier and the last generation given out.
    last_id: u32,
    last_generation: u32,
}

impl Table {
    /// Takes over what the maps hold, as after a restart of the agent. What belongs to no entry
    /// (a write that was cut off) is retired.
    ///
    /// `epoch` grows from start to start, as the seconds of the clock do: generations count on from it,
    /// since open sockets remember some that are no longer in the maps.
    pub(crate) fn adopt(maps: &impl Maps, epoch: u32) -> Result<(Self, Retired), MapError> {
        let mut lists: BTreeMap<(u32, u32), BTreeMap<u32, abi::Backend>> = BTreeMap::new();
        let mut table = Self { last_generation: epoch, ..Self::default() };
        for (key, backend) in maps.backends()? {
            table.last_generation = table.last_generation.max(key.generation);
            table.last_id = table.last_id.max(key.service);
            lists.entry((key.service, key.generation)).or_default().insert(key.slot, backend);
        }
        let mut live = BTreeSet::new();
        for (key, service) in maps.services()? {
            table.last_generation = table.last_generation.max(service.generation);
            table.last_id = table.last_id.max(service.id);
            let Ok(frontend) = Frontend::try_from(key) else { continue };
            let list = lists.get(&(service.id, service.generation));
            live.insert((service.id, service.generation));
            let installed = Installed {
                id: service.id,
                generation: service.generation,
                target: target_of(&service, list),
            };
            table.installed.insert(frontend, installed);
        }
        let retired = Retired {
            backends: (lists.iter().filter(|(owner, _)| !live.contains(owner)))
                .flat_map(|((service, generation), list)| {
                    list.keys().map(|slot| abi::BackendKey {
                        service: *service,
                        generation: *generation,
                        slot: *slot,
                    })
                })
                .collect(),
            members: (maps.members()?.into_iter())
                .filter(|member| !live.contains(&(member.service, member.generation)))
                .collect(),
            counters: Vec::new(),
        };
        Ok((table, retired))
    }

    /// Frontends and what becomes of calls to them.
    pub(crate) fn services(&self) -> impl Iterator<Item = (&Frontend, &Target)> {
        self.installed.iter().map(|(frontend, installed)| (frontend, &installed.target))
    }

    /// What becomes of calls to a frontend.
    pub(crate) fn target(&self, frontend: &Frontend) -> Option<&Target> {
        self.installed.get(frontend).map(|installed| &installed.target)
    }

    /// Frontends with the row of their counters.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&Frontend, u32)> {
        self.installed.iter().map(|(frontend, installed)| (frontend, installed.id))
    }

    /// Writes what differs. A map that takes no more fails the frontends concerned, not the rest.
    pub(crate) fn apply(&mut self, desired: &Desired, maps: &mut impl Maps) -> (Applied, Retired) {
        let mut applied = Applied::default();
        let mut retired = Retired::default();
        let before = self.backends();
        let surplus: Vec<_> = self
            .installed
            .keys()
            .filter(|frontend| !desired.services.contains_key(frontend))
            .copied()
            .collect();
        for frontend in surplus {
            match maps.delete_service(&frontend.into()) {
                Ok(()) => {
                    applied.removed += 1;
                    if let Some(old) = self.installed.remove(&frontend) {
                        retired.counters.push(old.id);
                        retired.generation(&old);
                    }
                }
                Err(error) => applied.failed.push((frontend, error)),
            }
        }
        for (frontend, target) in &desired.services {
            let target = normal(frontend, target);
            if self.target(frontend) == Some(&target) {
                continue;
            }
            match self.replace(*frontend, target, maps) {
                Ok(old) => {
                    applied.changed += 1;
                    if let Some(old) = old {
                        retired.generation(&old);
                    }
                }
                Err(error) => applied.failed.push((*frontend, error)),
            }
        }
        let after = self.backends();
        applied.gone = before.difference(&after).copied().collect();
        (applied, retired)
    }

    /// Installs a new generation for a frontend; the old one, if any, is returned to be retired.
    fn replace(
        &mut self,
        frontend: Frontend,
        target: Target,
        maps: &mut impl Maps,
    ) -> Result<Option<Installed>, MapError> {
        let id = match self.installed.get(&frontend) {
            Some(installed) => installed.id,
            None => self.next_id(),
        };
        self.last_generation = self.last_generation.wrapping_add(1);
        let new = Installed { id, generation: self.last_generation, target };
        if let Err(error) = write(&frontend, &new, maps) {
            // Nothing points at the new generation yet. An undo that fails leaves entries that
            // the next adoption finds; the cause is in the error returned.
            let mut undo = Retired::default();
            undo.generation(&new);
            if !self.installed.contains_key(&frontend) {
                undo.counters.push(id);
            }
            undo.delete(maps).ok();
            return Err(error);
        }
        Ok(self.installed.insert(frontend, new))
    }

    /// Row 0 of the counters belongs to no Service.
    fn next_id(&mut self) -> u32 {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.last_id
    }

    fn backends(&self) -> BTreeSet<(SocketAddr, edgeloom_model::Protocol)> {
        let near = self.installed.iter().filter_map(|(frontend, installed)| match &installed.target {
            Target::Near { backends, .. } => Some((frontend.protocol, backends)),
            Target::Far | Target::Refuse => None,
        });
        near.flat_map(|(protocol, backends)| backends.iter().map(move |backend| (*backend, protocol)))
            .collect()
    }
}

impl Retired {
    /// Whether there is nothing to delete.
    pub(crate) fn is_empty(&self) -> bool {
        self.backends.is_empty() && self.members.is_empty() && self.counters.is_empty()
    }

    /// Deletes the entries; all are tried, the first error is returned.
    pub(crate) fn delete(&self, maps: &mut impl Maps) -> Result<(), MapError> {
        let mut first = Ok(());
        for key in &self.backends {
            first = first.and(maps.delete_backend(key));
        }
        for key in &self.members {
            first = first.and(maps.delete_member(key));
        }
        for id in &self.counters {
            first = first.and(maps.delete_counters(*id));
        }
        first
    }

    fn generation(&mut self, old: &Installed) {
        let Target::Near { backends, affinity } = &old.target else { return };
        self.backends.extend(slots(old.id, old.generation, backends).map(|(key, _)| key));
        if affinity.is_some() {
            self.members.extend(members(old.id, old.generation, backends));
        }
    }
}

/// Writes the backends, then the entry that makes them visible.
fn write(frontend: &Frontend, new: &Installed, maps: &mut impl Maps) -> Result<(), MapError> {
    let mut service = abi::Service {
        id: new.id,
        generation: new.generation,
        kind: abi::KIND_FAR as u8,
        ..Default::default()
    };
    match &new.target {
        Target::Far => {}
        Target::Refuse => service.kind = abi::KIND_REFUSE as u8,
        Target::Near { backends, affinity } => {
            service.kind = abi::KIND_NEAR as u8;
            service.count = backends.len() as u32;
            service.affinity_seconds = affinity.map_or(0, seconds);
            for (key, backend) in slots(new.id, new.generation, backends) {
                maps.put_backend(key, backend)?;
            }
            if affinity.is_some() {
                for member in members(new.id, new.generation, backends) {
                    maps.put_member(member)?;
                }
            }
        }
    }
    maps.put_counters(new.id)?;
    maps.put_service((*frontend).into(), service)
}

fn slots(
    service: u32,
    generation: u32,
    backends: &[SocketAddr],
) -> impl Iterator<Item = (abi::BackendKey, abi::Backend)> {
    (0u32..)
        .zip(backends)
        .map(move |(slot, backend)| (abi::BackendKey { service, generation, slot }, (*backend).into()))
}

fn members(service: u32, generation: u32, backends: &[SocketAddr]) -> impl Iterator<Item = abi::Member> {
    backends.iter().map(move |backend| abi::Member { service, generation, backend: (*backend).into() })
}

/// The same target as the maps can hold it: backends of the frontend's family, whole seconds.
fn normal(frontend: &Frontend, target: &Target) -> Target {
    let Target::Near { backends, affinity } = target else { return target.clone() };
    let backends: Vec<_> =
        backends.iter().filter(|backend| backend.is_ipv4() == frontend.addr.is_ipv4()).copied().collect();
    if backends.is_empty() {
        return Target::Refuse;
    }
    Target::Near { backends, affinity: affinity.map(|time| Duration::from_secs(seconds(time).into())) }
}

/// At least one: zero seconds would mean no affinity.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1)
}

fn target_of(service: &abi::Service, list: Option<&BTreeMap<u32, abi::Backend>>) -> Target {
    match u32::from(service.kind) {
        abi::KIND_FAR => Target::Far,
        abi::KIND_NEAR => Target::Near {
            backends: list.into_iter().flat_map(|list| list.values()).map(|b| (*b).into()).collect(),
            affinity: (service.affinity_seconds > 0)
                .then(|| Duration::from_secs(service.affinity_seconds.into())),
        },
        _ => Target::Refuse,
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
