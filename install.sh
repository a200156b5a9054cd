#!/bin/sh
# Installs vhostuser-hotplug on this node. The binary does the work, because it can edit JSON and sync files to disk. This
# script finds the binary, or builds it, and passes its arguments on.
set -eu

usage() {
    cat <<'TEXT'
usage: install.sh [OPTIONS]

  --bin-dir DIR    where the runtime looks for plugins (/opt/cni/bin)
  --conf-dir DIR   where it looks for network configurations (/etc/cni/net.d)
  --mode MODE      how the plugin gets into kube-ovn's chain:
                     auto      the default: as it is installed already; otherwise conflist
                     dropin    by a file in <conf-dir>/<network>, which runtimes with libcni 1.3 read (containerd 2.1)
                     conflist  by an entry in kube-ovn's conflist
                     none      not at all: enough if only NADs call the plugin
  --check          print what is installed and what is wrong with it; exit status 0 only if nothing is wrong
  --uninstall      remove the plugin from the chain, and its binary once no sandbox needs it any more
  --state-dir DIR, --kubelet-dir DIR
                   with a repeated --uninstall: the directories of the plugin's records and of kubelet, if they are not the
                   default ones (the first --uninstall removed the keys that name them)
  --dry-run        print what would be done, and do nothing

DESTDIR is put before absolute paths. The script uses the binary in its own directory, or builds it there with cargo.
Exit status: 0 if all is done or nothing is wrong, 1 if not, 2 for a wrong option.
TEXT
}

die() {
    echo "install.sh: $*" >&2
    exit 1
}

# To check and to uninstall, the installed binary is enough: neither must start a build.
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
