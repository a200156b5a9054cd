#!/bin/sh
# Installs vhostuser-hotplug on this node. The binary does the work: it can edit JSON and sync files to the disk. This script
# finds the binary or builds it, and passes the arguments on.
set -eu

usage() {
    cat <<'TEXT'
usage: install.sh [OPTIONS]

  --bin-dir DIR    where the runtime looks for plugins (/opt/cni/bin)
  --conf-dir DIR   where it looks for network configurations (/etc/cni/net.d)
  --mode MODE      how the plugin gets into kube-ovn's chain:
                     auto      as it is in already; otherwise conflist (the default)
                     dropin    by a file in <conf-dir>/<network>, which runtimes with libcni 1.3 read (containerd 2.1)
                     conflist  by an entry in kube-ovn's conflist
                     none      not at all: enough for NICs by NAD
  --check          print what is installed and what is wrong with it; exit status 0 only if it is sound
  --uninstall      take the plugin out of the chain, and its binary away once no sandbox can call it any more
  --state-dir DIR, --kubelet-dir DIR
                   to uninstall: where the plugin's records and kubelet's pods are, if an earlier --uninstall removed the
                   plugin's keys and these named other directories than the usual ones
  --dry-run        print what would be done, and do nothing

DESTDIR is put before absolute paths. The binary is the one next to this script, or is built here with cargo.
Exit status: 0 if it is done or sound, 1 if not, 2 for a wrong option.
TEXT
}

die() {
    echo "install.sh: $*" >&2
    exit 1
}

# The installed binary can check and uninstall itself: neither must start a build.
bin_dir=/opt/cni/bin
installing=yes
directory_next=no
for argument in "$@"; do
    if [ $directory_next = yes ]; then
        bin_dir=$argument
        directory_next=no
        continue
    fi
    case $argument in
        -h | --help)
            usage
            exit 0
            ;;
        --bin-dir) directory_next=yes ;;
        --bin-dir=*) bin_dir=${argument#*=} ;;
        --check | --uninstall) installing=no ;;
    esac
done

here=$(cd "$(dirname "$0")" && pwd)
binary=$here/vhostuser-hotplug
if [ ! -x "$binary" ]; then
    if [ $installing = no ]; then
        binary=${DESTDIR:-}$bin_dir/vhostuser-hotplug
        [ -x "$binary" ] || die "$binary is not there"
    else
        command -v cargo >/dev/null || die "there is no binary next to this script, and no cargo to build one"
        (cd "$here" && cargo build --release --locked --bin vhostuser-hotplug >&2)
        binary=${CARGO_TARGET_DIR:-$here/target}/$(rustc -vV | sed -n 's/^host: //p')/release/vhostuser-hotplug
    fi
fi
CNI_COMMAND=VERSION "$binary" </dev/null >/dev/null || die "$binary does not run on this machine"
exec "$binary" install "$@"
