# shellcheck shell=bash
# Roots of other Debian releases, and the set of OVS and libvirt that a lab runs. Sourced by ../lab.
#
# A tree holds the unpacked packages of one release: its programs run in it, as they do in a container's image. The
# machine's own apt resolves, fetches and verifies the packages, with package lists apart from the machine's. No package
# script runs, so nothing is started or mounted to make a tree.

DEFAULT_SET=3.5/11

declare -A OVS_RELEASES=([3.1]=bookworm [3.5]=trixie [4.0]=forky)

# A name that ends in '*' stands for all packages whose names begin so: DPDK's ABI is part of them. These are plugins that
# DPDK loads when it starts, so OVS does not depend on them. Without mempool-ring, OVS adds ports that pass no packet;
# OVS 4.0 names devices of several buses to DPDK, and does not start if one of these buses is missing.
OVS_PACKAGES=(openvswitch-switch-dpdk librte-mempool-ring\* librte-bus-\*)

# Taken as the root of a pod's container: with what the lab runs in it.
LIBVIRT_12=$CACHE/libvirt-12
LIBVIRT_12_PACKAGES=(
    qemu-system-x86 libvirt-daemon libvirt-daemon-driver-qemu libvirt-daemon-log libvirt-clients
    bash dash util-linux libc-bin grep sed mawk procps socat iproute2
)

# What a root needs before any program of the lab runs in it.
BASE_PACKAGES=(base-files base-passwd coreutils mount)

# Never read in a tree.
TREE_EXCLUDES=(
    ./usr/share/{doc,man,info,locale,perl,zoneinfo} ./usr/include './*.a'
    ./usr/lib/{python3,systemd,udev,valgrind} './usr/lib/python3.*'
)

# read_set SET: leaves its parts in SET_OVS and SET_LIBVIRT.
read_set() {
    SET_OVS=${1%/*} SET_LIBVIRT=${1#*/}
    [[ $1 == */* && -n ${OVS_RELEASES[$SET_OVS]:-} && $SET_LIBVIRT =~ ^(9|11|12)$ ]] ||
        die "LAB_SET is '$1': it takes OVS (3.1, 3.5 or 4.0), a slash and libvirt (9, 11 or 12), such as $DEFAULT_SET"
}

wanted_set() { read_set "${LAB_SET:-$DEFAULT_SET}"; }

# The set of the lab that is up, whatever LAB_SET says by now.
running_set() { read_set "$(cat "$RUN/set")"; }

ovs_tree() { echo "$CACHE/ovs-$1"; }

# trees_fetched, fetch_trees: the trees that the set needs.
trees_fetched() {
    wanted_set
    ovs_fetched "$SET_OVS" && testpmd_fetched "$SET_OVS" && { [ "$SET_LIBVIRT" != 12 ] || libvirt_12_fetched; }
}

fetch_trees() {
    wanted_set
    need_ovs "$SET_OVS"
    need_testpmd "$SET_OVS"
    [ "$SET_LIBVIRT" != 12 ] || libvirt_12_fetched || fetch_libvirt_12
}

ovs_fetched() { tree_is_whole "$(ovs_tree "$1")" "${OVS_PACKAGES[@]}"; }

# need_ovs VERSION: makes its tree, if it is missing.
need_ovs() {
    [ -n "${OVS_RELEASES[${1:-none}]:-}" ] || die "there is no OVS '${1:-}': 3.1, 3.5 or 4.0"
    ovs_fetched "$1" || fetch_ovs "$1"
}

fetch_ovs() { make_tree "$(ovs_tree "$1")" "${OVS_RELEASES[$1]}" "${OVS_PACKAGES[@]}"; }

libvirt_12_fetched() { tree_is_whole "$LIBVIRT_12" "${LIBVIRT_12_PACKAGES[@]}"; }

fetch_libvirt_12() { make_tree "$LIBVIRT_12" "$LATER_RELEASE" "${LIBVIRT_12_PACKAGES[@]}"; }

# tree_is_whole TREE PACKAGE...: returns true if the tree is complete and has these packages. An interrupted
# make_tree leaves nothing at TREE.
tree_is_whole() {
    local tree=$1
    shift
    [ "$(cat "$tree/lab-packages" 2>/dev/null)" = "$*" ]
}

# make_tree TREE RELEASE PACKAGE...
make_tree() {
    local tree=$1 release=$2 scratch
    shift 2
    # What a run that was killed has left.
    find "$CACHE" -maxdepth 1 -name "$(basename "$tree").??????" -mmin +60 -exec rm -rf {} +
    scratch=$(mktemp -d "$tree.XXXXXX")
    say "$(basename "$tree"): from Debian's $release"
    apt_of "$release" "$scratch"
    (
        export APT_CONFIG=$scratch/apt.conf
        mapfile -t packages < <(full_names "${BASE_PACKAGES[@]}" "$@")
        apt-get -qq -y --download-only --no-install-recommends install "${packages[@]}"
    )
    unpack_tree "$scratch"
    echo "$*" >"$scratch/tree/lab-packages"
    # An older one, of other packages.
    rm -rf "$tree"
    mv -T "$scratch/tree" "$tree"
    rm -rf "$scratch"
}

# full_names NAME...: the packages that the names stand for.
full_names() {
    local name
    for name in "$@"; do
        case $name in
            *\*) apt-cache pkgnames "${name%\*}" ;;
            *) echo "$name" ;;
        esac
    done
}

# apt_of RELEASE DIRECTORY: makes DIRECTORY/apt.conf, with which apt knows this release only, takes no package for
# installed, and writes to DIRECTORY; fetches the release's package list.
apt_of() {
    local codename
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mkdir -p "$2"/{sources,lists/partial,archives/partial}
    : >"$2/status"
    sources_line "$codename" "$1" >"$2/sources/$1.list"
    cat >"$2/apt.conf" <<CONF
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$2/sources";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$2";
Dir::State::Lists "$2/lists";
Dir::State::status "$2/status";
Dir::Cache::archives "$2/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::Languages "none";
APT::Sandbox::User "root";
CONF
    APT_CONFIG=$2/apt.conf apt-get -qq update
}

# unpack_tree SCRATCH: unpacks SCRATCH/archives into SCRATCH/tree, and does what packages' scripts would have done.
unpack_tree() {
    local tree=$1/tree directory deb
    for directory in bin sbin lib lib64; do
        mkdir -p "$tree/usr/$directory"
        ln -s "usr/$directory" "$tree/$directory"
    done
    for deb in "$1"/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$tree" --keep-directory-symlink "${TREE_EXCLUDES[@]/#/--exclude=}"
    done
    rm -rf "$tree/var/run" "$tree/var/lock"
    ln -s ../run "$tree/var/run"
    ln -s ../run/lock "$tree/var/lock"
    cp "$tree/usr/share/base-passwd/passwd.master" "$tree/etc/passwd"
    cp "$tree/usr/share/base-passwd/group.master" "$tree/etc/group"
    # libvirt looks its default user up, even if qemu.conf names another one.
    echo "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin" >>"$tree/etc/passwd"
    echo "libvirt-qemu:x:64055:" >>"$tree/etc/group"
    # OVS warns if they are missing.
    : >"$tree/etc/resolv.conf"
    echo "127.0.0.1 localhost" >"$tree/etc/hosts"
}

# set_versions: the versions in use of the set that was read, as one line.
set_versions() {
    echo "$(tree_ovs_version "$SET_OVS"), $(libvirt_version "$SET_LIBVIRT") (LAB_SET=$SET_OVS/$SET_LIBVIRT)"
}

# libvirt_version 9|11|12: with the version of the QEMU that it runs.
libvirt_version() {
    local libraries
    local -a root=() daemon=(libvirtd)
    case $1 in
        9)
            libraries=$(dirname "$LIBVIRT_9"/usr/lib/*/libvirt.so.0)
            daemon=(env LD_LIBRARY_PATH="$libraries" "$LIBVIRT_9/usr/sbin/libvirtd")
            ;;
        12) root=(chroot "$LIBVIRT_12") ;;
    esac
    "${root[@]}" "${daemon[@]}" --version | sed 's/.* /libvirt /' | tr '\n' ','
    "${root[@]}" qemu-system-x86_64 --version | sed -n 's/.*version \([0-9.]*\).*/ QEMU \1/p'
}
