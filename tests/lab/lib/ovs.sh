# shellcheck shell=bash
# OVS-DPDK in the node, from a tree of its Debian release (trees.sh). Sourced by ../lab; the ovs_* functions run inside
# the node.
#
# As kube-ovn's container of OVS, it has a root and a mount namespace apart from the node's; what is mounted in the node
# reaches it (HostToContainer). A process that sleeps holds the namespace, also while no OVS runs.

OVS_HOME=/run/lab-ovs
# Where the node finds ovs-vsctl and the others; each enters OVS's root.
OVS_TOOLS=$OVS_HOME/bin
OVS_DIRS=(/dev /proc /sys /run /etc/openvswitch /var/lib/openvswitch /var/log/openvswitch)
OVS_RUN=/var/run/openvswitch
OVS_DATABASE=/etc/openvswitch/conf.db
OVS_SCHEMA=/usr/share/openvswitch/vswitch.ovsschema
VSWITCHD=/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk
VSWITCHD_PID=$OVS_RUN/ovs-vswitchd.pid
NODE_ADDRESS=172.18.0.1/16
# The daemons have files of their own: the node's syslog is for what plugins say.
OVS_LOGS=(-vconsole:emer -vsyslog:emer)

# ovs_create VERSION
ovs_create() {
    ovs_tools
    ovs_root "$1"
    ovsdb-tool create "$OVS_DATABASE" "$OVS_SCHEMA"
    ovs_database
    ovs-vsctl --no-wait init
    ovs_settings
    ovs_start
    ovs-vsctl --may-exist add-br br-int -- set bridge br-int datapath_type=netdev
    ovs_address
}

ovs_tools() {
    local tool
    mkdir -p "$OVS_TOOLS"
    for tool in in-ovs ovs-vsctl ovs-appctl ovs-ofctl ovsdb-client ovsdb-tool; do
        ln -sf "$LAB_HOME/in-ovs" "$OVS_TOOLS/$tool"
    done
}

# ovs_root VERSION: makes the root and the mount namespace of this OVS.
ovs_root() {
    rm -f "$OVS_HOME/ready"
    setsid unshare --mount --propagation slave "$LAB_SELF" --inside ovs_root_main "$1" \
        </dev/null >>"$NODE_LOG/ovs-root.log" 2>&1 &
    echo $! >"$OVS_HOME/holder"
    disown
    wait_for 120 "OVS's root (see $NODE_LOG/ovs-root.log)" test -e "$OVS_HOME/ready"
}

ovs_root_main() {
    ovs_like_root "$(ovs_tree "$1")" "$RUN/ovs-root"
    : >"$OVS_HOME/ready"
    exec sleep infinity
}

# ovs_like_root TREE DIRECTORY: enters a root with the tree's files, made at DIRECTORY, in which a data plane sees of the
# node what kube-ovn's OVS sees of a host. DIRECTORY is not below /run, which is bound into the root.
ovs_like_root() {
    local directory
    ROOT=$2
    root_over "$1"
    for directory in "${OVS_DIRS[@]}"; do
        mkdir -p "$ROOT$directory"
        mount --rbind "$directory" "$ROOT$directory"
    done
    enter_root
}

ovs_database() {
    in-ovs timeout 60 ovsdb-server "${OVS_LOGS[@]}" --log-file="$NODE_LOG/ovsdb-server.log" --remote=punix:$OVS_RUN/db.sock \
        --pidfile=$OVS_RUN/ovsdb-server.pid --no-chdir --detach "$OVS_DATABASE"
}

ovs_settings() {
    local last=$(($(nproc --all) - 1))
    # The last CPU polls, the first does the rest. pmd-maxsleep lets the poller doze when there is nothing to poll,
    # so that a lab does not cost a whole CPU.
    ovs-vsctl --no-wait set open_vswitch . other_config:dpdk-init=true \
        other_config:dpdk-extra="--no-pci -m ${LAB_DPDK_MEMORY:-1024}" other_config:dpdk-lcore-mask=0x1 \
        other_config:pmd-cpu-mask="$(printf '0x%x' $((1 << (last > 62 ? 62 : last))))" \
        other_config:pmd-maxsleep="${LAB_PMD_MAXSLEEP:-500}"
    # OVS reads it once, when it starts.
    [ "${LAB_TSO:-0}" = 0 ] || ovs-vsctl --no-wait set open_vswitch . other_config:userspace-tso-enable=true
}

ovs_start() {
    local user=()
    if [ -n "${LAB_OVS_USER:-}" ]; then
        user=("--user=$LAB_OVS_USER")
        in-ovs chmod 777 /dev/hugepages $OVS_RUN
        in-ovs chmod 666 $OVS_RUN/db.sock /dev/net/tun
    fi
    # It comes back when DPDK is initialized.
    in-ovs timeout --kill-after=10 120 "$VSWITCHD" "${OVS_LOGS[@]}" "${user[@]}" --log-file="$NODE_LOG/ovs-vswitchd.log" \
        --pidfile=$VSWITCHD_PID --no-chdir --detach unix:$OVS_RUN/db.sock ||
        die "ovs-vswitchd does not start (status 124 or 137: within 120 s): see $NODE_LOG/ovs-vswitchd.log"
    if ovs-vsctl br-exists br-int; then
        ovs_address
    fi
}

# The bridge's own port leads into the node: it can ping guests through OVS-DPDK.
ovs_address() {
    ip address replace "$NODE_ADDRESS" dev br-int
    ip link set br-int up
}

ovs_pid() { cat $VSWITCHD_PID; }

# ovs_appctl ARGUMENT...: to the vswitchd that runs.
ovs_appctl() { ovs-appctl -t "$OVS_RUN/ovs-vswitchd-dpdk.$(ovs_pid).ctl" "$@"; }

# Ports go away with an orderly end: DPDK closes its connections first.
ovs_stop() {
    local pid
    pid=$(ovs_pid)
    ovs_appctl --timeout=10 exit || kill "$pid"
    wait_for 120 "ovs-vswitchd to end" test ! -d "/proc/$pid"
}

# ovs_switch VERSION: ends OVS in good order, and starts this version on the same database, as an update of the node's
# OVS does. Its ports stay.
ovs_switch() {
    # It may be down already.
    [ ! -e "$VSWITCHD_PID" ] || ovs_stop
    ovs_stop_database
    kill "$(cat "$OVS_HOME/holder")"
    ovs_root "$1"
    # To this version's schema, an older one, too.
    ovsdb-tool convert "$OVS_DATABASE" "$OVS_SCHEMA"
    ovs_database
    running_set
    echo "$1/$SET_LIBVIRT" >"$RUN/set"
    ovs_start
    say "runs $(ovs_version) now"
}

ovs_stop_database() {
    local pid
    pid=$(cat $OVS_RUN/ovsdb-server.pid)
    ovs-appctl --timeout=10 -t "$OVS_RUN/ovsdb-server.$pid.ctl" exit
    wait_for 120 "ovsdb-server to end" test ! -d "/proc/$pid"
}

ovs_kill() {
    local pid
    pid=$(ovs_pid)
    kill -KILL "$pid"
    wait_for 120 "ovs-vswitchd to end" test ! -d "/proc/$pid"
    rm -f $VSWITCHD_PID
}

ovs_pause() { kill -STOP "$(ovs_pid)"; }

# The database's server: killed, started, stopped, resumed.
ovsdb_kill() {
    local pid
    pid=$(cat $OVS_RUN/ovsdb-server.pid)
    kill -KILL "$pid"
    wait_for 20 "ovsdb-server to end" test ! -d "/proc/$pid"
}
ovsdb_start() {
    rm -f $OVS_RUN/ovsdb-server.pid
    ovs_database
}
ovsdb_pause() { kill -STOP "$(cat $OVS_RUN/ovsdb-server.pid)"; }
ovsdb_cont() { kill -CONT "$(cat $OVS_RUN/ovsdb-server.pid)"; }

ovs_cont() { kill -CONT "$(ovs_pid)"; }

# WORDS SECONDS kill|pause: once a plugin logs the words, and this much later.
ovs_at() {
    local log=$NODE_LOG/syslog begin follower
    begin=$(($(wc -l <"$log") + 1))
    echo ready
    exec {lines}< <(exec tail -n "+$begin" -F "$log" 2>/dev/null)
    follower=$!
    timeout 60 grep -q -m 1 -- "$1" <&"$lines" || { kill "$follower"; die "no plugin logged '$1' within 60 s"; }
    sleep "$2"
    "ovs_$3"
    kill "$follower"
    if tail -n "+$begin" "$log" | grep -q 'ADD .* done in '; then echo late; else echo "in time"; fi
}

ovs_version() {
    in-ovs "$VSWITCHD" --version | ovs_version_words
}

# tree_ovs_version VERSION: of a tree, in which nothing runs.
tree_ovs_version() { chroot "$(ovs_tree "$1")" "$VSWITCHD" --version | ovs_version_words; }

ovs_version_words() { sed -n '1s/.* /OVS /p; s/^DPDK/DPDK/p' | paste -sd , | sed 's/,/, /'; }

ovs_status() {
    echo "$(ovs_version), dpdk_initialized $(ovs-vsctl get open_vswitch . dpdk_initialized)"
    ovs-vsctl --timeout=5 --columns=name,link_state,status --format=csv --no-headings list interface
}
