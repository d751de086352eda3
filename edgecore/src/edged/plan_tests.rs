use serde_json::{Value, json};

use super::super::pod::tests::pod;
use super::*;
use crate::edged::observed::Sandbox;

#[derive(Default)]
struct Probes {
    not_started: Vec<&'static str>,
    failed: Option<(&'static str, &'static str)>,
}

impl Health for Probes {
    fn started(&self, id: &str) -> bool {
        !self.not_started.contains(&id)
    }
    fn failed(&self, id: &str) -> Option<&'static str> {
        self.failed.filter(|(failed, _)| *failed == id).map(|(_, probe)| probe)
    }
}

fn sandbox(id: &str, attempt: u32, ready: bool) -> Sandbox {
    Sandbox { id: id.into(), attempt, ready, created: i64::from(attempt), ips: vec![] }
}

/// `name/attempt@sandbox=state`, where state is `run`, `made` or an exit code.
fn instance(text: &str) -> Instance {
    let (left, state) = text.split_once('=').unwrap();
    let (name, rest) = left.split_once('/').unwrap();
    let (attempt, sandbox) = rest.split_once('@').unwrap();
    let attempt: u32 = attempt.parse().unwrap();
    let (life, code) = match state {
        "run" => (State::Running, 0),
        "made" => (State::Created, 0),
        code => (State::Exited, code.parse().unwrap()),
    };
    Instance {
        id: format!("{name}{attempt}"),
        name: name.into(),
        sandbox: sandbox.into(),
        attempt,
        state: life,
        created: i64::from(attempt) + 1,
        started: 1,
        finished: if life == State::Exited { 1_000_000_000 } else { 0 },
        exit_code: code,
        reason: String::new(),
        message: String::new(),
        image: String::new(),
        image_ref: String::new(),
        hash: String::new(),
        grace: None,
        log_path: String::new(),
    }
}

fn decide(spec: Value, sandboxes: &[Sandbox], containers: &[&str], probes: &Probes) -> Plan {
    let observed =
        Observed::new(sandboxes.to_vec(), containers.iter().map(|text| instance(text)).collect::<Vec<_>>());
    let context = Context {
        health: probes,
        backoff: &Backoff::default(),
        known_restarts: &BTreeMap::new(),
        ended: false,
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(2),
    };
    plan(&pod(spec), &observed, &context)
}

fn starts(plan: &Plan) -> Vec<String> {
    plan.start.iter().map(|start| format!("{}/{}", start.name, start.attempt)).collect()
}

fn spec(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]})
}

fn with_init() -> Value {
    json!({
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}],
        "containers": [{"name": "a"}],
    })
}

#[test]
fn a_new_pod_gets_a_sandbox_first() {
    let plan = decide(spec("Always"), &[], &[], &Probes::default());
    assert_eq!(plan.sandbox, SandboxPlan::Create { attempt: 0, stop: vec![] });
    assert!(plan.start.is_empty() && !plan.is_idle());
}

#[test]
fn a_dead_sandbox_is_replaced() {
    let plan = decide(spec("Always"), &[sandbox("p", 3, false)], &["a/2@p=255"], &Probes::default());
    assert_eq!(plan.sandbox, SandboxPlan::Create { attempt: 4, stop: vec!["p".into()] });
}

#[test]
fn after_a_reboot_containers_go_on_counting() {
    let sandboxes = [sandbox("q", 4, true), sandbox("p", 3, false)];
    let plan = decide(spec("Always"), &sandboxes, &["a/2@p=255", "b/0@p=0"], &Probes::default());
    assert_eq!(starts(&plan), ["a/3", "b/1"]);
}

#[test]
fn running_containers_are_left_alone() {
    let plan =
        decide(spec("Always"), &[sandbox("p", 0, true)], &["a/0@p=run", "b/7@p=run"], &Probes::default());
    assert!(plan.is_idle() && !plan.finished);
}

#[test]
fn restart_policy() {
    let sandboxes = [sandbox("p", 0, true)];
    for (policy, containers, expected, finished) in [
        ("Always", ["a/0@p=0", "b/0@p=1"], vec!["a/1", "b/1"], false),
        ("OnFailure", ["a/0@p=0", "b/0@p=1"], vec!["b/1"], false),
        ("OnFailure", ["a/0@p=0", "b/0@p=0"], vec![], true),
        ("Never", ["a/0@p=0", "b/0@p=1"], vec![], true),
        ("Never", ["a/0@p=0", "b/0@p=run"], vec![], false),
    ] {
        let plan = decide(spec(policy), &sandboxes, &containers, &Probes::default());
        assert_eq!(starts(&plan), expected, "{policy} {containers:?}");
        assert_eq!(plan.finished, finished, "{policy} {containers:?}");
    }
}

#[test]
fn init_containers_go_one_by_one() {
    let sandboxes = [sandbox("p", 0, true)];
    for (containers, expected) in [
        (vec![], vec!["i/0"]),
        (vec!["i/0@p=run"], vec![]),
        (vec!["i/0@p=1"], vec!["i/1"]),
        (vec!["i/0@p=0"], vec!["s/0"]),
        (vec!["i/0@p=0", "s/0@p=run"], vec!["j/0"]),
        (vec!["i/0@p=0", "s/0@p=run", "j/0@p=0"], vec!["a/0"]),
        (vec!["i/0@p=0", "s/0@p=1", "j/0@p=0", "a/0@p=run"], vec!["s/1"]),
    ] {
        let plan = decide(with_init(), &sandboxes, &containers, &Probes::default());
        assert_eq!(starts(&plan), expected, "{containers:?}");
    }
}

#[test]
fn a_sidecar_that_has_not_started_holds_the_next_one() {
    let probes = Probes { not_started: vec!["s0"], ..Probes::default() };
    let plan = decide(with_init(), &[sandbox("p", 0, true)], &["i/0@p=0", "s/0@p=run"], &probes);
    assert!(plan.is_idle());
}

#[test]
fn a_new_sandbox_runs_init_containers_again() {
    let sandboxes = [sandbox("q", 1, true), sandbox("p", 0, false)];
    let plan = decide(with_init(), &sandboxes, &["i/0@p=0", "s/0@p=255", "a/0@p=255"], &Probes::default());
    assert_eq!(starts(&plan), ["i/1"]);
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let mut value = with_init();
    value["restartPolicy"] = json!("Never");
    let plan = decide(value, &[sandbox("p", 0, true)], &["i/0@p=1"], &Probes::default());
    assert!(plan.finished && plan.start.is_empty());
}

#[test]
fn a_failed_probe_or_another_image_kills() {
    let probes = Probes { failed: Some(("a0", "liveness")), ..Probes::default() };
    let plan = decide(spec("Always"), &[sandbox("p", 0, true)], &["a/0@p=run", "b/0@p=run"], &probes);
    assert_eq!(plan.kill.len(), 1);
    assert_eq!(plan.kill[0].message, "Container a failed liveness probe, will be restarted");

    let mut running = instance("a/0@p=run");
    running.hash = "another".into();
    let observed = Observed::new(vec![sandbox("p", 0, true)], vec![running, instance("b/0@p=run")]);
    let context = Context {
        health: &Probes::default(),
        backoff: &Backoff::default(),
        known_restarts: &BTreeMap::new(),
        ended: false,
        now: SystemTime::UNIX_EPOCH,
    };
    let plan = super::plan(&pod(spec("Always")), &observed, &context);
    assert_eq!(plan.kill[0].message, "Container a definition changed, will be restarted");
}

#[test]
fn a_container_that_never_started_is_made_again_without_counting() {
    let plan =
        decide(spec("Always"), &[sandbox("p", 0, true)], &["a/2@p=made", "b/0@p=run"], &Probes::default());
    assert_eq!(plan.start, [Start { name: "a".into(), attempt: 2, replaces: Some("a2".into()) }]);
}

#[test]
fn back_off_is_worded_as_kubelet_words_it() {
    let mut backoff = Backoff::default();
    let failed = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    backoff.next("a", failed, failed);
    let observed =
        Observed::new(vec![sandbox("p", 0, true)], vec![instance("a/1@p=1"), instance("b/0@p=run")]);
    let context = Context {
        health: &Probes::default(),
        backoff: &backoff,
        known_restarts: &BTreeMap::new(),
        ended: false,
        now: failed + Duration::from_secs(4),
    };
    let plan = super::plan(&pod(spec("Always")), &observed, &context);
    assert!(plan.is_idle());
    assert_eq!(plan.wake, Some(Duration::from_secs(6)));
    assert_eq!(plan.waiting["a"].reason, "CrashLoopBackOff");
    assert_eq!(plan.waiting["a"].message, "back-off 10s restarting failed container=a pod=web_shop(u1)");
}

#[test]
fn what_has_ended_stays_ended() {
    let context = Context {
        health: &Probes::default(),
        backoff: &Backoff::default(),
        known_restarts: &BTreeMap::new(),
        ended: true,
        now: SystemTime::UNIX_EPOCH,
    };
    let plan = super::plan(&pod(spec("Never")), &Observed::default(), &context);
    assert!(plan.finished && plan.is_idle());
}

#[test]
fn durations_as_go_prints_them() {
    for (seconds, text) in [(10, "10s"), (80, "1m20s"), (300, "5m0s"), (3661, "1h1m1s")] {
        assert_eq!(go_duration(Duration::from_secs(seconds)), text);
    }
}
