# shellcheck shell=bash
# The node: one set of namespaces whose pid 1 holds everything the lab starts. Sourced by ../lab.

RUN=$LAB_DIR/run
NODE_LOG=$LAB_DIR/log
# OVS-DPDK takes 1024 MiB (see ovs.sh); the rest is slack for fragmentation.
HUGEPAGES=${LAB_HUGEPAGES:-640}

# Where the node has directories of its own over the machine's, and the directories they are in. Those get an overlay, in
# which mount points the machine lacks are made: on the machine's own file system they would have to be removed again,
# and removing a directory takes away what other namespaces (another lab's) have mounted on it.
NODE_PARENTS=(/etc /opt /var/lib /var/log)
NODE_DIRS=(
    /var/lib/kubelet /var/lib/cni /etc/cni /opt/cni /var/lib/openvswitch /etc/openvswitch /var/log/openvswitch
)

# When process PID started (clock ticks since boot): with the pid, a name that is never used twice.
started_at() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The command's name may hold blanks and brackets; what follows its last bracket does not.
    # shellcheck disable=SC2086 # split on purpose
    set -- ${stat##*) }
    # A dead process that nobody has waited for yet is dead.
    [ "$1" != Z ] && [ "$1" != X ] && echo "${20}"
}

# recorded_pid FILE: the pid in FILE ("PID START") if that very process still runs.
recorded_pid() {
    local pid start
    { read -r pid start <"$1"; } 2>/dev/null || return 1
    [ "$(started_at "$pid")" = "$start" ] && echo "$pid"
}

record_pid() {
    local start
    start=$(started_at "$2") || return 1
    echo "$2 $start" >"$1"
}

node_pid() { recorded_pid "$RUN/node.pid"; }

need_node() { NODE_PID=$(node_pid) || die "the lab is down: run 'lab up' first"; }

# in_node COMMAND...: as the node's root, in all of the node's namespaces.
in_node() {
    need_node
    PATH=$OVS_TOOLS:$PATH nsenter --target "$NODE_PID" --mount --net --pid --ipc --uts --wdns="$PWD" "$@"
}

# inside FUNCTION ARGUMENT...: a function of the lab, run in the node.
inside() { in_node env LAB_DIR="$LAB_DIR" "$LAB_SELF" --inside "$@"; }

# as_multus COMMAND CONFLIST: the rest of `lab multus`, in the mount namespace.
as_multus() {
    local root=/run/multus/hostroot
    mkdir -p "$root"
    mount --rbind / "$root"
    exec env CNI_PATH="${CNI_PATH:-/opt/cni/bin}" CNI_CACHE=/var/lib/cni/multus LAB_CHROOT="$root" "$RUNTIME-1.3" "$@"
}

lab_up() {
    need_root up
    if node_pid >/dev/null; then
        say "up already (pid $(node_pid))"
        return
    fi
    wanted_set
    packages_complete || die "packages are missing: run 'lab packages' first"
    take_down
    fetched || lab_packages
    rm -rf "$NODE_LOG"
    mkdir -p "$RUN/pods" "$NODE_LOG"
    echo "$SET_OVS/$SET_LIBVIRT" >"$RUN/set"
    trap 'say "up failed, taking it down; see $NODE_LOG"; take_down' EXIT
    # shellcheck disable=SC2086 # a list
    [ -z "${LAB_GUEST_PROGRAMS:-}" ] || add_guest_programs $LAB_GUEST_PROGRAMS
    raise_hugepages
    start_node
    inside ovs_create "$SET_OVS"
    trap - EXIT
    say "up: pid $NODE_PID, $(inside ovs_version)"
}

start_node() {
    local parent child
    setsid unshare --mount --net --pid --ipc --uts --propagation private --fork --kill-child \
        "$LAB_SELF" --inside node_init </dev/null >"$NODE_LOG/node.log" 2>&1 &
    parent=$!
    disown
    record_pid "$RUN/parent.pid" "$parent" || die "the node's namespaces could not be made: see $NODE_LOG/node.log"
    wait_for 120 "the node's first process (see $NODE_LOG/node.log)" unshared_by "$parent"
    child=$(unshared_by "$parent")
    record_pid "$RUN/node.pid" "$child" || die "the node's first process died: see $NODE_LOG/node.log"
    wait_for 120 "the node to be ready (see $NODE_LOG/node.log)" test -e "$RUN/ready"
    need_node
}

# Pid 1 of the node. Ends only by being killed, and all of the node with it.
node_init() {
    local directory
    # A node that nobody has written down could never be taken down: should `up` be killed now, it ends by itself.
    wait_for 120 "being written down" test -e "$RUN/node.pid"
    hostname lab-node
    mount -t proc proc /proc
    # A sysfs of the node's own network namespace, with the machine's cgroups put back.
    mkdir -p "$RUN/cgroup"
    mount --rbind /sys/fs/cgroup "$RUN/cgroup"
    mount -t sysfs sysfs /sys
    mount --rbind "$RUN/cgroup" /sys/fs/cgroup
    umount -R "$RUN/cgroup"
    node_devices
    mount -t tmpfs -o mode=755 node-run /run
    mkdir -p /run/netns /run/lock /run/openvswitch/vhost_sockets
    node_overlays
    for directory in "${NODE_DIRS[@]}"; do
        mkdir -p "$directory"
        mount -t tmpfs -o mode=755 "node-$(basename "$directory")" "$directory"
    done
    mkdir -p /opt/cni/bin /etc/cni/net.d
    cp -s /usr/lib/cni/* /opt/cni/bin/
    # As systemd leaves it on a host; what kubelet and CNI plugins mount must reach the containers.
    mount --make-rshared /
    ip link set lo up
    busybox syslogd -O "$NODE_LOG/syslog"
    : >"$RUN/ready"
    reap_for_ever
}

node_overlays() {
    local parent kept
    mkdir /run/lab
    mount --bind "$LAB_DIR" /run/lab
    for parent in "${NODE_PARENTS[@]}"; do
        kept=/run/lab-overlay$parent
        mkdir -p "$kept/files" "$kept/work"
        mount -t overlay -o "lowerdir=$parent,upperdir=$kept/files,workdir=$kept/work" node-overlay "$parent"
        # A lab that is kept in there must stay the machine's.
        if [[ $LAB_DIR == "$parent"/* ]]; then
            mount --bind /run/lab "$LAB_DIR"
        fi
    done
    umount /run/lab
    rmdir /run/lab
}

# Waits in a way that lets bash collect every orphan that falls to it.
reap_for_ever() {
    while :; do
        sleep infinity &
        wait $!
    done
}

# make_devices DIRECTORY NAME: devices of one's own. Missing, among others, are /dev/kvm (where it is there but can run no
# guest, libvirt's probe hangs for over a minute) and the machine's /dev/log.
make_devices() {
    local spec name
    mount -t tmpfs -o mode=755 "$2" "$1"
    mkdir -p "$1"/{pts,shm}
    for spec in null:3 zero:5 full:7 random:8 urandom:9; do
        name=${spec%:*}
        mknod -m 666 "$1/$name" c 1 "${spec#*:}"
    done
    mknod -m 666 "$1/tty" c 5 0
    ln -s /proc/self/fd "$1/fd"
    ln -s fd/0 "$1/stdin"
    ln -s fd/1 "$1/stdout"
    ln -s fd/2 "$1/stderr"
    ln -s pts/ptmx "$1/ptmx"
    mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$1/pts"
    mount -t tmpfs -o mode=1777 "$2-shm" "$1/shm"
}

# What OVS-DPDK needs beside.
node_devices() {
    make_devices /dev node-dev
    mkdir /dev/net /dev/hugepages
    mknod -m 600 /dev/net/tun c 10 200
    mount -t hugetlbfs -o pagesize=2M node-hugepages /dev/hugepages
}

lab_down() {
    need_root down
    take_down
    say "down"
}

# Undoes what `up` did, as far as it got, and as often as it is called.
take_down() {
    local file pid
    for file in "$RUN/node.pid" "$RUN/parent.pid"; do
        if pid=$(recorded_pid "$file"); then
            kill -KILL "$pid" 2>/dev/null || true
            wait_for 120 "process $pid to end" process_gone "$file"
        fi
    done
    cgroups_remove_all
    lower_hugepages
    rm -rf "$RUN"
}

process_gone() { ! recorded_pid "$1"; }

lab_status() {
    local pid file
    if ! pid=$(node_pid); then
        echo "down"
        return 1
    fi
    echo "up: pid $pid, hugepages $(cat /proc/sys/vm/nr_hugepages) ($(cat "$RUN/hugepages.added" 2>/dev/null || echo 0) of them for the lab)"
    inside ovs_status
    for file in "$RUN"/pods/*/info; do
        [ -e "$file" ] || continue
        echo "pod $(basename "$(dirname "$file")"): $(grep -E '^(POD_UID|CID|PID)=' "$file" | tr '\n' ' ')"
    done
}

# Huge pages are the machine's: the lab adds so many to what is there and later takes as many away, so that it gives
# back what it found whatever others do meanwhile. A reboot forgets them all. Two labs that change the number at the same time
# would lose one of the changes: the lock is for all labs of the machine.
raise_hugepages() {
    local before after lock
    exec {lock}</proc/sys/vm/nr_hugepages
    flock "$lock"
    before=$(cat /proc/sys/vm/nr_hugepages)
    cat /proc/sys/kernel/random/boot_id >"$RUN/hugepages.boot"
    echo "$HUGEPAGES" >"$RUN/hugepages.added"
    echo 1 >/proc/sys/vm/compact_memory 2>/dev/null || true
    echo $((before + HUGEPAGES)) >/proc/sys/vm/nr_hugepages
    after=$(cat /proc/sys/vm/nr_hugepages)
    exec {lock}<&-
    echo $((after - before)) >"$RUN/hugepages.added"
    [ $((after - before)) -ge "$HUGEPAGES" ] ||
        die "the machine gave $((after - before)) of $HUGEPAGES huge pages of 2 MiB: free some memory first"
}

lower_hugepages() {
    local added now lock
    [ -s "$RUN/hugepages.added" ] || return 0
    exec {lock}</proc/sys/vm/nr_hugepages
    flock "$lock"
    added=$(cat "$RUN/hugepages.added")
    now=$(cat /proc/sys/vm/nr_hugepages)
    if [ "$(cat "$RUN/hugepages.boot")" = "$(cat /proc/sys/kernel/random/boot_id)" ]; then
        echo $((now > added ? now - added : 0)) >/proc/sys/vm/nr_hugepages
    fi
    rm -f "$RUN/hugepages.added"
    exec {lock}<&-
}
