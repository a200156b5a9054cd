# shellcheck shell=bash
# Pods: a sandbox as the runtime makes it, volumes as kubelet makes them, and in a container what a virt-launcher
# holds. Sourced by ../lab; the pod_* functions run inside the node.

STANDIN=/run/kube-ovn-standin

pod_usage() {
    cat <<'TEXT'
usage: lab pod NAME [OPTION...]     (NAME: lower-case letters, digits and '-')
  --uid UID             the pod's uid (default: a new one); of another pod: a new sandbox on the same volumes
  --namespace NS        its namespace (default: default)
  --vcpus N, --ports N  of the VM: CPUs (default 2), free PCIe root ports (default 4)
  --cells N             of the VM: NUMA cells, the first of 256 MiB, the others of 32 MiB (default 1)
  --dimms N             of the VM: DIMMs of 32 MiB, and slots for more ('lab vm NAME dimm'); 24 at most
  --hugepages           the VM's memory is in 2 MiB pages: 128 of them, and 16 for each further cell or DIMM; LAB_HUGEPAGES
                        for 'lab up' is how many the machine gets (default 640, of which OVS takes 512)
  --vga                 the VM has a VGA adapter, which takes 128 KiB out of its memory
  --no-shared-memory    the VM's memory is private: a vhost-user NIC cannot work
  --stubborn            the guest takes a NIC (within 1 s) and uses it, but never lets it go before a reboot
  --no-virtio           the guest ignores hot-plug and has no driver: it neither uses a NIC nor lets it go
  --native-hotplug      the VM's PCIe ports are hot-plugged by PCIe's own way, with a button and an indicator, not by ACPI
  --no-vm               libvirt runs, but no domain does
  --no-libvirt          the container runs neither libvirt nor a VM
  --no-volume           the pod has no emptyDir vhostuser-sockets
  --only-sandbox        no container yet: network namespace, pause process and volume only
  --no-pause            no pause process either keeps the network namespace, as at the runtime's ADD
  --libvirt 9|11|12     9.0, 11.3 (the machine's own), or 12 with QEMU 11 (default: what LAB_SET said at 'lab up')
  --session             KubeVirt >= 0.59: daemon and QEMU as uid 107, session URI, virtqemud-sock in emptyDir
                        libvirt-runtime, sockets below /run/vm/dpdk
  --cgroup cgroupfs|systemd|none   how kubelet names the pod's cgroups (default cgroupfs); containerd's own driver is always
                        cgroupfs
  --cri                 made by containerd, through its CRI ('lab containerd-up' first)
  --sockets PATH        where the container has the volume
  --userns              with a user namespace (with --cri, and containerd 1.7 or 2)
  --attempt N           which sandbox of the pod it is, as kubelet counts them (with --cri; default 0)
TEXT
}

pod_dir() { echo "$RUN/pods/$1"; }

# pod_load NAME: the pod's facts as variables.
pod_load() {
    POD=$(pod_dir "${1:?a pod\'s name is needed}")
    [ -e "$POD/info" ] || die "there is no pod '$1'"
    POD_LOG=$NODE_LOG/pod-$1.log
    # shellcheck source=/dev/null
    . "$POD/info"
}

# pod_fact KEY VALUE: kept for `lab info`, for the container's own first process, and set here.
pod_fact() {
    printf '%s=%s\n' "$1" "$2" >>"$POD/info"
    printf -v "$1" %s "$2"
}

new_container_id() { od -An -tx1 -N32 /dev/urandom | tr -d ' \n'; }

pod_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --uid) pod_uid=${2:?}; shift ;;
            --namespace) namespace=${2:?}; shift ;;
            --vcpus) vcpus=${2:?}; shift ;;
            --ports) ports=${2:?}; shift ;;
            --libvirt) libvirt=${2:?}; shift ;;
            --cgroup) cgroup=${2:?}; shift ;;
            --cells) cells=${2:?}; shift ;;
            --dimms) dimms=${2:?}; shift ;;
            --hugepages) pages=huge ;;
            --vga) video=vga ;;
            --no-shared-memory) shared=no ;;
            --stubborn) guest=stubborn ;;
            --no-virtio) guest=novirtio ;;
            --native-hotplug) hotplug=native ;;
            --no-vm) vm=no ;;
            --no-libvirt) daemon=no vm=no ;;
            --no-volume) volume=no ;;
            --only-sandbox) container=no ;;
            --no-pause) pause=no ;;
            --session) session=yes ;;
            --sockets) sockets=${2:?}; shift ;;
            --cri) cri=yes ;;
            --userns) userns=yes ;;
            --attempt) attempt=${2:?}; shift ;;
            *) pod_usage >&2; die "pod: no such option: $1" ;;
        esac
        shift
    done
    [[ $pod_uid =~ ^[A-Za-z0-9-]*$ && $namespace =~ ^[a-z0-9-]+$ ]] || die "pod: a uid or namespace of other characters"
    [[ $vcpus$ports$attempt$cells$dimms =~ ^[0-9]+$ ]] ||
        die "pod: --vcpus, --ports, --cells, --dimms and --attempt take numbers"
    [ "$cells" -gt 0 ] || die "pod: --cells takes 1 or more"
    [ "${dimms:-0}" -le "$DIMM_SLOTS" ] || die "pod: --dimms takes $DIMM_SLOTS at most"
    [ -n "$libvirt" ] || default_libvirt
    [ "$cri" = no ] || [[ "$libvirt$cgroup$pause" =~ ^1[12](cgroupfs|systemd)yes$ ]] ||
        die "pod: --cri goes with neither --libvirt 9, --cgroup none nor --no-pause"
    [ "$userns$cri" != yesno ] || die "pod: --userns goes with --cri only"
    case $libvirt in
        11) ;;
        9) [ -x "$LIBVIRT_9/usr/sbin/libvirtd" ] || die "libvirt 9 is not there: 'lab packages' says why" ;;
        12) libvirt_12_fetched || die "libvirt 12 is not there: run 'LAB_SET=$SET_OVS/12 lab packages' first" ;;
        *) die "--libvirt takes 9, 11 or 12" ;;
    esac
}

# That of the lab's set. libvirt 9's files are put into the machine's /usr, which a container of containerd has read-only.
default_libvirt() {
    libvirt=$SET_LIBVIRT
    if [ "$cri$libvirt" = yes9 ]; then libvirt=11; fi
}

pod_create() {
    local name=${1:-} pod_uid='' namespace=default vcpus=2 ports=4 libvirt='' cgroup=cgroupfs
    local cells=1 dimms='' pages=usual video=none
    local shared=yes guest=usual hotplug=acpi vm=yes daemon=yes volume=yes container=yes pause=yes session=no cri=no userns=no attempt=0 sockets=''
    running_set
    [[ $name =~ ^[a-z0-9][a-z0-9-]{0,40}$ ]] || { pod_usage >&2; die "pod: '$name' is no name for a pod"; }
    shift
    pod_options "$@"
    POD=$(pod_dir "$name")
    POD_LOG=$NODE_LOG/pod-$name.log
    mkdir "$POD" 2>/dev/null || die "there is a pod '$name' already"
    : >"$POD_LOG"
    trap 'say "pod failed, removing it"; pod_remove "$NAME"' EXIT
    pod_fact NAME "$name"
    pod_fact NAMESPACE "$namespace"
    pod_fact POD_UID "${pod_uid:-$(cat /proc/sys/kernel/random/uuid)}"
    pod_fact CRI "$cri"
    pod_fact USERNS "$userns"
    pod_fact ATTEMPT "$attempt"
    pod_fact CGROUP "$cgroup"
    pod_fact SESSION "$session"
    pod_fact LIBVIRT "$libvirt"
    pod_fact DAEMON "$daemon"
    pod_sandbox "$volume" "$pause"
    if [ "$container" = yes ]; then
        pod_container
        if [ "$vm" = yes ]; then
            domain_xml "$vcpus" "$ports" "$shared" "$guest" "$hotplug" "$cells" "$dimms" "$pages" "$video" >"$POD/domain.xml"
            virsh_in define "$POD/domain.xml" >/dev/null
            vm_boot
        fi
    fi
    trap - EXIT
    pod_info "$name"
}

pod_sandbox() {
    pod_fact VOLUMES "/var/lib/kubelet/pods/$POD_UID/volumes/kubernetes.io~empty-dir"
    mkdir -p "$VOLUMES"
    if [ "$1" = yes ]; then
        pod_volume vhostuser-sockets
        pod_fact VOLUME "$VOLUMES/vhostuser-sockets"
    fi
    # What the real kube-ovn asks the API server: which pod is this?
    mkdir -p "$STANDIN/$NAMESPACE/$NAME"
    printf '{"uid": "%s"}\n' "$POD_UID" >"$STANDIN/$NAMESPACE/$NAME/pod.json"
    if [ "$CRI" = yes ]; then
        cri_sandbox
        return
    fi
    pod_fact CID "$(new_container_id)"
    pod_fact NETNS "/run/netns/cni-$NAME"
    ip netns add "cni-$NAME"
    ip -n "cni-$NAME" link set lo up
    if [ "$2" = yes ]; then
        spawn "$CID" pause_main
        pod_fact PAUSE_PID "$SPAWNED"
    fi
}

# As kubelet does: the mode is set after the directory is made, so no umask takes part of it away. A pod whose sandbox
# is made anew keeps its volumes: here, a second pod of the same uid has them too.
pod_volume() {
    mkdir -p "$VOLUMES/$1"
    chmod 2777 "$VOLUMES/$1"
}

pod_container() {
    if [ "$SESSION" = yes ]; then
        pod_volume libvirt-runtime
        pod_fact SOCKETS "${sockets:-/run/vm/dpdk}"
        pod_fact LIBVIRT_SOCKET /run/libvirt/virtqemud-sock
        pod_fact LIBVIRT_URI "qemu:///session?socket=$LIBVIRT_SOCKET"
    else
        pod_fact SOCKETS "${sockets:-/run/openvswitch/vhostuser-sockets}"
        pod_fact LIBVIRT_SOCKET /run/libvirt/libvirt-sock
        pod_fact LIBVIRT_URI "qemu:///system?socket=$LIBVIRT_SOCKET"
    fi
    pod_fact DOMAIN "${NAMESPACE}_$NAME"
    if [ "$CRI" = yes ]; then
        cri_container
    else
        pod_fact CONTAINER_ID "$(new_container_id)"
        spawn "$CONTAINER_ID" container_main
        pod_fact PID "$SPAWNED"
    fi
    # The first start of a libvirt probes QEMU, which takes its time under load; later ones find the answer cached.
    wait_for 120 "the container to be ready (see $POD_LOG)" container_ready_or_dead
    [ -e "$POD/ready" ] || die "the container ended: see $POD_LOG"
}

container_ready_or_dead() { [ -e "$POD/ready" ] || ! started_at "$PID"; }

# spawn CONTAINER_ID FUNCTION: runs FUNCTION as the first process of new namespaces in the pod's network namespace and
# cgroup. Its pid, as the node sees it, is left in SPAWNED.
spawn() {
    local parent
    (
        [ "$CGROUP" = none ] || cgroup_join "$(cgroup_of "$CGROUP" "$POD_UID" "$1")" "$BASHPID"
        exec setsid nsenter --net="$NETNS" unshare --mount --pid --ipc --uts --propagation private --fork \
            env LAB_DIR="$LAB_DIR" "$LAB_SELF" --inside "$2" "$NAME"
    ) </dev/null >>"$POD_LOG" 2>&1 &
    parent=$!
    disown
    wait_for 120 "$2 to start (see $POD_LOG)" unshared_by "$parent"
    SPAWNED=$(unshared_by "$parent")
    # No process of a runtime stays in a pod: the node's pid 1 takes the orphan over.
    kill -KILL "$parent"
}

pod_info() {
    pod_load "$1"
    cat "$POD/info"
    [ -z "${PID:-}" ] || {
        echo "LIBVIRTD_PID=$(pod_process libvirtd)"
        echo "QEMU_PID=$(pod_process qemu-system-x86)"
    }
}

# pod_process COMM: the pid of the container's first process with this name (15 characters at most), or nothing.
pod_process() {
    local entry space
    space=$(readlink "/proc/$PID/ns/pid") || return 0
    for entry in /proc/[0-9]*; do
        if [ "$(readlink "$entry/ns/pid" 2>/dev/null)" = "$space" ] && [ "$(cat "$entry/comm")" = "$1" ]; then
            basename "$entry"
            return
        fi
    done
}

# The pod's containers die (sandbox, volumes and network namespace stay): what a runtime does before the CNI DEL.
pod_kill() {
    pod_load "$1"
    pod_end "${PID:-}"
    pod_end "${PAUSE_PID:-}"
}

# The first process of a pid namespace takes all others with it; waits until they are gone.
pod_end() {
    [ -n "$1" ] && [ -d "/proc/$1" ] || return 0
    kill -KILL "$1" 2>/dev/null || true
    wait_for 120 "process $1 to end" test ! -d "/proc/$1"
}

# Everything the lab made for the pod goes; what plugins made (mounts, OVS ports) is theirs to remove.
pod_remove() {
    pod_load "$1"
    if [ "$CRI" = yes ]; then
        [ -z "${CID:-}" ] || cri_remove
    else
        pod_kill "$1"
        if [ -e "$NETNS" ]; then
            ip netns delete "cni-$NAME"
        fi
    fi
    if [ "$(grep -lx "POD_UID=$POD_UID" "$RUN"/pods/*/info | wc -l)" = 1 ]; then
        rm -rf "/var/lib/kubelet/pods/$POD_UID"
    fi
    rm -rf "${STANDIN:?}/$NAMESPACE/$NAME"
    rmdir "$STANDIN/$NAMESPACE" 2>/dev/null || true
    cgroups_sweep
    rm -rf "$POD"
}
