//! Serves the embedded API on its own: `cargo run -p edgeloom-store --example serve -- DIR [ADDRESS:PORT]`.
//! Writes `DIR/admin.conf`, and ends on Ctrl-C.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use edgeloom_store::{ApiServer, ServerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: serve DIR [ADDRESS:PORT]")?);
    let listen: SocketAddr = arguments.next().as_deref().unwrap_or("127.0.0.1:6443").parse()?;
    let server = ApiServer::start(ServerConfig::new(&dir, listen), &prometheus::Registry::new()).await?;
    let kubeconfig = dir.join("admin.conf");
    std::fs::write(&kubeconfig, server.admin_kubeconfig()?)?;
    println!("export KUBECONFIG={}", kubeconfig.display());
    tokio::signal::ctrl_c().await?;
    server.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
