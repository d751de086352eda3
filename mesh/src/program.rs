//! What every daemon's `main` does around its work: logging, configuration, signals, and the one line in which
//! an error ends it.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use edgeloom_api::config::{ConfigError, Sources, load};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Flags of every daemon.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Set a field of the configuration: path.to.field=value; can be repeated
    #[arg(long, value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
    /// Print the configuration in use, and end
    #[arg(long)]
    pub print_config: bool,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file is there and cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What it says is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It cannot be printed.
    #[error("printing the configuration: {0}")]
    Print(#[from] serde_yaml_ng::Error),
}

/// The second signal came before the drain was over.
#[derive(Debug, thiserror::Error)]
#[error("stopped before the drain was over")]
pub struct Impatient;

/// Logs to standard error what `RUST_LOG` asks for, or else `info`.
pub fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(io::stderr).init();
}

/// Reads the configuration: the file at `path`, where there is one, the environment and `set` over it.
pub fn read<T: DeserializeOwned>(path: &Path, set: &[String]) -> Result<T, ReadError> {
    let name = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(ReadError::File { path: path.to_owned(), source }),
    };
    let file = text.as_deref().map(|text| (name.as_str(), text));
    Ok(load(&Sources { file, env: std::env::vars().collect(), set })?)
}

/// Prints the configuration in use as YAML.
pub fn print(config: &impl Serialize) -> Result<(), ReadError> {
    print!("{}", serde_yaml_ng::to_string(config)?);
    Ok(())
}

/// Runs what `start` makes until it ends. The first SIGTERM or SIGINT cancels its token, and it drains; the
/// second does not wait for that.
pub async fn until_signal<E, F>(start: impl FnOnce(CancellationToken) -> F) -> Result<(), E>
where
    E: From<io::Error> + From<Impatient>,
    F: Future<Output = Result<(), E>>,
{
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut running = Box::pin(start(stop.clone()));
    tokio::select! {
        ended = &mut running => return ended,
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    tokio::select! {
        ended = running => ended,
        _ = terminate.recv() => Err(Impatient.into()),
        _ = interrupt.recv() => Err(Impatient.into()),
    }
}

/// How the program ends: an error is one line for the operator, whatever `RUST_BACKTRACE` says.
pub fn exit(program: &str, result: Result<(), impl AsRef<dyn std::error::Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {}", describe(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// The error, and those of its causes that it does not say itself.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).fold(String::new(), |said, cause| match said.contains(&cause) {
        true => said,
        false if said.is_empty() => cause,
        false => format!("{said}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Told {
        #[error("{0}")]
        Itself(#[source] io::Error),
        #[error("reading the list")]
        Apart(#[source] io::Error),
    }

    #[test]
    fn an_error_is_one_line_that_says_each_cause_once() {
        let cause = || io::Error::other("disk on fire");
        assert_eq!(describe(&Told::Itself(cause())), "disk on fire");
        assert_eq!(describe(&Told::Apart(cause())), "reading the list: disk on fire");
    }
}
