# shellcheck shell=bash
# What runs in a pod's containers. Sourced by ../lab; each *_main is the first process of its namespaces.

ROOT=/run/lab-root
QEMU_UID=107
QEMU_HOME=/run/kubevirt-private
# Where a libvirt keeps what it found out about QEMU, the system's and a user's.
SYSTEM_CAPABILITIES=/var/cache/libvirt/qemu/capabilities
SESSION_CAPABILITIES=$QEMU_HOME/.cache/libvirt/qemu/cache/capabilities

pause_main() {
    pod_load "$1"
    hostname "$NAME"
    container_root
    enter_root
    exec sleep infinity
}

container_main() {
    pod_load "$1"
    hostname "$NAME"
    if [ "$LIBVIRT" = 12 ]; then container_root "$LIBVIRT_12"; else container_root; fi
    [ -z "${VOLUME:-}" ] || container_mount "$VOLUME" "$SOCKETS"
    [ "$SESSION" = no ] || container_mount "$VOLUMES/libvirt-runtime" /run/libvirt
    # No virt-launcher image has it, and libvirt would ask it for the port's name.
    rm -f "$ROOT/usr/bin/ovs-vsctl"
    [ "$LIBVIRT" != 9 ] || libvirt_9_files
    enter_root
    container_work
}

# In a container that containerd has made.
launcher_main() {
    pod_load "$1"
    container_work
}

container_work() {
    mkdir -p /run/lab
    if [ "$DAEMON" = yes ]; then
        if [ "$SESSION" = yes ]; then
            session_daemons
        else
            system_daemons
        fi
    fi
    : >"$POD/ready"
    reap_for_ever
}

# container_root [TREE]: a root like an image's, with the files of the tree, or of the machine, below; what is written is
# kept apart, in memory. Nothing of the node's /run, /dev or kubelet directory is seen from there.
container_root() {
    root_over "${1:-/}"
    mkdir -p "$ROOT$LAB_HOME"
    mount --bind "$LAB_HOME" "$ROOT$LAB_HOME"
    mount -t proc proc "$ROOT/proc"
    mount -t sysfs -o ro sysfs "$ROOT/sys"
    make_devices "$ROOT/dev" container-dev
    mount -t tmpfs -o mode=755 container-run "$ROOT/run"
    mount -t tmpfs -o mode=1777 container-tmp "$ROOT/tmp"
}

# root_over LOWER: makes a root at $ROOT, and moves $ROOT there: the files below LOWER, with $LAB_DIR in it.
root_over() {
    mkdir -p "$ROOT"
    # In this mount namespace only, so that every container may use the same name.
    mount -t tmpfs -o mode=755 container "$ROOT"
    mkdir "$ROOT"/{files,work,root}
    mount -t overlay -o "lowerdir=$1,upperdir=$ROOT/files,workdir=$ROOT/work" overlay "$ROOT/root"
    ROOT=$ROOT/root
    mkdir -p "$ROOT$LAB_DIR"
    mount --bind "$LAB_DIR" "$ROOT$LAB_DIR"
}

container_mount() {
    mkdir -p "$ROOT$2"
    mount --bind "$1" "$ROOT$2"
}

enter_root() {
    cd "$ROOT"
    # The old root is stacked on the new one, and goes with everything below it.
    pivot_root . .
    umount -l .
    cd /
}

# libvirt 9's files in the place of the installed ones, in the container's own root.
libvirt_9_files() {
    local libraries
    libraries=$(cd "$LIBVIRT_9" && find usr/lib -maxdepth 2 -name 'libvirt.so.0' -printf '%h')
    rm -rf "${ROOT:?}/$libraries"/libvirt* "$ROOT/usr/share/libvirt"
    cp -a "$LIBVIRT_9/usr/." "$ROOT/usr/"
}

# As the pod's root: qemu:///system.
system_daemons() {
    mkdir -p /etc/libvirt /var/log/libvirt /run/libvirt
    daemon_settings /etc/libvirt root
    cache_at "$SYSTEM_CAPABILITIES" root
    virtlogd >>"$POD_LOG" 2>&1 &
    libvirtd --config /etc/libvirt/libvirtd.conf >>"$POD_LOG" 2>&1 &
    wait_for 110 "libvirt's socket" libvirt_answers "$LIBVIRT_URI"
}

# As KubeVirt >= 0.59: an ordinary user, qemu:///session, and the socket under virtqemud's name. Debian has no
# virtqemud, so the monolithic daemon's socket is renamed; it speaks the same.
session_daemons() {
    local home=$QEMU_HOME
    getent passwd "$QEMU_UID" >/dev/null || echo "qemu:x:$QEMU_UID:$QEMU_UID::$home:/usr/sbin/nologin" >>/etc/passwd
    getent group "$QEMU_UID" >/dev/null || echo "qemu:x:$QEMU_UID:" >>/etc/group
    mkdir -p "$home/.config/libvirt" "$(dirname "$SESSION_CAPABILITIES")"
    daemon_settings "$home/.config/libvirt" "$QEMU_UID"
    chown -R "$QEMU_UID:$QEMU_UID" "$home" /run/lab /run/libvirt
    cache_at "$SESSION_CAPABILITIES" "$QEMU_UID"
    as_qemu "$home" virtlogd >>"$POD_LOG" 2>&1 &
    as_qemu "$home" libvirtd --config "$home/.config/libvirt/libvirtd.conf" >>"$POD_LOG" 2>&1 &
    wait_for 110 "libvirt's socket" libvirt_answers "qemu:///session?socket=/run/libvirt/libvirt-sock"
    mv /run/libvirt/libvirt-sock "$LIBVIRT_SOCKET"
}

as_qemu() {
    local home=$1
    shift
    cd /
    exec setpriv --reuid "$QEMU_UID" --regid "$QEMU_UID" --clear-groups \
        env HOME="$home" XDG_RUNTIME_DIR=/var/run XDG_CONFIG_HOME="$home/.config" XDG_CACHE_HOME="$home/.cache" "$@"
}

libvirt_answers() { timeout --kill-after=5 10 virsh -q -c "$1" version; }

# What QEMU can do is found out once per libvirt and user, and kept over pods and labs.
cache_at() {
    ! mountpoint -q "$1" || return 0
    local kept=$CACHE/capabilities-$LIBVIRT-$2
    mkdir -p "$1" "$kept"
    chown "$2:$2" "$kept"
    mount --bind "$kept" "$1"
}

# daemon_settings DIRECTORY USER
daemon_settings() {
    # A host of its own: libvirt refuses to migrate a VM to the machine that it is on already.
    cat >"$1/libvirtd.conf" <<CONF
auth_unix_ro = "none"
auth_unix_rw = "none"
host_uuid = "$(cat /proc/sys/kernel/random/uuid)"
CONF
    # As KubeVirt's: no cgroups or mount namespaces of libvirt's own inside a container.
    cat >"$1/qemu.conf" <<CONF
user = "$2"
group = "$2"
security_driver = "none"
namespaces = []
cgroup_controllers = []
remember_owner = 0
CONF
}
