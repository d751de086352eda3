//! The program in the examples' image: a server that says who answers, and a client to call it with.
//!
//! `responder serve` answers HTTP on 8080, and echoes TCP on 7000 and UDP on 9000, over IPv4 and IPv6,
//! naming the pod, node and site from the environment (`POD_NAME`, `NODE_NAME`, `SITE`).
//! `responder call tcp|udp HOST:PORT MESSAGE` sends one message and prints the answer.

mod client;
mod http;
mod server;
mod whoami;

use std::process::ExitCode;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

const USAGE: &str = "usage: responder serve | responder call tcp|udp HOST:PORT MESSAGE";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["serve"] => end_on_signals().and_then(|()| server::serve()),
        ["call", protocol @ ("tcp" | "udp"), target, message] => client::call(protocol, target, message),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("responder: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The first process of a container gets no default action for signals: without this it would be
/// killed only after the pod's whole grace period.
fn end_on_signals() -> Result<(), String> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|errno| format!("cannot block signals: {errno}"))?;
    thread::spawn(move || {
        if signals.wait().is_ok() {
            std::process::exit(0);
        }
    });
    Ok(())
}
