//! Local copies of what the controllers read, kept by watches, and the hooks that turn a change into
//! keys of a controller's queue.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use kube::api::Api;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Told of every object that came, changed or went.
pub(crate) type Hook<K> = Box<dyn Fn(&K) + Send + Sync>;

/// Owner of the watches' tasks.
#[derive(Clone)]
pub(crate) struct Watches {
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Watches {
    /// Keeps a copy of all that `api` lists under `config`, and tells the hooks once the copy shows it.
    pub(crate) fn keep<K>(&self, api: Api<K>, config: watcher::Config, hooks: Vec<Hook<K>>) -> Copy<K>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        let (reader, mut writer) = store::<K>();
        let copy = reader.clone();
        let whole = CancellationToken::new();
        let kept = Copy { store: reader, whole: whole.clone() };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let events = watcher(api, config).default_backoff();
            let mut events = std::pin::pin!(events);
            let mut before = HashMap::new();
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = stop.cancelled() => return,
                };
                match event {
                    Some(Ok(event)) => {
                        if matches!(event, watcher::Event::Init) {
                            before = by_key(&copy);
                        }
                        writer.apply_watcher_event(&event);
                        tell(&hooks, &event, &copy, &mut before);
                        if matches!(event, watcher::Event::InitDone) {
                            whole.cancel();
                        }
                    }
                    Some(Err(error)) => {
                        tracing::warn!(kind = %K::kind(&()), %error, "watching; trying again");
                    }
                    None => return,
                }
            }
        });
        kept
    }
}

/// A local copy of a kind's objects.
pub(crate) struct Copy<K: Resource + 'static>
where
    K::DynamicType: Eq + Hash,
{
    pub(crate) store: Store<K>,
    /// Cancelled with the first whole list. (`Store::wait_until_ready` wakes only one of several waiters.)
    whole: CancellationToken,
}

impl<K: Resource + 'static> Copy<K>
where
    K::DynamicType: Eq + Hash,
{
    /// Done once the copy shows a whole list: before, an absent object means nothing.
    pub(crate) fn complete(&self) -> BoxFuture<'static, ()> {
        self.whole.clone().cancelled_owned().boxed()
    }
}

fn by_key<K>(copy: &Store<K>) -> HashMap<ObjectRef<K>, Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    copy.state().into_iter().map(|object| (ObjectRef::from_obj(&*object), object)).collect()
}

/// While a list is under way the copy shows the old state, so the hooks wait for its end; they are then
/// told of all that is there and of what was there before and is not any more.
fn tell<K>(
    hooks: &[Hook<K>],
    event: &watcher::Event<K>,
    copy: &Store<K>,
    before: &mut HashMap<ObjectRef<K>, Arc<K>>,
) where
    K: Resource<DynamicType = ()> + Clone + 'static,
    ObjectRef<K>: Hash + Eq,
{
    let each = |object: &K| hooks.iter().for_each(|hook| hook(object));
    match event {
        watcher::Event::Init | watcher::Event::InitApply(_) => {}
        watcher::Event::Apply(object) | watcher::Event::Delete(object) => each(object),
        watcher::Event::InitDone => {
            let mut gone = std::mem::take(before);
            for object in copy.state() {
                gone.remove(&ObjectRef::from_obj(&*object));
                each(&object);
            }
            gone.values().for_each(|object| each(object));
        }
    }
}

/// `namespace/name`, the key of most queues.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn of<K: Resource>(object: &K) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }

    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Where the object of this key stands in a copy.
    pub(crate) fn reference<K: Resource<DynamicType = ()>>(&self) -> ObjectRef<K> {
        let reference = ObjectRef::new(&self.name);
        if self.namespace.is_empty() { reference } else { reference.within(&self.namespace) }
    }
}
