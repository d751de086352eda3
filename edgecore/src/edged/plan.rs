//! What to do next for a pod: a pure function of what is wanted and what the runtime holds.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Container;

use super::backoff::Backoff;
use super::observed::{Instance, Observed, State};
use super::pod::{Pod, RestartPolicy, Role, spec_hash};

/// What the probes say of the containers that run, by container id.
pub trait Health {
    /// Whether the container has started: its startup probe succeeded, or it has none.
    fn started(&self, id: &str) -> bool;
    /// The probe that says that the container must be restarted.
    fn failed(&self, id: &str) -> Option<&'static str>;
}

/// Why a container is waiting, as its status shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// CamelCase reason.
    pub reason: String,
    /// What a person reads.
    pub message: String,
}

/// A container to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Why, as the Event says it.
    pub message: String,
}

/// A container to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its name.
    pub name: String,
    /// Its restart count.
    pub attempt: u32,
    /// A container of the same attempt that was made and never started: it is removed first.
    pub replaces: Option<String>,
}

/// What to do with the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SandboxPlan {
    /// It is as it should be.
    Keep(String),
    /// There is none, or it is dead: stop what is left, then make one.
    Create {
        /// Which one of the pod's.
        attempt: u32,
        /// Those to be stopped first.
        stop: Vec<String>,
    },
    /// None is wanted: the pod has run to its end.
    None,
}

/// The next actions for a pod, in the order: kill, sandbox, start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The sandbox.
    pub sandbox: SandboxPlan,
    /// Containers to be ended.
    pub kill: Vec<Kill>,
    /// Containers to be started.
    pub start: Vec<Start>,
    /// Containers that wait for their back-off.
    pub waiting: BTreeMap<String, Waiting>,
    /// When to look again although nothing has happened.
    pub wake: Option<Duration>,
    /// Whether the pod has run to its end.
    pub finished: bool,
}

impl Plan {
    fn of(sandbox: SandboxPlan) -> Self {
        Self {
            sandbox,
            kill: Vec::new(),
            start: Vec::new(),
            waiting: BTreeMap::new(),
            wake: None,
            finished: false,
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.kill.is_empty() && self.start.is_empty() && !matches!(self.sandbox, SandboxPlan::Create { .. })
    }
}

/// Inputs of [`plan`] beside the pod and the runtime's view.
pub struct Context<'a> {
    /// Probes.
    pub health: &'a dyn Health,
    /// Restart back-off by container name.
    pub backoff: &'a Backoff,
    /// Restart counts of containers that the runtime no longer holds.
    pub known_restarts: &'a BTreeMap<String, u32>,
    /// Whether a status written before says that the pod has ended: that is never undone.
    pub ended: bool,
    /// The time.
    pub now: SystemTime,
}

/// Decides the next actions.
pub fn plan(pod: &Pod, observed: &Observed, context: &Context<'_>) -> Plan {
    if context.ended || has_ended(pod, observed) {
        return wind_down(pod, observed);
    }
    match observed.sandbox() {
        Some(sandbox) if sandbox.ready => in_sandbox(pod, observed, &sandbox.id, context),
        newest => {
            let attempt = newest.map_or(0, |sandbox| sandbox.attempt + 1);
            let stop = observed.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
            Plan::of(SandboxPlan::Create { attempt, stop })
        }
    }
}

/// Whether every container has run to an end from which the restart policy does not bring it back.
fn has_ended(pod: &Pod, observed: &Observed) -> bool {
    let policy = pod.restart_policy();
    if policy == RestartPolicy::Always {
        return false;
    }
    let failed_init = pod.containers().filter(|(role, _)| *role == Role::Init).any(|(_, container)| {
        policy == RestartPolicy::Never
            && observed
                .newest(&container.name)
                .is_some_and(|last| last.state == State::Exited && last.exit_code != 0)
    });
    let mut main = pod.containers().filter(|(role, _)| *role == Role::Main);
    failed_init
        || main.all(|(_, container)| {
            observed.newest(&container.name).is_some_and(|last| {
                last.state == State::Exited && !restarts(policy, Role::Main, last.exit_code)
            })
        })
}

/// Ends what still runs of a pod that is over: sidecars, and the sandbox with its address.
fn wind_down(pod: &Pod, observed: &Observed) -> Plan {
    let mut plan = Plan::of(SandboxPlan::None);
    plan.finished = true;
    plan.kill = observed
        .running()
        .map(|instance| kill(instance, format!("Stopping container {}", instance.name)))
        .collect();
    debug_assert!(pod.containers().next().is_some(), "the API refuses pods without containers");
    plan
}

fn in_sandbox(pod: &Pod, observed: &Observed, sandbox: &str, context: &Context<'_>) -> Plan {
    let mut plan = Plan::of(SandboxPlan::Keep(sandbox.to_owned()));
    let began = pod
        .containers()
        .filter(|(role, _)| *role == Role::Main)
        .any(|(_, container)| observed.newest(&container.name).is_some_and(|last| last.sandbox == sandbox));
    for (role, container) in pod.containers() {
        let here = observed.newest(&container.name).filter(|last| last.sandbox == sandbox);
        match role {
            // Init containers do not run again once the main ones have begun.
            Role::Init if began => {}
            Role::Init => match here {
                Some(last) if last.state == State::Exited && last.exit_code == 0 => {}
                Some(last) if last.state == State::Running => return plan,
                _ => {
                    plan_container(&mut plan, pod, role, container, observed, context);
                    return plan;
                }
            },
            Role::Sidecar => {
                plan_container(&mut plan, pod, role, container, observed, context);
                let started =
                    here.is_some_and(|c| c.state == State::Running && context.health.started(&c.id));
                if !began && !started {
                    return plan;
                }
            }
            Role::Main => plan_container(&mut plan, pod, role, container, observed, context),
        }
    }
    plan
}

fn plan_container(
    plan: &mut Plan,
    pod: &Pod,
    role: Role,
    container: &Container,
    observed: &Observed,
    context: &Context<'_>,
) {
    let name = &container.name;
    let Some(last) = observed.newest(name) else {
        let attempt = context.known_restarts.get(name).map_or(0, |count| count + 1);
        plan.start.push(Start { name: name.clone(), attempt, replaces: None });
        return;
    };
    match last.state {
        State::Created => {
            let replaces = Some(last.id.clone());
            plan.start.push(Start { name: name.clone(), attempt: last.attempt, replaces });
        }
        State::Running => plan_running(plan, container, last, context),
        State::Unknown => {
            plan.kill.push(kill(last, format!("Container {name} is in unknown state, try killing it")));
        }
        State::Exited => {
            let here = matches!(&plan.sandbox, SandboxPlan::Keep(id) if *id == last.sandbox);
            // A new sandbox begins with the init containers, whatever they did in the one before.
            let again = restarts(pod.restart_policy(), role, last.exit_code) || (!here && role == Role::Init);
            if again {
                restart(plan, pod, last, context);
            }
        }
    }
}

fn plan_running(plan: &mut Plan, container: &Container, last: &Instance, context: &Context<'_>) {
    let name = &container.name;
    if !last.hash.is_empty() && last.hash != spec_hash(container) {
        plan.kill.push(kill(last, format!("Container {name} definition changed, will be restarted")));
    } else if let Some(probe) = context.health.failed(&last.id) {
        plan.kill.push(kill(last, format!("Container {name} failed {probe} probe, will be restarted")));
    }
}

fn restart(plan: &mut Plan, pod: &Pod, last: &Instance, context: &Context<'_>) {
    let failed = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(last.finished).unwrap_or(0));
    if let Some((left, delay)) = context.backoff.waiting(&last.name, failed, context.now) {
        let message = format!(
            "back-off {} restarting failed container={} pod={}",
            go_duration(delay),
            last.name,
            pod.id
        );
        plan.waiting.insert(last.name.clone(), Waiting { reason: "CrashLoopBackOff".to_owned(), message });
        plan.wake = Some(plan.wake.map_or(left, |wake| wake.min(left)));
    } else {
        plan.start.push(Start { name: last.name.clone(), attempt: last.attempt + 1, replaces: None });
    }
}

/// Whether a container that ended with this code is started again.
pub fn restarts(policy: RestartPolicy, role: Role, exit_code: i32) -> bool {
    match (role, policy) {
        (Role::Sidecar, _) => true,
        (Role::Init, RestartPolicy::Never) => false,
        // An init container that succeeded has done its work.
        (Role::Init, _) => exit_code != 0,
        (Role::Main, RestartPolicy::Always) => true,
        (Role::Main, RestartPolicy::OnFailure) => exit_code != 0,
        (Role::Main, RestartPolicy::Never) => false,
    }
}

fn kill(instance: &Instance, message: String) -> Kill {
    Kill { id: instance.id.clone(), name: instance.name.clone(), message }
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
