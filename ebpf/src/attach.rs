//! Programs on their hooks: new links, links that a predecessor left, and links whose hook is gone.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aya::Ebpf;
use aya::programs::{CgroupSockAddr, ProgramFd, SkLookup};

use crate::error::Error;
use crate::pin::{Pins, STEER};
use crate::{cgroup, sys};

/// The programs on the cgroup, with their attach types of <linux/bpf.h>.
const NEAR: [(&str, u32); 8] = [
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getpeername4", 29),
    ("getpeername6", 30),
];

/// The program on the network namespace.
const FAR: (&str, u32) = (STEER, 36);

const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// What a set of programs is attached to.
#[derive(Debug)]
enum Hook {
    Cgroup,
    Netns,
}

/// One loaded program on its hook.
#[derive(Debug)]
struct Attached {
    name: &'static str,
    attach_type: u32,
    program: ProgramFd,
    link: OwnedFd,
}

/// Programs that work together: all of them are attached, or none.
#[derive(Debug)]
pub(crate) struct Group {
    hook: Hook,
    programs: Vec<Attached>,
}

/// The hook of a group, as it is now.
#[derive(Debug)]
struct Place {
    file: fs::File,
    id: u64,
}

impl Group {
    /// Loads the translation of near calls and attaches it to a cgroup.
    pub(crate) fn near(ebpf: &mut Ebpf, cgroup: &Path, pins: Option<&Pins>) -> Result<Self, Error> {
        let mut loaded = Vec::new();
        for (name, attach_type) in NEAR {
            let program: &mut CgroupSockAddr = find(ebpf, name)?;
            program.load().map_err(|e| failed(name, e))?;
            let program = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(|e| failed(name, e))?;
            loaded.push((name, attach_type, program));
        }
        Self::attach(Hook::Cgroup, loaded, &place_of_cgroup(cgroup)?, pins)
    }

    /// Loads the steering of far packets and attaches it to this network namespace.
    pub(crate) fn far(ebpf: &mut Ebpf, pins: Option<&Pins>) -> Result<Self, Error> {
        let (name, attach_type) = FAR;
        let program: &mut SkLookup = find(ebpf, name)?;
        program.load().map_err(|e| failed(name, e))?;
        let program = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(|e| failed(name, e))?;
        Self::attach(Hook::Netns, vec![(name, attach_type, program)], &place_of_netns()?, pins)
    }

    fn attach(
        hook: Hook,
        loaded: Vec<(&'static str, u32, ProgramFd)>,
        place: &Place,
        pins: Option<&Pins>,
    ) -> Result<Self, Error> {
        let mut group = Self { hook, programs: Vec::new() };
        for (name, attach_type, program) in loaded {
            let pin = pins.map(|pins| pins.link(name));
            let link = match pin.as_deref().and_then(|pin| adopt(pin, &program, &group.hook, place)) {
                Some(link) => link,
                None => attach_anew(name, &program, attach_type, place, pin.as_deref())
                    .inspect_err(|_| group.unpin(pins))?,
            };
            group.programs.push(Attached { name, attach_type, program, link });
        }
        Ok(group)
    }

    /// Takes the pins away: half a group would translate one way only.
    fn unpin(&self, pins: Option<&Pins>) {
        for (pins, attached) in pins.into_iter().flat_map(|pins| self.programs.iter().map(move |a| (pins, a)))
        {
            fs::remove_file(pins.link(attached.name)).ok();
        }
    }

    /// Attaches again what lost its hook: a cgroup that was deleted and made anew.
    /// Returns how many programs that was.
    pub(crate) fn mend(&mut self, cgroup: &Path, pins: Option<&Pins>) -> Result<usize, Error> {
        let place = match self.hook {
            Hook::Cgroup => place_of_cgroup(cgroup)?,
            Hook::Netns => place_of_netns()?,
        };
        let mut mended = 0;
        for attached in &mut self.programs {
            if holds(&attached.link, &self.hook, &place) {
                continue;
            }
            let pin = pins.map(|pins| pins.link(attached.name));
            let Attached { name, attach_type, program, .. } = attached;
            attached.link = attach_anew(name, program, *attach_type, &place, pin.as_deref())?;
            mended += 1;
        }
        Ok(mended)
    }
}

/// A predecessor's link with our program in it, if it is still on the same hook.
fn adopt(pin: &Path, program: &ProgramFd, hook: &Hook, place: &Place) -> Option<OwnedFd> {
    let link = sys::pinned(pin).ok()?;
    if !holds(&link, hook, place) {
        return None;
    }
    match sys::update_link(&link, program) {
        Ok(()) => Some(link),
        Err(error) => {
            tracing::warn!(pin = %pin.display(), %error, "a pinned link takes no new program and is replaced");
            None
        }
    }
}

/// Attaches; the new link is in force before the old pin goes, so no call falls between them.
fn attach_anew(
    name: &'static str,
    program: &ProgramFd,
    attach_type: u32,
    place: &Place,
    pin: Option<&Path>,
) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Attach { program: name, source };
    let link = match sys::link(program, &place.file, attach_type) {
        // Only one program fits: the one of the pin has to go first.
        Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {
            pin.map(fs::remove_file);
            sys::link(program, &place.file, attach_type).map_err(failed)?
        }
        done => done.map_err(failed)?,
    };
    if let Some(pin) = pin {
        if pin.try_exists().unwrap_or(false) {
            fs::remove_file(pin).map_err(failed)?;
        }
        sys::pin(&link, pin).map_err(failed)?;
    }
    Ok(link)
}

fn holds(link: &impl AsFd, hook: &Hook, place: &Place) -> bool {
    sys::link_info(link).is_ok_and(|info| match hook {
        // A directory's inode is 32 bits wide where the machine is; ids never repeat within them.
        Hook::Cgroup => {
            info.cgroup() == place.id || (usize::BITS == 32 && info.cgroup() as u32 == place.id as u32)
        }
        Hook::Netns => info.netns() == place.id,
    })
}

fn place_of_cgroup(path: &Path) -> Result<Place, Error> {
    let (file, id) = cgroup::open(path)?;
    Ok(Place { file, id })
}

fn place_of_netns() -> Result<Place, Error> {
    let attach = |source| Error::Attach { program: STEER, source };
    let file = fs::File::open(OWN_NETNS).map_err(attach)?;
    Ok(Place { id: own_netns().map_err(attach)?, file })
}

/// The number of this thread's network namespace.
pub(crate) fn own_netns() -> io::Result<u64> {
    fs::metadata(OWN_NETNS).map(|namespace| namespace.ino())
}

fn find<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = aya::programs::ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
    program.try_into().map_err(|error| failed(name, error))
}

fn failed(program: &'static str, error: aya::programs::ProgramError) -> Error {
    Error::Program { program, source: Box::new(error) }
}
