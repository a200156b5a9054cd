# shellcheck shell=bash
# What the lab is made of, from Debian's own archive. Sourced by ../lab.

# bookworm's QEMU 7.2 crashes when a guest drives a hot-plugged vhost-user NIC; 10.0.2 does not.
OLDEST_QEMU=10.0

# libcni 1.3 needs it; bookworm has 1.19.
OLDEST_GO=1.21

# Taken from backports on Debian 12, from the release itself later on. The libvirt of backports brings its libcurl along,
# to which curl must be equal.
NEWER_PACKAGES=(qemu-system-x86 libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients golang-go curl)

OTHER_PACKAGES=(
    busybox-static cpio xz-utils socat iproute2 iputils-ping procps
    golang-github-appc-cni-dev containernetworking-plugins strace
    containerd runc protobuf-compiler
)

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

version_of() { dpkg-query -W -f '${Version}' "$1" 2>/dev/null; }

# new_enough PACKAGE VERSION
new_enough() {
    local version
    version=$(version_of "$1") || return 1
    # The epoch goes: it says nothing about a program's age.
    dpkg --compare-versions "${version#*:}" ge "$2"
}

packages_complete() {
    local package
    for package in "${NEWER_PACKAGES[@]}" "${OTHER_PACKAGES[@]}"; do
        installed "$package" || return 1
    done
    new_enough qemu-system-x86 "$OLDEST_QEMU" && new_enough golang-go "$OLDEST_GO"
}

# The machine's own archive for a release's main component, as the one line that a .list file would hold: whatever
# mirror, key and format (deb822 or not) the machine uses, only the suite differs.
sources_line() {
    local release=$1 suite=$2 uri key
    uri=$(apt-get indextargets --format '$(CREATED_BY) $(RELEASE) $(COMPONENT) $(REPO_URI)' |
        awk -v release="$release" '$1 == "Packages" && $2 == release && $3 == "main" { print $4; exit }')
    [ -n "$uri" ] || die "apt knows no archive of Debian $release (main): add one to /etc/apt/sources.list"
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    if [ -e "$key" ]; then
        echo "deb [signed-by=$key] $uri $suite main"
    else
        echo "deb $uri $suite main"
    fi
}

suite_configured() {
    apt-get indextargets --format '$(RELEASE)' | grep -qx "$1"
}

# While packages are put in, no service may start: Debian asks /usr/sbin/policy-rc.d, 101 means no.
forbid_services() {
    local policy=/usr/sbin/policy-rc.d
    # One already put aside is the machine's own: a lab was interrupted here.
    if [ -e "$policy" ] && [ ! -e "$policy.before-lab" ]; then
        mv "$policy" "$policy.before-lab"
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

allow_services_again() {
    local policy=/usr/sbin/policy-rc.d
    rm -f "$policy"
    if [ -e "$policy.before-lab" ]; then
        mv "$policy.before-lab" "$policy"
    fi
}

lab_packages() {
    local apart
    need_root packages
    wanted_set
    mkdir -p "$CACHE"
    # Most of the time goes by while packages are installed.
    fetch_apart &
    apart=$!
    if ! packages_complete; then
        install_packages
        packages_complete || die "packages were installed, yet some are missing, or QEMU is older than $OLDEST_QEMU or Go than $OLDEST_GO"
    fi
    fetch_own
    wait "$apart" || die "what comes from other releases was not fetched: see above"
    runtimes_built || build_runtimes
    say "packages: $(set_versions)"
}

install_packages() {
    command -v apt-get >/dev/null || die "packages works on Debian only: no apt-get here"
    local codename scratch suite=
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME") || die "packages works on Debian only"
    scratch=$(mktemp -d /var/tmp/lab-apt.XXXXXX)
    local -a apt=(apt-get -o DPkg::Lock::Timeout=600)
    # shellcheck disable=SC2064 # the names as they are now
    trap "allow_services_again; rm -rf '$scratch'" EXIT
    if [ "$codename" = bookworm ]; then
        suite=bookworm-backports
        if ! suite_configured "$suite"; then
            # The extra source lives in a copy of the sources directory: /etc/apt itself is never touched.
            cp /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources "$scratch/" 2>/dev/null || true
            sources_line "$codename" "$suite" >"$scratch/lab-backports.list"
            apt+=(-o "Dir::Etc::SourceParts=$scratch")
        fi
    fi
    say "packages: asking the archive"
    "${apt[@]}" -qq update
    forbid_services
    export DEBIAN_FRONTEND=noninteractive
    "${apt[@]}" -qq -y --no-install-recommends ${suite:+-t "$suite"} install "${NEWER_PACKAGES[@]}"
    "${apt[@]}" -qq -y --no-install-recommends install "${OTHER_PACKAGES[@]}"
    allow_services_again
    rm -rf "$scratch"
    trap - EXIT
}
