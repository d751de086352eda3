# Shared by deploy/quickstart.sh and tests/run.sh: messages, what must be installed, and the build.
# shellcheck shell=bash

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=$repo/target
# One profile serves quickstart, tests and scenarios; BUILD_PROFILE=release is for what measures.
profile=${BUILD_PROFILE:-debug}
bin=$target/$profile
# The script that this is part of, wherever it goes (step).
script=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")

say() { printf '%s\n' "$*"; }
fail() {
  printf '\nfailed: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
  exit 1
}

# What runs now: its process group, the file of what it wrote, and whether it must not be cut short.
step_group="" step_log="" step_whole=""

# begin COMMAND…, then ended: runs it in a process group of its own (`set -m`), so that an interruption can end
# whatever it started (interrupted). For a command in the foreground bash would learn of a Ctrl-C only where the
# command itself dies of it.
begin() {
  set -m
  "$@" &
  step_group=$!
  set +m
}
ended() {
  local failed=0
  wait "$step_group" || failed=1
  step_group=
  return $failed
}

# shown COMMAND…: runs it with what it writes on the terminal.
shown() {
  begin "$@" </dev/null
  ended
}

# step WHAT COMMAND…: runs the command and says how long it took; what it wrote is shown only if it fails.
# A function of the script runs in a fresh copy of the script (`__step`): bash would otherwise not stop at the
# first command of it that fails, since the caller looks at the result.
step() {
  local what=$1 started=$SECONDS failed=0
  shift
  declare -F "$1" >/dev/null && set -- "$BASH" "$script" __step "$@"
  step_log=$(mktemp "${TMPDIR:-/tmp}/edgeloom-step.XXXXXX")
  begin "$@" >"$step_log" 2>&1 </dev/null
  while [ -t 1 ] && kill -0 "$step_group" 2>/dev/null; do
    printf '\r  %-62s%4d s' "$what" $((SECONDS - started))
    sleep 0.2
  done
  [ ! -t 1 ] || printf '\r'
  ended || failed=1
  if [ $failed -eq 0 ]; then
    printf '  %-62s%4d s\n' "$what" $((SECONDS - started))
  else
    printf '  %-62s failed after %d s\n\n' "$what" $((SECONDS - started))
    tail -n 25 "$step_log" >&2
  fi
  rm -f "$step_log"
  step_log=
  return $failed
}

# whole_step WHAT COMMAND…: a step for whose end an interruption waits.
whole_step() {
  local step_whole=yes
  step "$@"
}

# What the script's user can do after an interruption; a script sets its own.
after_interruption="run it again: it goes on from what is there"

# interrupted SIGNAL: ends the running step with all that it started, says what to do next, and dies of the
# signal, as who waits for the script should see.
interrupted() {
  trap - INT TERM HUP EXIT
  if [ -n "$step_group" ] && [ -n "$step_whole" ]; then
    printf '\ninterrupted; what is being installed is waited for: half of it would stand in the way later\n' >&2
    wait "$step_group" 2>/dev/null || true
  elif [ -n "$step_group" ]; then
    kill -TERM -- "-$step_group" 2>/dev/null || true
    wait "$step_group" 2>/dev/null || true
  fi
  [ -z "$step_log" ] || rm -f "$step_log"
  printf '\ninterrupted; %s\n' "$after_interruption" >&2
  kill -s "$1" $$
}

# leaving: an end by other means than these leaves no file either.
leaving() { [ -z "$step_log" ] || rm -f "$step_log"; }

for signal in INT TERM HUP; do
  # shellcheck disable=SC2064 # the signal's name is meant as it is now
  trap "interrupted $signal" "$signal"
done
trap leaving EXIT

# As the user who called sudo: a build as root would leave files in target/ that they cannot write. Not by sudo again,
# whose own terminal would keep a Ctrl-C from this script.
as_user() {
  local user=${SUDO_USER:-root} home
  home=$(user_home)
  set -- env PATH="$home/.cargo/bin:$PATH" "$@"
  if [ "$(id -u)" -eq 0 ] && [ "$user" != root ]; then
    set -- setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups env HOME="$home" USER="$user" LOGNAME="$user" "$@"
  fi
  "$@"
}

user_home() {
  local user=${SUDO_USER:-}
  if [ "$(id -u)" -eq 0 ] && [ -n "$user" ]; then
    getent passwd "$user" | cut -d: -f6
  else
    printf '%s' "${HOME:-/root}"
  fi
}

# lacks PROGRAM: neither in PATH nor where root's programs are. (A function of that name is not the program.)
lacks() {
  ! PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin type -P "$1" >/dev/null
}

# Packages to build with, and to run a lab with: of each only what is not there in whatever form. `maybe:` stands
# before one that not every distribution has.
build_packages() {
  lacks cc && echo gcc libc6-dev
  lacks make && echo make
  lacks clang && echo clang
  [ -e /usr/include/bpf/bpf_helpers.h ] || echo libbpf-dev
  lacks curl && echo curl
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  return 0
}
lab_packages() {
  lacks containerd && echo containerd
  lacks runc && echo runc
  no_cni && echo containernetworking-plugins
  lacks ip && echo iproute2
  lacks nft && echo nftables
  lacks conntrack && echo conntrack
  lacks busybox && echo busybox-static
  lacks kubectl && echo maybe:kubernetes-client
  return 0
}
test_packages() {
  lacks tcpdump && echo tcpdump
  return 0
}
no_cni() {
  local directory
  for directory in /usr/lib/cni /opt/cni/bin /usr/libexec/cni; do
    [ -x "$directory/bridge" ] && return 1
  done
  return 0
}
apt_has() {
  apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [0-9]'
}

apt_get() { apt-get -q -o DPkg::Lock::Timeout=300 "$@"; }

# apt waits for nobody who fetches the lists as well, as a machine does by itself after its first start.
update_lists() {
  local said until=$((SECONDS + 300))
  until said=$(LC_ALL=C apt_get -o APT::Update::Error-Mode=any update 2>&1); do
    case $said in *"Could not get lock"*) [ $SECONDS -ge $until ] || { sleep 2; continue; } ;; esac
    printf '%s\n' "$said"
    return 1
  done
}

# install_packages NAME…: by apt; says which. Another apt at work is waited for.
install_packages() {
  [ $# -gt 0 ] || return 0
  local name wanted=() old_lists=()
  [ "$(id -u)" -eq 0 ] || fail "missing packages: ${*#maybe:}" "install them: sudo apt-get install ${*#maybe:}"
  lacks apt-get && fail "missing: ${*#maybe:}, and this machine has no apt-get" "install them in its own way and run this again"
  export DEBIAN_FRONTEND=noninteractive
  if ! step "apt-get update" update_lists; then
    say "  (going on with the package lists that are here)"
    old_lists=("apt-get update failed before: does this machine reach the mirrors in /etc/apt/sources.list and sources.list.d?")
  fi
  # What apt has is known only now: a fresh machine may have had no lists at all.
  for name in "$@"; do
    case $name in
      maybe:*) ! apt_has "${name#maybe:}" || wanted+=("${name#maybe:}") ;;
      *) wanted+=("$name") ;;
    esac
  done
  [ ${#wanted[@]} -gt 0 ] || return 0
  say "  installing by apt: ${wanted[*]}"
  if ! step "apt-get install: fetching" apt_get install -y --no-install-recommends --download-only "${wanted[@]}" \
    || ! whole_step "apt-get install" apt_get install -y --no-install-recommends "${wanted[@]}"; then
    fail "apt-get install ${wanted[*]} did not succeed (above is what it said)" "${old_lists[@]}" \
      "once these packages are there, by whatever means, run this again"
  fi
}

# Names what brings kubectl where apt has none.
need_kubectl() {
  lacks kubectl || return 0
  local machine=amd64
  [ "$(uname -m)" != aarch64 ] || machine=arm64
  fail "kubectl is not installed, and apt has no package of it here" \
    "get it with:" \
    "  sudo curl -fLo /usr/local/bin/kubectl https://dl.k8s.io/release/v1.34.4/bin/linux/$machine/kubectl" \
    "  sudo chmod +x /usr/local/bin/kubectl" \
    "and run this again"
}

# Sets the array `cargo`: the first that is recent enough, else one that rustup brings.
find_cargo() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repo/Cargo.toml")
  for cargo in cargo "cargo +stable"; do
    # shellcheck disable=SC2206 # the second is two words
    cargo=($cargo)
    found=$(cargo_version) || continue
    if [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -1)" = "$wanted" ]; then
      return 0
    fi
  done
  say "  no cargo of version $wanted or later: installing the stable toolchain with rustup (https://rustup.rs)"
  if as_user rustup --version >/dev/null 2>&1; then
    step "rustup toolchain install stable" \
      as_user rustup toolchain install stable --profile minimal --no-self-update \
      || fail "rustup could not install a toolchain (above is what it said)"
  else
    step "rustup for $(as_user id -un)" install_rustup \
      || fail "rustup could not be installed (above is what it said)" \
        "install Rust $wanted or later by hand and run this again"
  fi
}

# The version of `cargo`. A rustup that lacks the toolchain is not to fetch it here, unsaid.
cargo_version() {
  (cd / && as_user env RUSTUP_AUTO_INSTALL=0 "${cargo[@]}" --version 2>/dev/null) | cut -d' ' -f2 | cut -d- -f1
}

# Rust's installer itself: the script at https://sh.rustup.rs would choose the same file, and look at no checksum.
install_rustup() {
  local machine
  machine=$(uname -m)
  case $machine in
    x86_64 | aarch64) ;;
    *) echo "which installer a $machine needs is not known here: see https://rustup.rs"; return 1 ;;
  esac
  # shellcheck disable=SC2016 # the user's shell expands it
  as_user sh -euc '
    directory=$(mktemp -d)
    trap "rm -rf $directory" EXIT
    trap "exit 1" INT TERM HUP
    cd "$directory"
    fetch() { curl --proto "=https" --tlsv1.2 --retry 3 -fsSLO "https://static.rust-lang.org/rustup/dist/$1/$2"; }
    fetch "$1" rustup-init
    fetch "$1" rustup-init.sha256
    echo "$(cut -c -64 rustup-init.sha256)  rustup-init" | sha256sum -c
    chmod +x rustup-init
    ./rustup-init -y --profile minimal --default-toolchain stable
  ' sh "$machine-unknown-linux-gnu"
}

# What formats and lints: a minimal toolchain has neither.
need_components() {
  local toolchain=()
  ! as_user "${cargo[@]}" fmt --version >/dev/null 2>&1 || ! as_user "${cargo[@]}" clippy --version >/dev/null 2>&1 \
    || return 0
  # Without rustup the checks themselves say what is missing.
  as_user rustup --version >/dev/null 2>&1 || return 0
  [ ${#cargo[@]} -eq 1 ] || toolchain=(--toolchain "${cargo[1]#+}")
  step "rustup component add rustfmt clippy" as_user rustup component add rustfmt clippy "${toolchain[@]}" \
    || fail "rustup could not bring rustfmt and clippy (above is what it said)"
}

# build PACKAGE…: in the profile that tests and quickstart share, or BUILD_PROFILE. Shows cargo's own progress.
# BUILD=no takes what was built before.
build() {
  [ "${BUILD:-yes}" != no ] || return 0
  local started=$SECONDS arguments=() package
  [ "$profile" = debug ] || arguments=(--profile "$profile")
  for package in "$@"; do arguments+=(-p "$package"); done
  shown as_user env -C "$repo" "${cargo[@]}" build --locked --target-dir "$target" "${arguments[@]}" \
    || fail "the build did not succeed (above is what cargo said)"
  printf '  %-62s%4d s\n' "built" $((SECONDS - started))
}
