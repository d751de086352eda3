use serde_json::json;

use super::super::pod::tests::pod;
use super::*;
use crate::edged::observed::Sandbox;
use crate::edged::testing::instance;

fn now() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}

fn observed(containers: Vec<Instance>) -> Observed {
    let sandbox = Sandbox {
        id: "p".into(),
        attempt: 0,
        ready: true,
        created: 0,
        ips: vec!["10.244.1.5".into(), "fd00::5".into()],
    };
    Observed::new(vec![sandbox], containers)
}

struct Case {
    spec: Value,
    containers: Vec<Instance>,
    previous: Value,
    waiting: BTreeMap<String, Waiting>,
    unready: &'static str,
    terminal: bool,
}

impl Case {
    fn new(spec: Value, containers: Vec<Instance>) -> Self {
        let previous = Value::Null;
        Self { spec, containers, previous, waiting: BTreeMap::new(), unready: "", terminal: false }
    }

    fn status(self) -> Value {
        let context = Context {
            previous: &self.previous,
            waiting: &self.waiting,
            started: &|_| true,
            ready: &|id| id != self.unready,
            host_ips: &["192.168.10.5".to_owned()],
            failure: None,
            terminal: self.terminal,
            now: now(),
        };
        status(&pod(self.spec), &observed(self.containers), &context)
    }
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap()
}

fn two(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "x:1"}]})
}

#[test]
fn phases() {
    use State::{Exited, Running};
    for (policy, a, b, terminal, expected) in [
        ("Always", None, None, false, "Pending"),
        ("Always", Some((Running, 0)), None, false, "Pending"),
        ("Always", Some((Running, 0)), Some((Running, 0)), false, "Running"),
        ("Always", Some((Exited, 1)), Some((Exited, 0)), false, "Running"),
        ("OnFailure", Some((Exited, 1)), Some((Exited, 0)), false, "Running"),
        ("OnFailure", Some((Exited, 0)), Some((Exited, 0)), false, "Succeeded"),
        ("Never", Some((Exited, 1)), Some((Exited, 0)), false, "Failed"),
        ("Never", Some((Exited, 1)), Some((Running, 0)), false, "Running"),
        ("Always", Some((Exited, 0)), Some((Exited, 0)), true, "Succeeded"),
        ("Always", Some((Exited, 143)), Some((Exited, 0)), true, "Failed"),
    ] {
        let containers = [("a", a), ("b", b)]
            .into_iter()
            .filter_map(|(name, state)| state.map(|(state, code)| instance(name, 0, state, code)))
            .collect();
        let case = Case { terminal, ..Case::new(two(policy), containers) };
        assert_eq!(case.status()["phase"], expected, "{policy} {a:?} {b:?} {terminal}");
    }
}

#[test]
fn a_running_pod_is_described_in_full() {
    let containers = vec![instance("a", 0, State::Running, 0), instance("b", 0, State::Running, 0)];
    let status = Case { unready: "b0", ..Case::new(two("Always"), containers) }.status();
    assert_eq!(status["podIP"], "10.244.1.5");
    assert_eq!(status["podIPs"][1]["ip"], "fd00::5");
    assert_eq!(status["hostIPs"], json!([{"ip": "192.168.10.5"}]));
    assert_eq!(status["qosClass"], "BestEffort");
    assert_eq!(status["startTime"], rfc3339(now()));
    let a = &status["containerStatuses"][0];
    assert_eq!(a["containerID"], "containerd://a0");
    assert_eq!(a["state"]["running"]["startedAt"], "2023-11-14T22:13:20Z");
    assert_eq!((&a["ready"], &a["started"]), (&json!(true), &json!(true)));
    assert_eq!(condition(&status, "PodScheduled")["status"], "True");
    assert_eq!(condition(&status, "Initialized")["status"], "True");
    let ready = condition(&status, "Ready");
    assert_eq!(ready["reason"], "ContainersNotReady");
    assert_eq!(ready["message"], "containers with unready status: [b]");
}

#[test]
fn crash_loop_shows_the_last_exit() {
    let spec = json!({"containers": [{"name": "a"}]});
    let containers = vec![instance("a", 3, State::Exited, 2)];
    let waiting = Waiting { reason: "CrashLoopBackOff".into(), message: "back-off".into() };
    let mut case = Case::new(spec, containers);
    case.waiting.insert("a".into(), waiting);
    let status = case.status();
    let a = &status["containerStatuses"][0];
    assert_eq!(a["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(a["lastState"]["terminated"]["exitCode"], 2);
    assert_eq!(a["lastState"]["terminated"]["reason"], "Error");
    assert_eq!(a["restartCount"], 3);
    assert_eq!(status["phase"], "Running");
}

#[test]
fn waiting_before_the_first_start() {
    let plain = Case::new(json!({"containers": [{"name": "a"}]}), vec![]).status();
    assert_eq!(plain["containerStatuses"][0]["state"]["waiting"]["reason"], "ContainerCreating");
    let init = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    let status = Case::new(init, vec![instance("i", 0, State::Running, 0)]).status();
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(condition(&status, "Initialized")["message"], "containers with incomplete status: [i]");
    assert_eq!(status["phase"], "Pending");
}

#[test]
fn transition_times_and_the_conditions_of_others_are_kept() {
    let previous = json!({
        "startTime": "2020-01-01T00:00:00Z",
        "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:05Z"},
            {"type": "example.com/gate", "status": "False"},
        ],
    });
    let spec = json!({"containers": [{"name": "a"}]});
    let running = vec![instance("a", 0, State::Running, 0)];
    let status = Case { previous, ..Case::new(spec, running) }.status();
    assert_eq!(status["startTime"], "2020-01-01T00:00:00Z");
    assert_eq!(condition(&status, "Ready")["lastTransitionTime"], "2020-01-01T00:00:05Z");
    assert_eq!(condition(&status, "example.com/gate")["status"], "False");
}

#[test]
fn a_readiness_gate_holds_ready_back() {
    let spec = json!({"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "g"}]});
    let status = Case::new(spec, vec![instance("a", 0, State::Running, 0)]).status();
    assert_eq!(condition(&status, "ContainersReady")["status"], "True");
    assert_eq!(condition(&status, "Ready")["reason"], "ReadinessGatesNotReady");
}

#[test]
fn what_ended_stays_ended_when_the_runtime_has_forgotten_it() {
    let before = json!({"phase": "Succeeded", "containerStatuses": [
        {"name": "a", "state": {"terminated": {"exitCode": 0}}, "restartCount": 1}]});
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}]});
    let status = Case { previous: before, terminal: true, ..Case::new(spec, vec![]) }.status();
    assert_eq!(status["phase"], "Succeeded");
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0);
    assert_eq!(condition(&status, "Ready")["reason"], "PodCompleted");
}

#[test]
fn a_container_that_the_runtime_has_forgotten_goes_on_counting() {
    let before = json!({"phase": "Running", "containerStatuses": [
        {"name": "a", "state": {"running": {}}, "restartCount": 2, "containerID": "containerd://a2"}]});
    let spec = json!({"containers": [{"name": "a"}]});
    let status = Case { previous: before, ..Case::new(spec.clone(), vec![]) }.status();
    let a = &status["containerStatuses"][0];
    assert_eq!((&a["restartCount"], &a["containerID"]), (&json!(2), &json!("containerd://a2")));
    assert_eq!(a["lastState"]["terminated"]["reason"], "ContainerStatusUnknown");
    let again = Case { previous: status, ..Case::new(spec, vec![]) }.status();
    assert_eq!(again["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 137);
}
