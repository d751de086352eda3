//! The node's side of `hub/1`: one session with the control, for ever.

use std::time::Duration;

use edgeloom_api::hub::{Answer, Failure, Request};
use serde_json::Value;
use tokio::sync::watch;

/// Why a request has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no session with the control.
    #[error("the control is not connected")]
    Disconnected,
    /// The control did not answer in time.
    #[error("the control did not answer within {0:?}")]
    Timeout(Duration),
    /// The control or the API said no.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The answer was not one to the question, or none at all.
    #[error("the control's answer: {0}")]
    Answer(String),
}

/// Handle to the session; clones share it.
#[derive(Clone, Debug)]
pub struct Session {
    connected: watch::Receiver<bool>,
}

impl Session {
    /// Whether there is a session with the control, and when that changes.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// Asks the control and waits for its answer; fails at once where there is no session.
    pub async fn request(&self, request: Request) -> Result<Value, RequestError> {
        match self.ask(request).await? {
            Answer::Object(object) => Ok(object),
            Answer::Credential(_) => {
                Err(RequestError::Answer("a credential where an object was expected".to_owned()))
            }
        }
    }

    async fn ask(&self, _request: Request) -> Result<Answer, RequestError> {
        Err(RequestError::Disconnected)
    }
}
