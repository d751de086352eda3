//! With a real container runtime; see `edged::live_tests` for how to run it.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use serde_json::json;

use super::*;
use crate::edged::live_tests::Live;

async fn ask(kubelet: &Kubelet, request: &str) -> String {
    let (mut client, server) = tokio::io::duplex(64 << 10);
    kubelet.spawn(server);
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = client.read_to_string(&mut answer);
    tokio::time::timeout(std::time::Duration::from_secs(20), read).await.expect("an answer").unwrap();
    answer
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and a container runtime"]
async fn logs_exec_and_statistics() {
    let root = tempfile::tempdir().unwrap();
    let live = Live::new(root.path());
    let (cancel, _task) = live.start();
    live.put("talk", "live-k", json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c",
        "command": ["/bin/sh", "-c", "for i in 1 2 3; do echo line $i; done; httpd -p 8080 -h /etc; sleep 100"]}]}));
    live.until("running", |live| live.last_status("live-k")["containerStatuses"][0]["ready"] == true).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let kubelet = Kubelet::new(Arc::clone(&live.node), Registry::new(), None, &cancel);

    let logs = ask(&kubelet, &get("/containerLogs/shop/talk/c?tailLines=2")).await;
    assert!(logs.contains("line 2\nline 3\n") && !logs.contains("line 1"), "{logs}");
    let absent = ask(&kubelet, &get("/containerLogs/shop/talk/d")).await;
    assert!(
        absent.contains("404") && absent.ends_with("container \"d\" not found in pod \"talk\""),
        "{absent}"
    );
    let previous = ask(&kubelet, &get("/containerLogs/shop/talk/c?previous=true")).await;
    assert!(
        previous.ends_with("previous terminated container \"c\" in pod \"talk\" not found"),
        "{previous}"
    );

    // The v4 channel protocol of WebSocket, which the runtime's server speaks: a frame for each piece.
    let exec = "GET /exec/shop/talk/c?command=echo&command=hello&output=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
                Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n";
    let (mut client, server) = tokio::io::duplex(64 << 10);
    kubelet.spawn(server);
    client.write_all(exec.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    while !answer.windows(6).any(|window| window == b"hello\n") {
        let read = client.read(&mut buffer);
        let n =
            tokio::time::timeout(std::time::Duration::from_secs(10), read).await.expect("an answer").unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..n]);
    }
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 101"), "{answer:?}");
    drop(client);

    let refused = ask(&kubelet, &get("/exec/shop/talk/c?command=true")).await;
    assert!(refused.contains("400") && refused.contains("at least 1 of stdin"), "{refused}");
    let summary = ask(&kubelet, &get("/stats/summary")).await;
    assert!(summary.contains("workingSetBytes") && summary.contains("live-k"), "{summary}");
    let metrics = ask(&kubelet, &get("/metrics/resource")).await;
    assert!(metrics.contains("pod_memory_working_set_bytes{namespace=\"shop\",pod=\"talk\"}"), "{metrics}");
    live.memory.clear();
    live.until("gone", |live| {
        futures::executor::block_on(live.node.runtime.observe("live-k")).unwrap().sandboxes.is_empty()
    })
    .await;
}
