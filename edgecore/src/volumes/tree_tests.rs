//! What is mounted in a pod's directory, with real mounts.

use std::os::unix::fs::symlink;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::volumes::{PodDirectory, host};

/// Runs a test on a thread with mounts of its own, which end with it.
fn with_own_mounts(test: impl FnOnce(&Path) + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: it needs root for mounts");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            change("/", MsFlags::MS_PRIVATE | MsFlags::MS_REC);
            test(root.path());
        });
        thread.join().unwrap();
    });
}

fn change(path: impl AsRef<Path>, flags: MsFlags) {
    mount(None::<&str>, path.as_ref(), None::<&str>, flags, None::<&str>).unwrap();
}

fn tmpfs(path: &Path) {
    fs::create_dir_all(path).unwrap();
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

fn mounts_below(path: &Path) -> usize {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    text.lines().filter(|line| Path::new(line.split(' ').nth(4).unwrap()).starts_with(path)).count()
}

/// A directory of the host with one file, and a pod's directory on the same file system, named through a link.
fn host_and_pod(root: &Path) -> (PathBuf, PodDirectory) {
    let data = root.join("data");
    fs::create_dir_all(data.join("db")).unwrap();
    fs::write(data.join("db/rows"), "precious").unwrap();
    fs::create_dir(root.join("state")).unwrap();
    symlink("state", root.join("link")).unwrap();
    let pod = PodDirectory::new(&root.join("link"), "u");
    pod.create().unwrap();
    (data, pod)
}

#[test]
fn a_pod_that_ends_leaves_the_data_of_its_host_paths() {
    with_own_mounts(|root| {
        let (data, pod) = host_and_pod(root);
        host::bind_sub_path(&data, "db", &pod.sub_path("v", "c", 0)).unwrap();
        host::bind_sub_path(&data, "db/rows", &pod.sub_path("v", "c", 1)).unwrap();
        host::make_empty_dir(&pod.volume("memory"), Some(0), None).unwrap();
        fs::write(pod.volume("memory").join("f"), "").unwrap();
        pod.remove().unwrap();
        assert_eq!(fs::read_to_string(data.join("db/rows")).unwrap(), "precious");
        assert!(!pod.path().exists());
        assert_eq!(mounts_below(root), 0);
    });
}

#[test]
fn a_restart_binds_nothing_twice() {
    with_own_mounts(|root| {
        let (data, pod) = host_and_pod(root);
        for _ in 0..3 {
            host::bind_sub_path(&data, "db", &pod.sub_path("v", "c", 0)).unwrap();
            host::bind_sub_path(&data, "db/rows", &pod.sub_path("v", "c", 1)).unwrap();
            host::make_empty_dir(&pod.volume("memory"), Some(0), None).unwrap();
        }
        assert_eq!(mounts_below(root), 3);
        assert_eq!(fs::read_to_string(data.join("db/rows")).unwrap(), "precious");
    });
}

#[test]
fn mounts_on_top_of_each_other_go_all() {
    with_own_mounts(|root| {
        let (data, pod) = host_and_pod(root);
        let target = pod.volume("v");
        fs::create_dir_all(&target).unwrap();
        for _ in 0..3 {
            mount(Some(&data), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        }
        pod.remove().unwrap();
        assert_eq!(fs::read_to_string(data.join("db/rows")).unwrap(), "precious");
        assert!(!pod.path().exists());
    });
}

#[test]
fn what_the_host_has_mounted_in_a_host_path_stays_mounted() {
    with_own_mounts(|root| {
        tmpfs(root);
        change(root, MsFlags::MS_SHARED);
        let (data, pod) = host_and_pod(root);
        tmpfs(&data.join("db/disk"));
        fs::write(data.join("db/disk/file"), "precious").unwrap();
        host::bind_sub_path(&data, "db", &pod.sub_path("v", "c", 0)).unwrap();
        pod.remove().unwrap();
        assert_eq!(fs::read_to_string(data.join("db/disk/file")).unwrap(), "precious");
    });
}

#[test]
fn what_cannot_be_unmounted_is_not_touched() {
    with_own_mounts(|root| {
        let (data, pod) = host_and_pod(root);
        host::bind_sub_path(&data, "db", &pod.sub_path("v", "c", 0)).unwrap();
        let busy = |_: &Path| Err(io::ErrorKind::ResourceBusy.into());
        let error = remove_with(pod.path(), &busy).unwrap_err().to_string();
        assert!(error.contains("subpaths/v/c/0: something is mounted here"), "{error}");
        assert!(remove_with(pod.path(), &|_| Ok(())).unwrap_err().to_string().contains("again and again"));
        assert_eq!(fs::read_to_string(data.join("db/rows")).unwrap(), "precious");
    });
}

#[test]
fn links_are_removed_and_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let (kept, gone) = (root.path().join("kept"), root.path().join("gone"));
    fs::create_dir_all(gone.join("a/b")).unwrap();
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("file"), "").unwrap();
    symlink(&kept, gone.join("a/link")).unwrap();
    symlink("nowhere", gone.join("a/b/broken")).unwrap();
    remove(&gone).unwrap();
    assert!(!gone.exists() && kept.join("file").exists());
    remove(&gone).unwrap();
    remove(&gone.join("neither/there")).unwrap();
    assert!(remove(Path::new("/")).is_err() && remove(&gone.join("..")).is_err());
}
