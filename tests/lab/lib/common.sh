# shellcheck shell=bash
# Words every part of the lab uses. Sourced by ../lab, never run.

say() { printf 'lab: %s\n' "$*" >&2; }

die() {
    printf 'lab: %s\n' "$*" >&2
    exit 1
}

need_root() { [ "$(id -u)" = 0 ] || die "$1 needs root"; }

# wait_for SECONDS WHAT COMMAND...: polls COMMAND every 0.1 s; dies naming WHAT when the time is up.
wait_for() {
    local seconds=$1 what=$2 end
    shift 2
    end=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || die "waited $seconds s in vain for $what"
        sleep 0.1
    done
}

# within SECONDS COMMAND...: runs COMMAND, a program; ends it when the time is up, and says so.
within() {
    local seconds=$1 status=0
    shift
    timeout --kill-after=10 "$seconds" "$@" || status=$?
    [ "$status" -lt 124 ] || say "'$*' ended with status $status (124 or 137: it had not within $seconds s)"
    return "$status"
}

# unshared_by PID: the process that `unshare --fork`, running as PID, has started, once it has. What PID ran before it
# became unshare may have had children too.
unshared_by() {
    local children
    [ "$(cat "/proc/$1/comm")" = unshare ] || return 1
    children=$(cat "/proc/$1/task/$1/children")
    [ -n "$children" ] && echo "${children%% *}"
}
