#!/usr/bin/env bash
# A working Edgeloom on one machine: a cloud host and two edge sites behind two NATs, in network namespaces,
# with real containerd and real containers. See README.md beside examples/ for what to do with it.
#
#   sudo deploy/quickstart.sh [up]     brings it up, or makes it whole; shows a call across sites
#   sudo deploy/quickstart.sh down     removes everything
#   sudo deploy/quickstart.sh lab      brings up the hosts and NATs alone, with nothing running in them
#   sudo deploy/quickstart.sh status   says what runs
#   eval "$(sudo deploy/quickstart.sh env)"   kubectl and meshctl for it, in this shell
#
# NAT=symmetric makes both NATs symmetric (others: cone, restricted, port-restricted).
# TOPOLOGY=FILE takes another arrangement of the same hosts and NATs, as `lab topology` prints it: with a WAN.
# CONTROL_PLANE=FILE takes the cluster of that kubeconfig in place of the embedded API; the cloud host must
# reach its API server, and the API server the cloud host (one in the cloud host itself does: bring the `lab`
# up first, and start it with target/debug/lab --name quickstart exec cloud -- COMMAND).
set -euo pipefail
# shellcheck source=deploy/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

name=${LAB_NAME:-quickstart}
root=/var/lib/edgeloom-lab
state=$root/$name
logs=$state/logs
admin_conf=$state/admin.conf
edges=(edge-a edge-b)
examples=$repo/deploy/examples
packages=(edgeloom-lab responder edgeloom-control edgecore meshctl)

lab() { "$bin/lab" --root "$root" --name "$name" "$@"; }
kubectl() { command kubectl --kubeconfig "$admin_conf" "$@"; }
meshctl() { MESHCTL_CONTROL=$(lab address cloud) "$bin/meshctl" --kubeconfig "$admin_conf" "$@"; }
after_interruption="run it again: it goes on from what is there; or take it down: sudo $0 down"
site_of() { printf 'site-%s' "${1#edge-}"; }

usage() { sed -n '2,16s/^# \{0,1\}//p' "$0"; }

need_root() {
  [ "$(id -u)" -eq 0 ] || fail "this needs root (network namespaces, mounts, cgroups)" "run: sudo $0 ${1:-up}"
}

# What a lab host hides behind directories of its own must not hold the programs that run in it.
check_place() {
  case $repo in
    /var/lib/* | /var/log/* | /run/* | /etc/*)
      fail "the repository is in $repo, which the lab's hosts cannot see" "move it, to /home or /opt for instance" ;;
  esac
}

# Before anything is built or brought up.
check_control_plane() {
  [ -n "${CONTROL_PLANE:-}" ] || return 0
  [ -f "$CONTROL_PLANE" ] && [ -r "$CONTROL_PLANE" ] \
    || fail "CONTROL_PLANE=$CONTROL_PLANE: there is no such file to read" "give the path of a kubeconfig of your cluster"
}

install_missing() {
  # shellcheck disable=SC2046 # one word a package
  install_packages $(build_packages) $(lab_packages)
  need_kubectl
  find_cargo
}

bring_lab_up() {
  local arguments=() kinds
  [ -z "${TOPOLOGY:-}" ] || arguments=(--topology "$TOPOLOGY")
  if [ -n "${NAT:-}" ]; then
    arguments+=(--nat "$NAT")
  elif kinds=$(lab status 2>/dev/null | grep -oE '"nat-[a-z]+": "[a-z-]+"') && grep -qv '"eim-apdf-kept"' <<<"$kinds"; then
    say "  without NAT= both NATs become port-restricted again"
  fi
  step "cloud host, two sites, two NATs" lab up "${arguments[@]}" || fail "the lab did not come up"
  chmod 755 "$root" "$state"
  mkdir -p "$logs"
}

# running HOST PROGRAM: whether it runs there, and is the one that was built last.
running() {
  local pid
  for pid in $(lab pids "$1" "$2"); do
    case $(readlink "/proc/$pid/exe" 2>/dev/null) in
      "" | *" (deleted)") lab fault signal "$1" "$2" KILL; return 1 ;;
      *) lab fault signal "$1" "$2" CONT; return 0 ;;
    esac
  done
  return 1
}

# start HOST PROGRAM ARGUMENT…: unless it runs.
start() {
  local host=$1 program=$2
  shift 2
  running "$host" "$program" && return 0
  lab exec -d --log "$logs/$host-$program.log" --pidfile "$logs/$host-$program.pid" "$host" -- "$bin/$program" "$@"
}

# wait_for SECONDS HOST PROGRAM COMMAND…: until the command succeeds; not longer than its program lives.
wait_for() {
  local deadline=$((SECONDS + $1)) host=$2 program=$3 missed=0
  shift 3
  until "$@" >/dev/null 2>&1; do
    # One that was just started may not have its name yet: missed three times in a row it has ended.
    if [ -z "$program" ] || [ -n "$(lab pids "$host" "$program")" ]; then missed=0; else missed=$((missed + 1)); fi
    if [ $missed -ge 3 ]; then
      echo "$program on $host has ended; the end of $logs/$host-$program.log:"
      tail -n 20 "$logs/$host-$program.log"
      return 1
    fi
    if [ $SECONDS -ge $deadline ]; then
      echo "still not so: $*"
      [ -z "$program" ] || tail -n 20 "$logs/$host-$program.log"
      return 1
    fi
    sleep 0.3
  done
}

write_control_config() {
  local config
  config=$(lab path cloud /etc/edgeloom/control.yaml)
  cat >"$config" <<YAML
# Where edge nodes and the API server reach this host.
addresses: [203.0.113.10, "2001:db8:113::10"]
# The link to the machine's own namespace, for kubectl and meshctl there.
names: [$(lab address cloud)]
# For nodes from which only HTTPS leads outside.
overlay:
  websocket: "[::]:443"
YAML
  if [ -n "${CONTROL_PLANE:-}" ]; then
    install -m 600 "$CONTROL_PLANE" "$(lab path cloud /etc/edgeloom/kubeconfig)"
    echo "kubeconfig: /etc/edgeloom/kubeconfig" >>"$config"
  fi
}

start_control() {
  write_control_config
  if [ -n "${CONTROL_PLANE:-}" ]; then
    install -m 600 "$CONTROL_PLANE" "$admin_conf"
    lab exec cloud -- "$bin/edgeloom-control" install --config /etc/edgeloom/control.yaml
  fi
  start cloud edgeloom-control --config /etc/edgeloom/control.yaml
  [ -n "${CONTROL_PLANE:-}" ] || wait_for 60 cloud edgeloom-control copy_admin_conf
  wait_for 60 cloud edgeloom-control kubectl get --raw /readyz
  wait_for 60 cloud edgeloom-control meshctl token list
}

# The control's own admin kubeconfig, with the address at which the machine reaches the API.
copy_admin_conf() {
  local theirs
  theirs=$(lab path cloud /var/lib/edgeloom/control/admin.conf)
  [ -s "$theirs" ] || return 1
  sed "s#server: .*#server: https://$(lab address cloud):6443#" "$theirs" >"$admin_conf.new"
  chmod 600 "$admin_conf.new"
  mv "$admin_conf.new" "$admin_conf"
}

start_edge() {
  local edge=$1 config
  lab containerd "$edge" --image "$state/images/pause.tar" --image "$state/images/responder.tar"
  config=$(lab path "$edge" /etc/edgeloom/edgecore.yaml)
  [ -s "$config" ] || write_edge_config "$edge" "$config"
  start "$edge" edgecore --config /etc/edgeloom/edgecore.yaml
}

# The token is good for one join; a node that has joined does not look at it again.
write_edge_config() {
  local edge=$1 config=$2 token cgroup=/sys/fs/cgroup
  token=$(meshctl token create --site "$(site_of "$edge")" --quiet)
  [ -e /sys/fs/cgroup/cgroup.procs ] || cgroup=/sys/fs/cgroup/unified
  (umask 077 && cat >"$config.new") <<YAML
node: $edge
control:
  addresses: ["203.0.113.10:20006"]
  token: "$token"
mesh:
  # The root of this host's own tree; the machine's is everybody's.
  cgroup: $cgroup
YAML
  mv "$config.new" "$config"
}

ready() {
  [ "$(kubectl get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]
}

pack_images() {
  [ "$state/images/responder.tar" -nt "$bin/responder" ] \
    || "$examples/responder/image.sh" "$bin/responder" "$state/images"
}

apply_example() {
  kubectl apply -f "$examples/shop/"
  local deployment
  for deployment in orders client; do
    if ! kubectl -n shop rollout status "deployment/$deployment" --timeout=90s; then
      kubectl -n shop get pods -o wide
      kubectl -n shop get events --sort-by=.lastTimestamp | tail -n 8
      kubectl get nodes -o 'custom-columns=NODE:.metadata.name,TAINTS:.spec.taints[*].key'
      return 1
    fi
  done
}

call() {
  kubectl -n shop exec deployment/client -- curl -sS --max-time 5 "http://orders.shop.svc.cluster.local"
}

up() {
  local started=$SECONDS edge
  need_root up
  check_place
  check_control_plane
  say "Edgeloom on this machine"
  install_missing
  build "${packages[@]}"
  bring_lab_up
  step "control with $([ -n "${CONTROL_PLANE:-}" ] && echo "the cluster given" || echo "its embedded Kubernetes API")" start_control || fail "the control did not start" "log: $logs/cloud-edgeloom-control.log"
  mkdir -p "$state/images"
  step "example image" pack_images || fail "the example's image could not be packed"
  for edge in "${edges[@]}"; do
    step "$edge at $(site_of "$edge"): containerd, edgecore" start_edge "$edge" \
      || fail "$edge did not start" "logs: $logs/$edge-edgecore.log, $(lab path "$edge" /var/log/containerd.log)"
  done
  for edge in "${edges[@]}"; do
    step "$edge is Ready" wait_for 60 "$edge" edgecore ready "$edge" \
      || fail "$edge does not become Ready" "log: $logs/$edge-edgecore.log" "try: kubectl --kubeconfig $admin_conf describe node $edge"
  done
  step "kubectl apply -f deploy/examples/shop/" apply_example \
    || fail "the example's pods do not run" "try: kubectl --kubeconfig $admin_conf -n shop get pods -o wide" "logs: $logs"
  step "a pod at site A calls orders, whose pods run at site B" wait_for 30 edge-a edgecore call \
    || fail "the call across sites does not succeed" "logs: $logs"
  say ""
  say "\$ kubectl -n shop exec deployment/client -- curl -s http://orders.shop.svc.cluster.local"
  call
  say ""
  say "\$ meshctl status"
  meshctl status
  say ""
  say "\$ meshctl peers"
  meshctl peers
  say ""
  say "Up after $((SECONDS - started)) s. Logs: $logs"
  next
}

lab_only() {
  need_root lab
  check_place
  install_missing
  build edgeloom-lab
  bring_lab_up
  say "The cloud host is $(lab address cloud) for this machine (TCP 6443 and 20007)."
}

next() {
  # What was given to this run, where later ones need it too.
  local own=${LAB_NAME:+LAB_NAME=$(printf %q "$LAB_NAME") }
  printf '\nTry next:\n'
  printf "  %-$((46 + ${#own}))s # %s\n" \
    "eval \"\$(sudo ${own}deploy/quickstart.sh env)\"" "kubectl and meshctl in this shell" \
    "kubectl get nodes -o wide" "" \
    "kubectl -n shop get pods -o wide" "" \
    "kubectl -n shop logs deployment/orders" "" \
    "kubectl -n shop exec -it deployment/client -- sh" "" \
    "meshctl trace edge-b --from edge-a" "every way to it, and why the path is what it is" \
    "sudo ${own}NAT=symmetric deploy/quickstart.sh" "the same through the relay" \
    "sudo ${own}deploy/quickstart.sh down" "removes everything" | sed 's/ *# $//'
}

down() {
  need_root down
  if [ ! -x "$bin/lab" ]; then
    # As after an interruption of the first build.
    [ -e "$state" ] || { say "There is nothing to remove."; return; }
    install_missing
    build edgeloom-lab
  fi
  step "removing the lab" lab down || fail "something of the lab is left (above is what)"
}

status() {
  need_root status
  [ -s "$admin_conf" ] || fail "it is not up" "run: sudo deploy/quickstart.sh"
  local host program all=0
  for host in cloud "${edges[@]}"; do
    for program in edgeloom-control containerd edgecore; do
      case $host/$program in cloud/containerd | cloud/edgecore | edge-*/edgeloom-control) continue ;; esac
      if [ -n "$(lab pids "$host" "$program")" ]; then
        say "$host: $program runs"
      else
        say "$host: $program does not run; log: $logs/$host-$program.log"
        all=1
      fi
    done
  done
  kubectl get nodes -o wide && meshctl status || all=1
  return $all
}

environment() {
  local conf=$admin_conf
  need_root env
  [ -s "$admin_conf" ] || fail "it is not up" "run: sudo deploy/quickstart.sh"
  # A private key: whoever called sudo gets a copy of their own. kubectl makes a lock beside the file that it
  # changes (config set-context), so the directory is theirs too.
  if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
    conf=$state/kube-$SUDO_USER/config
    install -d -m 700 -o "$SUDO_USER" "$state/kube-$SUDO_USER"
    [ "$conf" -nt "$admin_conf" ] || install -m 600 -o "$SUDO_USER" "$admin_conf" "$conf"
  fi
  echo "export KUBECONFIG=$conf MESHCTL_CONTROL=$(lab address cloud)"
  echo "export PATH=$bin:\$PATH"
}

case ${1:-up} in
  up) up ;;
  down) down ;;
  lab) lab_only ;;
  status) status ;;
  env) environment ;;
  __step) shift; "$@" ;;
  help | -h | --help) usage ;;
  *) usage >&2; exit 2 ;;
esac
