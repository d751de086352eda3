//! The container runtime as edged sees it: pods, not lists of containers.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};

use super::last_words;
use super::observed::{Instance, Observed, POD_NAME, POD_NAMESPACE, POD_UID, Sandbox, State};
use super::pod::PodId;
use crate::cri::proto::{
    ContainerFilter, ContainerId, ListContainersRequest, ListPodSandboxRequest, PodSandboxFilter,
    PodSandboxId,
};
use crate::cri::{Cri, CriError};

/// One pod in a listing of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Whose it is.
    pub id: PodId,
    /// Differs when a sandbox or container came, went or changed its state.
    pub fingerprint: u64,
}

/// The runtime, with what need not be asked for twice.
#[derive(Debug)]
pub struct Runtime {
    /// The connection.
    pub cri: Cri,
    /// Containers that have ended do not change any more.
    ended: Mutex<HashMap<String, Instance>>,
    /// Addresses of running sandboxes.
    addresses: Mutex<HashMap<String, Vec<String>>>,
}

impl Runtime {
    /// Wraps a connection.
    pub fn new(cri: Cri) -> Self {
        Self { cri, ended: Mutex::default(), addresses: Mutex::default() }
    }

    /// All pods that the runtime holds something of, by uid.
    pub async fn summary(&self) -> Result<BTreeMap<String, Summary>, CriError> {
        let sandboxes = self.cri.list_pod_sandbox(ListPodSandboxRequest { filter: None }).await?.items;
        let containers = self.cri.list_containers(ListContainersRequest { filter: None }).await?.containers;
        self.forget_all_but(sandboxes.iter().map(|s| &s.id), containers.iter().map(|c| &c.id));
        let mut parts: BTreeMap<String, (PodId, Vec<(String, i32)>)> = BTreeMap::new();
        let listed = sandboxes
            .into_iter()
            .map(|s| (s.labels, s.id, s.state))
            .chain(containers.into_iter().map(|c| (c.labels, c.id, c.state)));
        for (labels, id, state) in listed {
            let Some(pod) = pod_of(&labels) else { continue };
            parts.entry(pod.uid.clone()).or_insert_with(|| (pod, Vec::new())).1.push((id, state));
        }
        let summarised = parts.into_iter().map(|(uid, (id, mut parts))| {
            parts.sort_unstable();
            let mut hasher = DefaultHasher::new();
            parts.hash(&mut hasher);
            (uid, Summary { id, fingerprint: hasher.finish() })
        });
        Ok(summarised.collect())
    }

    /// All that the runtime holds for one pod, in full.
    pub async fn observe(&self, uid: &str) -> Result<Observed, CriError> {
        let selector = HashMap::from([(POD_UID.to_owned(), uid.to_owned())]);
        let filter = PodSandboxFilter { label_selector: selector.clone(), ..Default::default() };
        let listed = self.cri.list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) }).await?.items;
        let mut sandboxes = Vec::with_capacity(listed.len());
        for sandbox in listed {
            let ready = sandbox.state() == crate::cri::proto::PodSandboxState::Ready;
            let ips = if ready { self.addresses_of(&sandbox.id).await? } else { Vec::new() };
            let attempt = sandbox.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
            sandboxes.push(Sandbox { id: sandbox.id, attempt, ready, created: sandbox.created_at, ips });
        }
        let filter = ContainerFilter { label_selector: selector, ..Default::default() };
        let request = ListContainersRequest { filter: Some(filter) };
        let mut containers = Vec::new();
        for listed in self.cri.list_containers(request).await?.containers {
            // Between the list and this call it may have been removed.
            if let Some(instance) = self.instance(&listed.id, &listed.pod_sandbox_id).await? {
                containers.push(instance);
            }
        }
        Ok(Observed::new(sandboxes, containers))
    }

    async fn instance(&self, id: &str, sandbox: &str) -> Result<Option<Instance>, CriError> {
        if let Some(known) = lock(&self.ended).get(id) {
            return Ok(Some(known.clone()));
        }
        let status = match self.cri.container_status(ContainerId { container_id: id.to_owned() }).await {
            Ok(answer) => answer.status,
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let Some(status) = status else { return Ok(None) };
        let mut instance = Instance::from(&status);
        sandbox.clone_into(&mut instance.sandbox);
        if instance.state == State::Exited {
            if let Some(words) = last_words::read(&status, &instance) {
                instance.message = words;
            }
            lock(&self.ended).insert(id.to_owned(), instance.clone());
        }
        Ok(Some(instance))
    }

    async fn addresses_of(&self, id: &str) -> Result<Vec<String>, CriError> {
        if let Some(known) = lock(&self.addresses).get(id) {
            return Ok(known.clone());
        }
        let answer = self.cri.pod_sandbox_status(PodSandboxId { pod_sandbox_id: id.to_owned() }).await;
        let status = match answer {
            Ok(answer) => answer.status.unwrap_or_default(),
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let network = status.network.unwrap_or_default();
        let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|more| more.ip));
        let ips: Vec<String> = all.filter(|ip| !ip.is_empty()).collect();
        if !ips.is_empty() {
            lock(&self.addresses).insert(id.to_owned(), ips.clone());
        }
        Ok(ips)
    }

    fn forget_all_but<'a>(
        &self,
        sandboxes: impl Iterator<Item = &'a String>,
        containers: impl Iterator<Item = &'a String>,
    ) {
        let sandboxes: std::collections::HashSet<_> = sandboxes.collect();
        let containers: std::collections::HashSet<_> = containers.collect();
        lock(&self.addresses).retain(|id, _| sandboxes.contains(id));
        lock(&self.ended).retain(|id, _| containers.contains(id));
    }
}

fn pod_of(labels: &HashMap<String, String>) -> Option<PodId> {
    Some(PodId {
        namespace: labels.get(POD_NAMESPACE)?.clone(),
        name: labels.get(POD_NAME)?.clone(),
        uid: labels.get(POD_UID)?.clone(),
    })
}

/// The maps hold plain data: a panic elsewhere leaves them usable.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
