# shellcheck shell=bash
# OVS-DPDK in the node. Sourced by ../lab; the ovs_* functions run inside the node.

OVS_RUN=/var/run/openvswitch
VSWITCHD=/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk
VSWITCHD_PID=$OVS_RUN/ovs-vswitchd.pid
NODE_ADDRESS=172.18.0.1/16
# The daemons have files of their own: the node's syslog is for what plugins say.
OVS_LOGS=(-vconsole:emer -vsyslog:emer)

ovs_create() {
    local last=$(($(nproc --all) - 1))
    ovsdb-tool create /etc/openvswitch/conf.db /usr/share/openvswitch/vswitch.ovsschema
    within 60 ovsdb-server "${OVS_LOGS[@]}" --log-file="$NODE_LOG/ovsdb-server.log" --remote=punix:$OVS_RUN/db.sock \
        --pidfile=$OVS_RUN/ovsdb-server.pid --no-chdir --detach /etc/openvswitch/conf.db
    ovs-vsctl --no-wait init
    # The last CPU polls, the first does the rest. pmd-maxsleep lets the poller doze when there is nothing to poll,
    # so that a lab does not cost a whole CPU.
    ovs-vsctl --no-wait set open_vswitch . other_config:dpdk-init=true \
        other_config:dpdk-extra="--no-pci -m ${LAB_DPDK_MEMORY:-1024}" other_config:dpdk-lcore-mask=0x1 \
        other_config:pmd-cpu-mask="$(printf '0x%x' $((1 << (last > 62 ? 62 : last))))" \
        other_config:pmd-maxsleep="${LAB_PMD_MAXSLEEP:-500}"
    ovs_start
    ovs-vsctl --may-exist add-br br-int -- set bridge br-int datapath_type=netdev
    # The bridge's own port leads into the node: it can ping guests through OVS-DPDK.
    ip address replace "$NODE_ADDRESS" dev br-int
    ip link set br-int up
}

ovs_start() {
    # It comes back when DPDK is initialized.
    within 120 "$VSWITCHD" "${OVS_LOGS[@]}" --log-file="$NODE_LOG/ovs-vswitchd.log" --pidfile=$VSWITCHD_PID --no-chdir --detach \
        unix:$OVS_RUN/db.sock
    if ovs-vsctl br-exists br-int; then
        ip address replace "$NODE_ADDRESS" dev br-int
        ip link set br-int up
    fi
}

ovs_pid() { cat $VSWITCHD_PID; }

# Ports go away with an orderly end: DPDK closes its connections first.
ovs_stop() {
    local pid
    pid=$(ovs_pid)
    ovs-appctl --timeout=10 -t "$OVS_RUN/ovs-vswitchd-dpdk.$pid.ctl" exit || kill "$pid"
    wait_for 20 "ovs-vswitchd to end" test ! -d "/proc/$pid"
}

ovs_kill() {
    local pid
    pid=$(ovs_pid)
    kill -KILL "$pid"
    wait_for 20 "ovs-vswitchd to end" test ! -d "/proc/$pid"
    rm -f $VSWITCHD_PID
}

ovs_pause() { kill -STOP "$(ovs_pid)"; }
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
    echo "OVS $("$VSWITCHD" --version | sed -n '1s/.* //p'), $(ovs-vsctl get open_vswitch . dpdk_version | tr -d '"')"
}

ovs_status() {
    echo "$(ovs_version), dpdk_initialized $(ovs-vsctl get open_vswitch . dpdk_initialized)"
    ovs-vsctl --timeout=5 --columns=name,link_state,status --format=csv --no-headings list interface
}
