#!/bin/sh
# Installs vhostuser-hotplug on this node: the static binary, by a temporary file and a rename, so that a runtime that
# starts it meanwhile gets the old one or the new one, whole. Leaves the network configuration alone unless asked.
set -eu

usage() {
    cat <<'EOF'
usage: install.sh [--bin-dir DIR] [--conf-dir DIR] [--conflist]

  --bin-dir DIR    where the runtime looks for plugins (/opt/cni/bin)
  --conf-dir DIR   where it looks for configurations (/etc/cni/net.d)
  --conflist       put the plugin into kube-ovn's 01-kube-ovn.conflist, if that is as kube-ovn ships it; else say what
                   is to be added by hand

DESTDIR is put before both. The binary is the one beside this script, or is built here with cargo.
EOF
}

die() {
    echo "install.sh: $*" >&2
    exit 1
}

bin_dir=/opt/cni/bin
conf_dir=/etc/cni/net.d
with_conflist=no
while [ $# -gt 0 ]; do
    case $1 in
        --bin-dir | --conf-dir)
            [ $# -ge 2 ] || die "$1 needs a directory"
            if [ "$1" = --bin-dir ]; then bin_dir=$2; else conf_dir=$2; fi
            shift
            ;;
        --conflist) with_conflist=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            usage >&2
            exit 2
            ;;
    esac
    shift
done
bin_dir=${DESTDIR:-}$bin_dir
conf_dir=${DESTDIR:-}$conf_dir
here=$(cd "$(dirname "$0")" && pwd)

binary=$here/vhostuser-hotplug
if [ ! -x "$binary" ]; then
    command -v cargo >/dev/null || die "there is no binary beside this script, and no cargo to build one with"
    (cd "$here" && cargo build --release --locked --bin vhostuser-hotplug >&2)
    binary=${CARGO_TARGET_DIR:-$here/target}/$(rustc -vV | sed -n 's/^host: //p')/release/vhostuser-hotplug
fi
CNI_COMMAND=VERSION "$binary" </dev/null >/dev/null || die "$binary does not run on this machine"

# Puts a file in its place whole or not at all.
place() { # from to mode
    temporary=$(dirname "$2")/.$(basename "$2").$$
    trap 'rm -f "$temporary"' EXIT
    cp "$1" "$temporary"
    chmod "$3" "$temporary"
    sync "$temporary"
    mv -f "$temporary" "$2"
    trap - EXIT
    sync "$(dirname "$2")"
}

mkdir -p "$bin_dir"
if cmp -s "$binary" "$bin_dir/vhostuser-hotplug"; then
    echo "$bin_dir/vhostuser-hotplug: already this version"
else
    place "$binary" "$bin_dir/vhostuser-hotplug" 0755
    echo "$bin_dir/vhostuser-hotplug: installed ($("$binary" --version))"
fi

conflist=$conf_dir/01-kube-ovn.conflist
[ $with_conflist = yes ] || {
    echo "$conf_dir: left alone; with --conflist the plugin is put into kube-ovn's chain"
    exit 0
}
[ -f "$conflist" ] || die "$conflist is not there: is kube-ovn installed on this node?"
if "$binary" validate "$conflist" >/dev/null; then
    echo "$conflist: has the plugin already"
    exit 0
fi
# kube-ovn ships one text in all its releases. White space aside, only that is replaced.
shipped='{"name":"kube-ovn","cniVersion":"0.3.1","plugins":[{"type":"kube-ovn","server_socket":"/run/openvswitch/kube-ovn-daemon.sock"},{"type":"portmap","capabilities":{"portMappings":true}}]}'
if [ "$(tr -d '[:space:]' <"$conflist")" != "$shipped" ]; then
    die "$conflist is not as kube-ovn ships it, so it is left alone. Add this as the last of its plugins:
    { \"type\": \"vhostuser-hotplug\" }
and see that it is sound: $bin_dir/vhostuser-hotplug validate $conflist"
fi
"$binary" validate "$here/conflist/01-kube-ovn.conflist" >/dev/null || die "the conflist that comes with the plugin is broken"
cp -p "$conflist" "$conf_dir/.01-kube-ovn.conflist.before-vhostuser-hotplug"
place "$here/conflist/01-kube-ovn.conflist" "$conflist" "$(stat -c %a "$conflist")"
"$bin_dir/vhostuser-hotplug" validate "$conflist"
