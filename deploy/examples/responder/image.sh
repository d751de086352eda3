#!/usr/bin/env bash
# Packs the examples' images as OCI layouts in a tar file each, without a registry and without docker:
#   image.sh RESPONDER-BINARY DIRECTORY
# writes DIRECTORY/responder.tar (edgeloom.io/examples/responder:0.1) and DIRECTORY/pause.tar
# (edgeloom.io/pause:0.1, the container that holds a pod's namespaces).
set -euo pipefail

binary=$1
out=$2
case $(uname -m) in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  armv7l) architecture=arm ;;
  *) architecture=$(uname -m) ;;
esac
busybox=$(command -v busybox) || { echo "image.sh: busybox not found: apt-get install busybox-static" >&2; exit 1; }
curl=$(command -v curl) || { echo "image.sh: curl not found: apt-get install curl" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# add_program ROOT PROGRAM: copies a program to /bin with the libraries that it is linked with.
add_program() {
  local library
  install -D "$2" "$1/bin/$(basename "$2")"
  # A static program has none; then ldd ends with an error.
  for library in $(ldd "$2" 2>/dev/null | grep -o '/[^ ]*' || true); do
    [ -e "$1$library" ] || install -D "$library" "$1$library"
  done
}

add_busybox() {
  local applet
  # Debian's `busybox`, which initramfs-tools brings along, is linked with libc; busybox-static is not.
  add_program "$1" "$busybox"
  for applet in sh ls cat echo env sleep ps hostname id wc head tail grep find stat df true false test kill; do
    ln -s busybox "$1/bin/$applet"
  done
  mkdir -p "$1/etc" "$1/tmp"
  chmod 1777 "$1/tmp"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"
  echo 'root:x:0:' >"$1/etc/group"
}

# add_blob LAYOUT FILE: moves a file into the layout under its digest and prints `"digest":…,"size":…`.
add_blob() {
  local digest
  digest=$(sha256sum "$2" | cut -d' ' -f1)
  printf '"digest":"sha256:%s","size":%s' "$digest" "$(stat -c %s "$2")"
  mv "$2" "$1/blobs/sha256/$digest"
}

# pack NAME ROOT ENTRYPOINT FILE: makes an image with one layer of ROOT.
pack() {
  local name=$1 root=$2 entrypoint=$3 file=$4 layout=$work/layout diff layer config manifest
  rm -rf "$layout"
  mkdir -p "$layout/blobs/sha256"
  # The same input gives the same image.
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$root" -cf "$work/layer" .
  diff=$(sha256sum "$work/layer" | cut -d' ' -f1)
  layer=$(add_blob "$layout" "$work/layer")
  printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":%s,"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$architecture" "$entrypoint" "$diff" >"$work/config"
  config=$(add_blob "$layout" "$work/config")
  printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json",%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar",%s}]}' \
    "$config" "$layer" >"$work/manifest"
  manifest=$(add_blob "$layout" "$work/manifest")
  printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",%s,"annotations":{"io.containerd.image.name":"%s","org.opencontainers.image.ref.name":"%s"}}]}' \
    "$manifest" "$name" "${name##*:}" >"$layout/index.json"
  echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$layout" -cf "$file.new" .
  mv "$file.new" "$file"
}

mkdir -p "$out"
mkdir "$work/responder" "$work/pause"
add_busybox "$work/responder"
add_program "$work/responder" "$binary"
add_program "$work/responder" "$curl"
echo 'hosts: files dns' >"$work/responder/etc/nsswitch.conf"
pack edgeloom.io/examples/responder:0.1 "$work/responder" '["/bin/responder"]' "$out/responder.tar"

add_busybox "$work/pause"
pack edgeloom.io/pause:0.1 "$work/pause" '["/bin/sleep","100000000"]' "$out/pause.tar"
