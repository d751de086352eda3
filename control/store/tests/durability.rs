//! What was acknowledged is there after the process was killed: a child writes and says what was
//! acknowledged, the parent kills it at some moment, opens the database and looks.

#![expect(clippy::unwrap_used, reason = "the helpers of a test")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use edgeloom_store::db::{ListOptions, WriteOptions};
use edgeloom_store::{Store, StoreConfig};
use serde_json::json;

const CHILD: &str = "EDGELOOM_TEST_DATABASE";
const ROUNDS: u32 = 5;
/// How many writes are in flight in the child.
const WRITERS: u32 = 8;

#[test]
fn acknowledged_writes_survive_sigkill() {
    if let Some(path) = std::env::var_os(CHILD) {
        write_until_killed(Path::new(&path));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("objects.db");
    let mut acknowledged = Vec::new();
    for round in 1..=ROUNDS {
        acknowledged.extend(killed_after(&path, Duration::from_millis(100 * u64::from(round))));
    }
    assert!(!acknowledged.is_empty(), "the child wrote nothing");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::open(&StoreConfig::new(&path)).unwrap();
        let kind = store.registry().find("", "v1", "configmaps").unwrap();
        let list = store.list(&kind, ListOptions::default()).await.unwrap();
        let stored: Vec<&str> =
            list.items.iter().filter_map(|one| one["metadata"]["name"].as_str()).collect();
        for name in &acknowledged {
            assert!(stored.contains(&name.as_str()), "{name} was acknowledged and is gone");
        }
        for object in &list.items {
            assert_eq!(object["data"]["name"], object["metadata"]["name"], "half an object");
        }
        store.shutdown().await;
    });
}

/// Names that the child said were stored, before it was killed.
fn killed_after(path: &Path, life: Duration) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "acknowledged_writes_survive_sigkill", "--nocapture", "--test-threads", "1"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut names, mut since) = (Vec::new(), None);
    for line in lines.map_while(Result::ok) {
        let Some(name) = line.strip_prefix("stored ") else { continue };
        names.push(name.to_owned());
        if since.get_or_insert_with(Instant::now).elapsed() > life {
            child.kill().unwrap();
            break;
        }
    }
    child.wait().unwrap();
    names
}

fn write_until_killed(path: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::open(&StoreConfig::new(path)).unwrap();
        let namespaces = store.registry().find("", "v1", "namespaces").unwrap();
        let namespace = json!({"metadata": {"name": "default"}});
        // There from the second round on.
        let _ = store.create(&namespaces, "", namespace, &WriteOptions::default()).await;
        let tasks = (0..WRITERS).map(|_| tokio::spawn(write_on(store.clone())));
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
}

async fn write_on(store: Store) {
    let kind = store.registry().find("", "v1", "configmaps").unwrap();
    loop {
        let name = format!("c{:016x}", rand::random::<u64>());
        let object = json!({"metadata": {"name": name}, "data": {"name": name}});
        store.create(&kind, "default", object, &WriteOptions::default()).await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "stored {name}").unwrap();
    }
}
