# shellcheck shell=bash
# Cgroups named as kubelet and the runtime name them, so that a process tells its pod. Sourced by ../lab.
#
# They are the machine's own hierarchies: what is used is written down, and removed by pod-rm or down once nobody (another
# lab) uses it any more.

# Mount points to make them in: cgroup2, and of the old hierarchies the two that need no set-up and limit nothing.
cgroup_roots() {
    awk '$3 == "cgroup2" || ($3 == "cgroup" && $4 ~ /(^|,)(pids|name=systemd)(,|$)/) { print $2 }' /proc/mounts
}

# cgroup_of DRIVER UID CID: the path below a root, as containerd and kubelet name a burstable pod's container.
cgroup_of() {
    local driver=$1 uid=$2 cid=$3
    case $driver in
        cgroupfs) echo "kubepods/burstable/pod$uid/$cid" ;;
        systemd) echo "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${uid//-/_}.slice/cri-containerd-$cid.scope" ;;
        *) die "--cgroup takes cgroupfs, systemd or none, not '$driver'" ;;
    esac
}

# cgroup_join PATH PID: makes PATH below every root, and moves the process there.
cgroup_join() {
    local root part path joined=
    for root in $(cgroup_roots); do
        path=$root
        for part in ${1//\// }; do
            path=$path/$part
            echo "$path" >>"$RUN/cgroups.used"
            # Another lab may be faster.
            mkdir "$path" 2>/dev/null || [ -d "$path" ] || continue 2
        done
        echo "$path" >>"$RUN/cgroups.own"
        if echo "$2" 2>/dev/null >"$path/cgroup.procs"; then
            joined=yes
        fi
    done
    [ -n "$joined" ] || die "no cgroup hierarchy of this machine takes a directory: use --cgroup none"
}

# cgroup_note PATH: a runtime is about to make PATH, in any hierarchy of the machine, and may leave it.
cgroup_note() {
    local root part path
    awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/mounts | while read -r root; do
        path=$root
        for part in ${1//\// }; do
            path=$path/$part
            echo "$path" >>"$RUN/cgroups.used"
        done
        echo "$path" >>"$RUN/cgroups.own"
    done
}

# Removes what is empty by now. A cgroup stays busy for a moment after its last process has gone.
cgroups_sweep() {
    [ -e "$RUN/cgroups.used" ] || return 0
    sort -ru "$RUN/cgroups.used" | while read -r path; do
        rmdir "$path" 2>/dev/null || true
    done
}

cgroups_remove_all() {
    [ -e "$RUN/cgroups.own" ] || return 0
    wait_for 120 "the pods' cgroups to be empty" cgroups_gone
}

# A container's own cgroup can only be this lab's; those above may be in use by others.
cgroups_gone() {
    local path
    cgroups_sweep
    while read -r path; do
        [ ! -d "$path" ] || return 1
    done <"$RUN/cgroups.own"
}
