#!/usr/bin/env bash
# Formatting, lints, unit tests, then the scenarios in a lab of network namespaces; ends with every promise
# and how it fared.
#
#   sudo tests/run.sh                all of it
#   tests/run.sh                     what needs no root; the list says what was left out
#   tests/run.sh --only NAME         only the promises whose names contain NAME, without the checks before
#   tests/run.sh --sabotage          breaks each mechanism once; every scenario that claims it must fail
#   tests/run.sh --list              the promises
#
# OFFLINE_SECONDS (360) is how long the cloud is gone in the scenario of its absence.
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../deploy/lib.sh"

usage() { sed -n '2,12s/^# \{0,1\}//p' "$0"; }

[ "${1:-}" != __step ] || { shift; "$@"; exit; }

checks=1
list=0
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --only) [ $# -gt 1 ] || fail "--only wants a name"; checks=0; arguments+=(--only "$2"); shift ;;
    --sabotage) checks=0; arguments+=("$1") ;;
    --list) checks=0; list=1; arguments+=("$1") ;;
    --keep) arguments+=("$1") ;;
    -h | --help) usage; exit 0 ;;
    *) printf 'no option %s\n\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done

cd "$repo"
if [ $list -eq 1 ] || [ "$(id -u)" -ne 0 ]; then
  # shellcheck disable=SC2046 # one word a package
  install_packages $(build_packages)
fi
if [ $list -eq 1 ]; then
  find_cargo
  build edgeloom-scenarios >&2
  exec "$bin/scenarios" "${arguments[@]}"
fi
if [ "$(id -u)" -eq 0 ]; then
  # shellcheck disable=SC2046 # one word a package
  install_packages $(build_packages) $(lab_packages) $(test_packages)
  need_kubectl
fi
find_cargo
[ $checks -eq 0 ] || need_components

# check NAME COMMAND…: goes on when it fails; the list at the end says so.
check() {
  local name=$1 started=$SECONDS
  shift
  printf '\n%s: %s\n' "$name" "$*"
  if shown as_user "$@"; then
    arguments+=(--also "$name=passed")
  else
    arguments+=(--also "$name=failed")
  fi
  printf '  %d s\n' $((SECONDS - started))
}

if [ $checks -eq 1 ]; then
  check formatted "${cargo[@]}" fmt --all --check
  check lints "${cargo[@]}" clippy --locked --workspace --all-targets --quiet --target-dir "$target" -- -D warnings
  check unit-tests "${cargo[@]}" test --locked --workspace --no-fail-fast --quiet --target-dir "$target"
fi
build edgeloom-scenarios edgeloom-lab edgeloom-fuzz edgeloom-matrix edgeloom-strangers responder edgeloom-control edgecore meshctl
exec "$bin/scenarios" --repository "$repo" "${arguments[@]}"
