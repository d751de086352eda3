//! Fairness: how much of the server one user can hold at once.
//!
//! Short requests wait for room, long-running ones (watches, streams) are refused when there is none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, Reason};

/// Short requests at once, of everybody.
const SHORT: usize = 400;
/// Short requests at once, of one user.
const SHORT_PER_USER: usize = 100;
/// Watches and streams at once, of everybody: each costs a task and a few frames of memory.
const LONG: usize = 12_000;
/// Watches and streams at once, of one user.
const LONG_PER_USER: usize = 4_000;
/// How long a short request waits for room.
const PATIENCE: Duration = Duration::from_secs(15);
/// Users remembered before those who hold nothing are forgotten.
const REMEMBERED: usize = 1_024;

/// The room there is.
pub(crate) struct Limits {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    users: Mutex<HashMap<String, Share>>,
}

#[derive(Clone)]
struct Share {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

/// Room held; dropping it gives it back.
pub(crate) struct Room(
    #[expect(dead_code, reason = "held for what its drop does")] [OwnedSemaphorePermit; 2],
);

impl Default for Limits {
    fn default() -> Self {
        Self {
            short: Arc::new(Semaphore::new(SHORT)),
            long: Arc::new(Semaphore::new(LONG)),
            users: Mutex::default(),
        }
    }
}

impl Limits {
    /// Room for a short request: first of the user's share, then of the whole.
    pub(crate) async fn short(&self, user: &str) -> Result<Room, Error> {
        let share = self.share(user).short;
        let both = async {
            let of_user = share.acquire_owned().await.ok()?;
            Some(Room([of_user, self.short.clone().acquire_owned().await.ok()?]))
        };
        tokio::time::timeout(PATIENCE, both).await.ok().flatten().ok_or_else(too_many)
    }

    /// Room for a watch or a stream.
    pub(crate) fn long(&self, user: &str) -> Result<Room, Error> {
        let of_user = self.share(user).long.try_acquire_owned();
        let of_all = self.long.clone().try_acquire_owned();
        match (of_user, of_all) {
            (Ok(of_user), Ok(of_all)) => Ok(Room([of_user, of_all])),
            _ => Err(too_many()),
        }
    }

    fn share(&self, user: &str) -> Share {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= REMEMBERED && !users.contains_key(user) {
            users.retain(|_, share| {
                share.short.available_permits() < SHORT_PER_USER
                    || share.long.available_permits() < LONG_PER_USER
            });
        }
        let fresh = || Share {
            short: Arc::new(Semaphore::new(SHORT_PER_USER)),
            long: Arc::new(Semaphore::new(LONG_PER_USER)),
        };
        users.entry(user.to_owned()).or_insert_with(fresh).clone()
    }
}

fn too_many() -> Error {
    Error::new(Reason::TooManyRequests, "too many requests, please try again later").retry_after(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_user_cannot_take_it_all() {
        let limits = Limits::default();
        let mut held = Vec::new();
        for _ in 0..SHORT_PER_USER {
            held.push(limits.short("greedy").await.unwrap());
        }
        assert!(limits.short("greedy").await.is_err());
        assert!(limits.short("modest").await.is_ok());
        held.pop();
        assert!(limits.short("greedy").await.is_ok());
    }
}
