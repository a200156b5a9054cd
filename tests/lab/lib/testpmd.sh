# shellcheck shell=bash
# DPDK's testpmd in the node: a second data plane, of the same DPDK as the lab's OVS. Sourced by ../lab; the testpmd_*
# functions run inside the node.
#
# It polls without pause, which takes a whole CPU: it runs only between testpmd and testpmd-stop.

TESTPMD_PACKAGES=(dpdk-dev librte-mempool-ring\* librte-bus-\* librte-net-vhost\*)
TESTPMD_LOG=$NODE_LOG/testpmd.log
TESTPMD_PID=$OVS_HOME/testpmd.pid
# What is written to it is testpmd's input.
TESTPMD_INPUT=$OVS_HOME/testpmd.input

testpmd_tree() { echo "$CACHE/testpmd-$1"; }

testpmd_fetched() { tree_is_whole "$(testpmd_tree "$1")" "${TESTPMD_PACKAGES[@]}"; }

# need_testpmd VERSION: makes the tree of testpmd for this OVS, if it is missing.
need_testpmd() {
    testpmd_fetched "$1" || make_tree "$(testpmd_tree "$1")" "${OVS_RELEASES[$1]}" "${TESTPMD_PACKAGES[@]}"
}

# testpmd_start SOCKET...
testpmd_start() {
    local pid
    [ $# -gt 0 ] || die "testpmd: a socket's path is needed"
    ! recorded_pid "$TESTPMD_PID" >/dev/null || die "testpmd runs already"
    [ -p "$TESTPMD_INPUT" ] || mkfifo "$TESTPMD_INPUT"
    : >"$TESTPMD_LOG"
    # Opened for both, the pipe neither blocks nor ends.
    setsid unshare --mount --propagation slave "$LAB_SELF" --inside testpmd_main "$@" <>"$TESTPMD_INPUT" >>"$TESTPMD_LOG" 2>&1 &
    pid=$!
    record_pid "$TESTPMD_PID" "$pid" || die "testpmd ended: see $TESTPMD_LOG"
    disown
    wait_for 120 "testpmd's prompt (see $TESTPMD_LOG)" testpmd_prompts_or_ended 0
    recorded_pid "$TESTPMD_PID" >/dev/null || die "testpmd ended: $(tail -n 3 "$TESTPMD_LOG")"
}

# testpmd serves LAB_TESTPMD_QUEUES queue pairs but offers 128, so a NIC with more loses packets. Of the two lcores, only the
# second one polls. Pages of 4 KiB are enough, so OVS keeps the huge ones.
testpmd_main() {
    local socket queues=${LAB_TESTPMD_QUEUES:-4} last=$(($(nproc --all) - 1))
    local -a devices=()
    for socket in "$@"; do
        devices+=("--vdev=net_vhost${#devices[@]},iface=$socket,queues=$queues,client=1")
    done
    running_set
    ovs_like_root "$(testpmd_tree "$SET_OVS")" "$RUN/testpmd-root"
    # Its output goes to a file, and has to be there line by line.
    exec stdbuf -oL dpdk-testpmd --lcores "0@0,1@$last" --no-pci --no-huge -m 128 --file-prefix lab-testpmd "${devices[@]}" -- \
        --interactive --auto-start --forward-mode="${LAB_TESTPMD_FORWARD:-icmpecho}" --total-num-mbufs=4096 --no-mlockall \
        --rxq="$queues" --txq="$queues" --nb-cores=1
}

# testpmd_prompts_or_ended SIZE: returns true if it waits for input, by the log from this size on.
testpmd_prompts_or_ended() {
    ! recorded_pid "$TESTPMD_PID" || tail -c "+$(($1 + 1))" "$TESTPMD_LOG" | grep -q 'testpmd> $'
}

# testpmd_command WORD...: prints what testpmd answers, without the echo before and the prompt after it.
testpmd_command() {
    local size
    recorded_pid "$TESTPMD_PID" >/dev/null || die "testpmd does not run"
    size=$(stat -c %s "$TESTPMD_LOG")
    echo "$*" >"$TESTPMD_INPUT"
    wait_for 120 "testpmd's answer (see $TESTPMD_LOG)" testpmd_prompts_or_ended "$size"
    tail -c "+$((size + 1))" "$TESTPMD_LOG" | sed '1d; $d'
}

# As an operator ends it: the connections are closed.
testpmd_stop() {
    recorded_pid "$TESTPMD_PID" >/dev/null || die "testpmd does not run"
    echo quit >"$TESTPMD_INPUT"
    wait_for 120 "testpmd to end" process_gone "$TESTPMD_PID"
}

testpmd_kill() { testpmd_signal KILL && wait_for 120 "testpmd to end" process_gone "$TESTPMD_PID"; }
testpmd_pause() { testpmd_signal STOP; }
testpmd_cont() { testpmd_signal CONT; }

testpmd_signal() {
    local pid
    pid=$(recorded_pid "$TESTPMD_PID") || die "testpmd does not run"
    kill "-$1" "$pid"
}
