//! Runs the controllers against the API of a kubeconfig:
//! `plane CA.crt CA.key < /dev/null`, with KUBECONFIG set. Ends on Ctrl-C.

use std::time::Duration;

use edgeloom_plane::{Plane, PlaneConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let mut arguments = std::env::args().skip(1);
    let (Some(certificate), Some(key)) = (arguments.next(), arguments.next()) else {
        return Err("usage: plane CA.crt CA.key".into());
    };
    let ca = std::fs::read_to_string(certificate)?;
    let config = PlaneConfig {
        cluster_cidrs: vec!["10.244.0.0/16".parse()?, "fd00:10:244::/48".parse()?],
        root_ca_pem: ca.clone(),
        signing_certificate_pem: ca,
        signing_key_pem: std::fs::read_to_string(key)?,
    };
    let plane = Plane::start(kube::Client::try_default().await?, config, &prometheus::Registry::new())?;
    tokio::signal::ctrl_c().await?;
    plane.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
