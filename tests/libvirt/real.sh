#!/bin/bash
# Holds the client, and the double's refusals, against a real libvirtd: starts two in namespaces of their own (root's, and
# an unprivileged user's), makes the domains of domains/ without starting their vCPUs, runs the ignored tests of real.rs,
# and takes it all down again. Needs root, libvirtd, virsh and qemu-system-x86_64; a minute.
# VHU_LIBVIRT_CATALOGUE names a catalogue of libvirt's messages (a .mo file, made for this libvirt): the daemons speak that
# language then.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

pod() { # the first process of the "pod": mounts, daemons, and reaping of what they leave
  local dir=$1 auth=$2
  mount --make-rprivate /
  for at in /run /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt; do
    mkdir -p "$at" && mount -t tmpfs tmpfs "$at"
  done
  mount -t proc proc /proc
  # libvirt's probe of a KVM that cannot run guests takes over a minute.
  if [ -e /dev/kvm ]; then mount --bind /dev/null /dev/kvm; fi
  if [ -n "${VHU_LIBVIRT_CATALOGUE-}" ]; then
    mount -t tmpfs tmpfs /usr/share/locale
    mkdir -p /usr/share/locale/de/LC_MESSAGES
    cp "$VHU_LIBVIRT_CATALOGUE" /usr/share/locale/de/LC_MESSAGES/libvirt.mo
    export LC_ALL=C.UTF-8 LANGUAGE=de
  fi
  mkdir -p /run/lock /run/session /var/lib/libvirt/qemu
  printf '%s\n' 'user = "root"' 'group = "root"' 'security_driver = "none"' 'namespaces = []' 'cgroup_controllers = []' >/etc/libvirt/qemu.conf
  printf 'auth_unix_rw = "%s"\n' "$auth" >/etc/libvirt/libvirtd.conf
  chown nobody /run/session
  ip link set lo up
  virtlogd -d
  libvirtd >"$dir/libvirtd.$auth.log" 2>&1 &
  if [ "$auth" = none ]; then
    env -i PATH="$PATH" LC_ALL="${LC_ALL-}" LANGUAGE="${LANGUAGE-}" HOME=/run/session XDG_RUNTIME_DIR=/run/session setpriv --reuid=nobody --regid=nogroup --clear-groups \
      libvirtd >"$dir/session.log" 2>&1 &
  fi
  while true; do wait -n || true; sleep 0.2; done
}

if [ "${1-}" = pod ]; then
  pod "$2" "$3"
fi

for tool in libvirtd virtlogd virsh qemu-system-x86_64 unshare setpriv; do
  command -v "$tool" >/dev/null || { echo "real.sh: $tool is not installed; nothing was tested" >&2; exit 1; }
done
if [ "$(id -u)" != 0 ]; then
  echo "real.sh: only root can make the namespaces; nothing was tested" >&2
  exit 1
fi
dir=$(mktemp -d /tmp/vhu-real.XXXXXX)
pods=()
down() {
  # The first process of a pid namespace takes all the others with it.
  for pid in "${pods[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap down EXIT

up() { # starts a pod; its root directory as seen from here
  unshare --mount --net --pid --fork --kill-child "$here/real.sh" pod "$dir" "$1" &
  pods+=($!)
  local child=
  for _ in $(seq 100); do
    child=$(ps -o pid= --ppid $! | tr -d ' ') && [ -n "$child" ] && break
    sleep 0.1
  done
  if [ -z "$child" ]; then
    echo "real.sh: the namespaces could not be made" >&2
    exit 1
  fi
  root=/proc/$child/root
  for _ in $(seq 200); do
    [ -S "$root/run/libvirt/libvirt-sock" ] && return
    sleep 0.1
  done
  echo "real.sh: libvirtd ($1) did not start:" >&2
  cat "$dir/libvirtd.$1.log" >&2
  exit 1
}

up sasl
export VHU_LIBVIRT_SASL_SOCKET=$root/run/libvirt/libvirt-sock
up none
export VHU_LIBVIRT_SOCKET=$root/run/libvirt/libvirt-sock VHU_LIBVIRT_SESSION_SOCKET=$root/run/session/libvirt/libvirt-sock
export VHU_LIBVIRT_DIR=$dir
for domain in plain unshared portless; do
  timeout --verbose 120 virsh -q -c "qemu+unix:///system?socket=$VHU_LIBVIRT_SOCKET" create --paused "$here/domains/$domain.xml"
done
timeout --verbose 120 virsh -q -c "qemu+unix:///system?socket=$VHU_LIBVIRT_SOCKET" define "$here/domains/stored.xml"
cd "$here/../.."
cargo test --locked --test libvirt real:: -- --ignored --nocapture --test-threads=1
