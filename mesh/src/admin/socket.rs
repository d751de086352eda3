//! The admin API's Unix socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::Router;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Mode of the socket: its group may be given to operators that are not root.
const MODE: u32 = 0o660;

/// The socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the admin socket {path}: {source}{hint}")]
pub struct SocketError {
    path: PathBuf,
    source: io::Error,
    hint: &'static str,
}

/// The admin API while it is served.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    task: JoinHandle<()>,
}

impl Server {
    /// Waits until it has ended, which it does when its token is cancelled, and removes the socket.
    pub async fn join(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the admin API ended by a panic");
        }
        // Somebody who removed it before did what was to be done.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves `router` on the socket at `path` until `stop` is cancelled. A socket that a killed daemon left
/// is replaced; one that somebody answers on is not.
pub async fn serve(path: &Path, router: Router, stop: CancellationToken) -> Result<Server, SocketError> {
    let listener = open(path).await?;
    let task = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
        {
            tracing::error!(%error, "the admin API failed");
        }
    });
    Ok(Server { path: path.to_owned(), task })
}

async fn open(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |hint| move |source| SocketError { path: path.to_owned(), source, hint };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed("; it needs a folder that this user may write"))?;
    }
    if UnixStream::connect(path).await.is_ok() {
        let source = io::Error::from(io::ErrorKind::AddrInUse);
        return Err(failed("; is the daemon running already?")(source));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("")(error)),
        _ => {}
    }
    let listener =
        UnixListener::bind(path).map_err(failed("; it needs a folder that this user may write"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE)).map_err(failed(""))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_left_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/agent.sock");
        std::fs::create_dir(folder.path().join("run")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let stop = CancellationToken::new();
        let router = || Router::new().route("/", get(|| async { "here" }));
        let server = serve(&path, router(), stop.clone()).await.unwrap();
        let again = serve(&path, router(), stop.clone()).await.unwrap_err().to_string();
        assert!(again.contains("running already"), "{again}");
        let mut client = UnixStream::connect(&path).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("here"), "{answer}");
        stop.cancel();
        server.join().await;
        assert!(!path.exists());
    }
}
