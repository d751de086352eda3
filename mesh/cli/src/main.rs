//! meshctl: what an operator asks the mesh, from a node by its socket or from anywhere by the kubeconfig.

mod args;
mod commands;
mod connect;
mod fleet;
mod http;
mod show;

use std::process::ExitCode;

use clap::Parser;

use args::Args;

fn main() -> ExitCode {
    // clap ends with 2 on wrong usage, and with 0 on --help.
    let args = Args::parse();
    // It fails only where a provider was installed before, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("meshctl: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(commands::run(args))
}

/// Whether the reader of our output has seen enough (`meshctl services | head`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
