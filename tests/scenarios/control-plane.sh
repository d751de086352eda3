#!/usr/bin/env bash
# A cluster's own control plane without a cluster: etcd, kube-apiserver, kube-controller-manager and
# kube-scheduler out of the folder KUBEBUILDER_ASSETS, over TLS, on https://ADDRESS:6443 of this host.
#   control-plane.sh DIRECTORY ADDRESS
# Keys, state and logs are in DIRECTORY; DIRECTORY/admin.conf is the administrator's kubeconfig.
set -euo pipefail

assets=${KUBEBUILDER_ASSETS:?a folder with etcd, kube-apiserver, kube-controller-manager and kube-scheduler}
mkdir -p "$1"
cd "$1"
address=$2
services=10.96.0.0/12,fd00:10:96::/108
pods=10.244.0.0/16,fd00:10:244::/48

new_key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key" 2>/dev/null \
  || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"; }

# issue NAME SUBJECT EXTENSIONS: a certificate of the cluster's CA.
issue() {
  new_key "$1"
  openssl req -new -key "$1.key" -subj "$2" \
    | openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" -extfile <(printf '%s\n' "$3")
}

# kubeconfig NAME: for a component that has a certificate.
kubeconfig() {
  cat >"$1.conf" <<YAML
apiVersion: v1
kind: Config
clusters: [{name: real, cluster: {server: "https://$address:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: real, context: {cluster: real, user: $1}}]
current-context: real
YAML
}

# run NAME COMMAND…: in the background, its output in a log.
run() {
  local name=$1
  shift
  setsid "$@" >"$name.log" 2>&1 </dev/null &
}

# until_true WHAT COMMAND…
until_true() {
  local what=$1
  shift
  for _ in $(seq 240); do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.25
  done
  echo "control-plane.sh: $what; logs in $PWD" >&2
  return 1
}

new_key ca
openssl req -x509 -new -key ca.key -subj /CN=cluster-ca -days 30 -out ca.crt
client='extendedKeyUsage=clientAuth'
issue serving /CN=kube-apiserver \
  "subjectAltName=IP:$address,IP:10.96.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
issue to-kubelets /O=system:masters/CN=kube-apiserver-to-kubelets "$client"
issue admin /O=system:masters/CN=admin "$client"
issue kube-controller-manager /CN=system:kube-controller-manager "$client"
issue kube-scheduler /CN=system:kube-scheduler "$client"
new_key tokens
openssl pkey -in tokens.key -pubout -out tokens.pub
for user in admin kube-controller-manager kube-scheduler; do kubeconfig "$user"; done

run etcd "$assets/etcd" --data-dir=etcd --unsafe-no-fsync \
  --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
  --listen-peer-urls=http://127.0.0.1:2380
run kube-apiserver "$assets/kube-apiserver" \
  --bind-address="$address" --secure-port=6443 --etcd-servers=http://127.0.0.1:2379 \
  --tls-cert-file=serving.crt --tls-private-key-file=serving.key --client-ca-file=ca.crt \
  --authorization-mode=Node,RBAC --allow-privileged=true --service-cluster-ip-range="$services" \
  --service-account-issuer=https://kubernetes.default.svc \
  --service-account-key-file=tokens.pub --service-account-signing-key-file=tokens.key \
  --kubelet-certificate-authority=ca.crt --kubelet-preferred-address-types=InternalIP \
  --kubelet-client-certificate=to-kubelets.crt --kubelet-client-key=to-kubelets.key
until_true "kube-apiserver does not get ready" kubectl --kubeconfig admin.conf get --raw /readyz
run kube-controller-manager "$assets/kube-controller-manager" \
  --kubeconfig=kube-controller-manager.conf --authentication-kubeconfig=kube-controller-manager.conf \
  --authorization-kubeconfig=kube-controller-manager.conf --bind-address=127.0.0.1 --leader-elect=false \
  --allocate-node-cidrs --cluster-cidr="$pods" --service-cluster-ip-range="$services" \
  --cluster-signing-cert-file=ca.crt --cluster-signing-key-file=ca.key --root-ca-file=ca.crt \
  --service-account-private-key-file=tokens.key --use-service-account-credentials
run kube-scheduler "$assets/kube-scheduler" \
  --kubeconfig=kube-scheduler.conf --authentication-kubeconfig=kube-scheduler.conf \
  --authorization-kubeconfig=kube-scheduler.conf --bind-address=127.0.0.1 --leader-elect=false
until_true "kube-controller-manager makes no service accounts" \
  kubectl --kubeconfig admin.conf get serviceaccount default
