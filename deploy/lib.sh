# Shared by deploy/quickstart.sh and tests/run.sh: messages, what must be installed, and the build.
# shellcheck shell=bash

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=$repo/target
# One profile serves quickstart, tests and scenarios; BUILD_PROFILE=release is for what measures.
profile=${BUILD_PROFILE:-debug}
bin=$target/$profile

say() { printf '%s\n' "$*"; }
fail() {
  printf '\nfailed: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
  exit 1
}

# What `step` runs now: its process group, and the file of what it wrote.
step_group= step_log=

# step WHAT COMMAND…: runs the command and says how long it took; what it wrote is shown only if it fails.
# A function of the script runs in a fresh copy of the script (`__step`): bash would otherwise not stop at the
# first command of it that fails, since the caller looks at the result. It has a process group of its own
# (`set -m`), so that an interruption can end whatever it started (interrupted).
step() {
  local what=$1 started=$SECONDS failed=0
  shift
  declare -F "$1" >/dev/null && set -- "$BASH" "$0" __step "$@"
  step_log=$(mktemp "${TMPDIR:-/tmp}/edgeloom-step.XXXXXX")
  set -m
  "$@" >"$step_log" 2>&1 </dev/null &
  step_group=$!
  set +m
  while [ -t 1 ] && kill -0 "$step_group" 2>/dev/null; do
    printf '\r  %-62s%4d s' "$what" $((SECONDS - started))
    sleep 0.2
  done
  [ ! -t 1 ] || printf '\r'
  wait "$step_group" || failed=1
  step_group=
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

# What the script's user can do after an interruption; a script sets its own.
after_interruption="run it again: it goes on from what is there"

# interrupted SIGNAL: ends the running step with all that it started, says what to do next, and dies of the
# signal, as who waits for the script should see.
interrupted() {
  trap - INT TERM HUP EXIT
  if [ -n "$step_group" ]; then
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

# The user who called sudo; a build as root would leave files in target/ that they cannot write.
as_user() {
  if [ "$(id -u)" -eq 0 ] && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
    sudo -u "$SUDO_USER" -H env PATH="$(user_home)/.cargo/bin:$PATH" "$@"
  else
    env PATH="$(user_home)/.cargo/bin:$PATH" "$@"
  fi
}

user_home() {
  local user=${SUDO_USER:-}
  if [ "$(id -u)" -eq 0 ] && [ -n "$user" ]; then
    getent passwd "$user" | cut -d: -f6
  else
    printf '%s' "${HOME:-/root}"
  fi
}

# lacks PROGRAM: neither in PATH nor where root's programs are.
lacks() {
  ! PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$1" >/dev/null
}

# Packages to build with, and to run a lab with: of each only what is not there in whatever form.
build_packages() {
  lacks cc && echo gcc libc6-dev
  lacks make && echo make
  lacks clang && echo clang
  [ -e /usr/include/bpf/bpf_helpers.h ] || echo libbpf-dev
  lacks curl && echo curl ca-certificates
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
  lacks kubectl && apt_has kubernetes-client && echo kubernetes-client
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

# install_packages NAME…: by apt; says which.
install_packages() {
  [ $# -gt 0 ] || return 0
  [ "$(id -u)" -eq 0 ] || fail "missing packages: $*" "install them: sudo apt-get install $*"
  lacks apt-get && fail "missing: $*, and this machine has no apt-get" "install them in its own way and run this again"
  say "  installing by apt: $*"
  export DEBIAN_FRONTEND=noninteractive
  step "apt-get update" apt-get update -q || say "  (going on with the package lists that are here)"
  step "apt-get install" apt-get install -y -q --no-install-recommends "$@" \
    || fail "apt-get install $* did not succeed (above is what it said)"
}

# Names what brings kubectl where apt has none.
need_kubectl() {
  lacks kubectl || return 0
  local machine=amd64
  [ "$(uname -m)" = aarch64 ] && machine=arm64
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
    found=$(cd / && as_user "${cargo[@]}" --version 2>/dev/null | cut -d' ' -f2 | cut -d- -f1)
    if [ -n "$found" ] && [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -1)" = "$wanted" ]; then
      return 0
    fi
  done
  say "  no cargo of version $wanted or later: installing the stable toolchain with rustup (https://rustup.rs)"
  cargo=(cargo +stable)
  if as_user rustup --version >/dev/null 2>&1; then
    step "rustup toolchain install stable" as_user rustup toolchain install stable --profile minimal \
      || fail "rustup could not install a toolchain"
  else
    step "rustup" as_user sh -c 'curl --proto "=https" -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain stable' \
      || fail "rustup could not be installed" "install Rust $wanted or later by hand and run this again"
  fi
}

# build PACKAGE…: in the profile that tests and quickstart share, or BUILD_PROFILE. Shows cargo's own progress.
# BUILD=no takes what was built before.
build() {
  [ "${BUILD:-yes}" != no ] || return 0
  local started=$SECONDS arguments=() package
  [ "$profile" = debug ] || arguments=(--profile "$profile")
  for package in "$@"; do arguments+=(-p "$package"); done
  (cd "$repo" && as_user "${cargo[@]}" build --locked --target-dir "$target" "${arguments[@]}") \
    || fail "the build did not succeed (above is what cargo said)"
  printf '  %-62s%4d s\n' "built" $((SECONDS - started))
}
