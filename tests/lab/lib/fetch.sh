# shellcheck shell=bash
# What the lab holds beside installed packages, kept in $LAB_DIR/cache: the guest (kernel and initramfs), bookworm's
# libvirt 9.0, later releases' containerd and libcni, and the CNI runtime built on either libcni; trees.sh adds OVS.
# Sourced by ../lab.

CACHE=$LAB_DIR/cache
GUEST_KERNEL=$CACHE/vmlinuz
GUEST_INITRD=$CACHE/initramfs.gz
RUNTIME=$CACHE/runtime
LIBVIRT_9=$CACHE/libvirt-9
LATER=$CACHE/later
# CNI 1.1.0 (GC, STATUS, plugins dropped into a network's folder) needs libcni 1.2 or later, and containerd 2.
LATER_RELEASE=forky
# containerd 1.7 makes the sandbox of a pod with a user namespace before it calls plugins.
CONTAINERD_17=$CACHE/containerd-1.7
CONTAINERD_17_RELEASE=trixie

# In the order in which they must be loaded; PCI hot-plug itself is built into Debian's cloud kernel.
GUEST_MODULES=(
    virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net
)

# download PACKAGE[=VERSION]...: the .deb files into the current directory, by the machine's own apt.
download() { apt-get -qq -o APT::Sandbox::User=root download "$@"; }

fetched() {
    [ -s "$GUEST_KERNEL" ] && [ -s "$GUEST_INITRD" ] && [ -x "$LATER/usr/bin/containerd" ] &&
        [ -x "$CONTAINERD_17/usr/bin/containerd" ] &&
        [ "$GUEST_INITRD" -nt "$LAB_HOME/guest/init" ] && runtimes_built && trees_fetched
}

# What apt fetches for this release, with the machine's package lists.
fetch_own() {
    [ -s "$GUEST_KERNEL" ] && [ -d "$CACHE/modules" ] || fetch_guest_kernel
    [ -s "$GUEST_INITRD" ] && [ "$GUEST_INITRD" -nt "$LAB_HOME/guest/init" ] || build_initramfs
    [ -x "$LIBVIRT_9/usr/sbin/libvirtd" ] || fetch_libvirt_9
}

# What has package lists apart from the machine's.
fetch_apart() {
    [ -x "$LATER/usr/bin/containerd" ] ||
        fetch_unpacked "$LATER" "$LATER_RELEASE" containerd golang-github-appc-cni-dev
    [ -x "$CONTAINERD_17/usr/bin/containerd" ] ||
        fetch_unpacked "$CONTAINERD_17" "$CONTAINERD_17_RELEASE" containerd
    fetch_trees
}

fetch_guest_kernel() {
    local scratch image module file
    image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
    [ -n "$image" ] || die "apt knows no linux-image-cloud-amd64 (is its package list up to date?)"
    say "guest kernel: $image"
    scratch=$(mktemp -d "$CACHE/kernel.XXXXXX")
    (
        cd "$scratch"
        download "$image"
        dpkg -x ./*.deb unpacked
    )
    rm -rf "$CACHE/modules"
    mkdir "$CACHE/modules"
    for module in "${GUEST_MODULES[@]}"; do
        file=$(find "$scratch/unpacked" -name "$module.ko*" -print -quit)
        [ -n "$file" ] || die "$image has no module $module"
        case $file in
            *.xz) xz -dc "$file" >"$CACHE/modules/$module.ko" ;;
            *) cp "$file" "$CACHE/modules/$module.ko" ;;
        esac
    done
    cp "$scratch"/unpacked/boot/vmlinuz-* "$GUEST_KERNEL"
    rm -rf "$scratch"
}

build_initramfs() {
    local root
    root=$(mktemp -d "$CACHE/initramfs.XXXXXX")
    mkdir -p "$root"/{bin,dev,modules,proc,sys,tmp}
    cp /bin/busybox "$root/bin/busybox"
    cp "$CACHE"/modules/*.ko "$root/modules/"
    install -m 755 "$LAB_HOME/guest/init" "$root/init"
    printf '%s\n' "${GUEST_MODULES[@]}" >"$root/modules/order"
    (cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$GUEST_INITRD.new"
    mv "$GUEST_INITRD.new" "$GUEST_INITRD"
    rm -rf "$root"
}

# add_guest_programs FILE...: the cached initramfs with these programs in its /bin, for the VMs of this node. The kernel
# unpacks archives that follow one another.
add_guest_programs() {
    local root
    root=$(mktemp -d "$CACHE/programs.XXXXXX")
    mkdir "$root/bin"
    install -m 755 "$@" "$root/bin/"
    {
        cat "$CACHE/initramfs.gz"
        (cd "$root" && find . | cpio --quiet -o -H newc | gzip -1)
    } >"$RUN/initramfs.gz"
    rm -rf "$root"
}

runtimes_built() {
    [ -x "$RUNTIME" ] && [ -x "$RUNTIME-1.3" ] &&
        [ -z "$(find "$LAB_HOME/libcni" -name '*.go' -newer "$RUNTIME-1.3" -print -quit)" ]
}

# Debian ships libcni as source for GOPATH builds: nothing is fetched by Go.
build_runtimes() {
    local scratch
    say "building the CNI runtime on libcni"
    scratch=$(mktemp -d "$CACHE/go.XXXXXX")
    build_runtime "$RUNTIME" /usr/share/gocode older "$scratch"
    build_runtime "$RUNTIME-1.3" "$LATER/usr/share/gocode" newer "$scratch"
    rm -rf "$scratch"
}

# build_runtime FILE GOPATH TAG SCRATCH
build_runtime() {
    (
        cd "$LAB_HOME/libcni"
        env GO111MODULE=off GOPATH="$2" GOCACHE="$4" GOFLAGS=-p=2 CGO_ENABLED=0 go build -tags "$3" -o "$1.new" .
    )
    mv "$1.new" "$1"
}

# fetch_unpacked DIRECTORY RELEASE PACKAGE...: from a release later than this machine's, by its own package lists, which the
# machine's apt never sees: unpacked, never installed. What is taken either is source or needs no later libc.
fetch_unpacked() {
    local directory=$1 release=$2 scratch deb
    shift 2
    say "$(basename "$directory"): $* of $release"
    scratch=$(mktemp -d "$directory.XXXXXX")
    mkdir "$scratch/unpacked"
    apt_of "$release" "$scratch"
    (
        cd "$scratch"
        export APT_CONFIG=$scratch/apt.conf
        download "$@"
        for deb in ./*.deb; do
            dpkg -x "$deb" unpacked
        done
    )
    rm -rf "$directory"
    mv "$scratch/unpacked" "$directory"
    rm -rf "$scratch"
}

# The other libvirt the plugin must work with: unpacked beside the installed one, never installed. A pod made with
# `--libvirt 9` sees its files in place of the installed ones.
fetch_libvirt_9() {
    local version scratch name
    version=$(apt-cache madison libvirt-daemon | awk '$3 ~ /^9\./ { print $3; exit }')
    if [ -z "$version" ]; then
        say "libvirt 9: this release's archive has none; 'pod --libvirt 9' will not be possible"
        return
    fi
    say "libvirt 9: $version"
    scratch=$(mktemp -d "$CACHE/libvirt-9.XXXXXX")
    (
        cd "$scratch"
        local -a wanted=()
        for name in libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients libvirt0; do
            wanted+=("$name=$version")
        done
        # libvirt 9 still reads JSON with yajl, which 11 no longer brings along.
        download "${wanted[@]}" libyajl2
        for name in ./*.deb; do
            dpkg -x "$name" unpacked
        done
        # Only QEMU's driver is wanted; the others would each miss a library.
        find unpacked/usr/lib -path '*/connection-driver/*' ! -name libvirt_driver_qemu.so -delete
        rm -rf unpacked/usr/share/doc
    )
    rm -rf "$LIBVIRT_9"
    mv "$scratch/unpacked" "$LIBVIRT_9"
    rm -rf "$scratch"
}
