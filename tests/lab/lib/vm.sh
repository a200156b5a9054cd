# shellcheck shell=bash
# The VM in a pod, and its guest. Sourced by ../lab; runs inside the node, after pod_load.

GUEST_MEMORY=256
# Size of a DIMM, and of every NUMA cell but the first, which has GUEST_MEMORY.
SMALL_MEMORY=32
# Slots for DIMMs that a VM with DIMMs has.
DIMM_SLOTS=24
GUEST_SOCKET=/run/lab/guest.sock
GUEST_CONSOLE=/run/lab/console.log

# domain_xml VCPUS PORTS SHARED GUEST HOTPLUG CELLS DIMMS PAGES VIDEO
# DIMMS is a number, or empty for a VM that cannot have any.
domain_xml() {
    local vcpus=$1 ports=$2 shared=$3 guest=$4 hotplug=$5 cells=$6 dimms=$7 pages=$8 video=$9
    local port cell dimm cpus access='' memory='' total most=''
    # Warnings, too, such as where a CPU is that does not come back.
    local cmdline='console=ttyS0 quiet loglevel=5 panic=1' initrd=$GUEST_INITRD qemu=''
    [ ! -s "$RUN/initramfs.gz" ] || initrd=$RUN/initramfs.gz
    cpus=0$([ "$vcpus" = 1 ] || echo "-$((vcpus - 1))")
    total=$((GUEST_MEMORY + (cells - 1 + ${dimms:-0}) * SMALL_MEMORY))
    [ -z "$dimms" ] || most="<maxMemory slots='$DIMM_SLOTS' unit='MiB'>$((total + DIMM_SLOTS * SMALL_MEMORY))</maxMemory>"
    if [ "$shared" = yes ]; then
        [ "$pages" = usual ] || memory="<hugepages><page size='2' unit='MiB'/></hugepages>"
        memory="<memoryBacking>$memory<source type='memfd'/><access mode='shared'/></memoryBacking>"
        access=" memAccess='shared'"
    fi
    # acpiphp is built in; without it nobody in the guest answers the request to let a device go.
    [ "$guest" = usual ] || cmdline+=" lab.$guest acpiphp.disable=1 pcie_ports=compat"
    # As machines before pc-q35-6.1 are: the root ports themselves, and the guest's pciehp, see to hot-plug.
    [ "$hotplug" = acpi ] || qemu="<qemu:commandline><qemu:arg value='-global'/>
    <qemu:arg value='ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off'/></qemu:commandline>"
    cat <<XML
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>$DOMAIN</name>
  $most
  <memory unit='MiB'>$total</memory>
  $memory
  <vcpu>$vcpus</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>$GUEST_KERNEL</kernel>
    <initrd>$initrd</initrd>
    <cmdline>$cmdline</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu><numa>
    <cell id='0' cpus='$cpus' memory='$GUEST_MEMORY' unit='MiB'$access/>
$(for ((cell = 1; cell < cells; cell++)); do echo "    <cell id='$cell' memory='$SMALL_MEMORY' unit='MiB'$access/>"; done)
  </numa></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='pci' index='0' model='pcie-root'/>
$(for ((port = 1; port <= ports; port++)); do echo "    <controller type='pci' index='$port' model='pcie-root-port'/>"; done)
    <controller type='usb' model='none'/>
$(for ((dimm = 0; dimm < ${dimms:-0}; dimm++)); do dimm_xml; done)
    <serial type='file'><source path='$GUEST_CONSOLE'/><target port='0'/></serial>
    <serial type='unix'><source mode='bind' path='$GUEST_SOCKET'/><target port='1'/></serial>
    <video><model type='$video'/></video>
    <memballoon model='none'/>
  </devices>
  $qemu
</domain>
XML
}

# A DIMM, for domain_xml and for 'virsh attach-device'.
dimm_xml() {
    echo "<memory model='dimm'><target><size unit='MiB'>$SMALL_MEMORY</size><node>0</node></target></memory>"
}

# vm_dimm NAME COUNT: plugs so many DIMMs into a VM that runs.
vm_dimm() {
    local count
    pod_load "$1"
    dimm_xml >"$POD/dimm.xml"
    for ((count = 0; count < ${2:-1}; count++)); do
        virsh_in attach-device "$DOMAIN" "$POD/dimm.xml" --live >/dev/null
    done
}

# vm_regions NAME: the sections of the guest's memory in QEMU's memory map, by address: FIRST LAST BLOCK OFFSET, in
# hexadecimal digits. These are what QEMU shares with a vhost-user back end, which has neighbours of one block joined.
vm_regions() {
    pod_load "$1"
    # "rom" is RAM that the chipset write-protects; the names leave the firmware's own out.
    monitor 'info mtree -f' | awk '
        /^FlatView/ { shown += here; here = 0 }
        /AS "memory", root: system/ { here = 1 }
        here && !shown && $4 ~ /^r[ao]m\):/ && $5 ~ /^(pc\.ram|ram-node|memdimm)/ {
            sub("-", " ", $1)
            print $1, $5, $6 ~ /^@/ ? substr($6, 2) : 0
        }'
}

# in_container COMMAND...: in the namespaces of the pod's container.
in_container() {
    [ -n "${PID:-}" ] && [ -d "/proc/$PID" ] || die "pod '$NAME' has no running container"
    nsenter --target "$PID" --mount --net --pid --ipc --uts "$@"
}

# An attach waits for its data plane, and with it whoever looks at the VM.
virsh_in() {
    in_container timeout --verbose --kill-after=10 300 virsh --quiet --connect "$LIBVIRT_URI" "$@"
}

pod_virsh() {
    pod_load "$1"
    shift
    virsh_in "$@"
}

# vm_migrate FROM TO [OPTION OF virsh migrate...]: moves the VM of one pod into another that has none. It keeps its name.
# Both daemons are spoken to from the node, and QEMU's stream goes over a socket in the one directory that all containers
# share.
vm_migrate() {
    local from=$1 to=$2 target
    shift 2
    pod_load "$to"
    target=$(libvirt_from_the_node)
    pod_load "$from"
    install -d -m 777 "$POD/migration"
    within 600 virsh --quiet --connect "$(libvirt_from_the_node)" migrate --live --domain "$DOMAIN" --desturi "$target" \
        --migrateuri "unix://$POD/migration/socket" "$@"
}

libvirt_from_the_node() {
    local uri=${LIBVIRT_URI%\?*}
    echo "qemu+unix:${uri#qemu:}?socket=/proc/$PID/root$LIBVIRT_SOCKET"
}

vm_start() {
    in_container rm -f "$GUEST_CONSOLE"
    virsh_in start "$DOMAIN" >/dev/null
}

vm() {
    pod_load "$1"
    case ${2:-} in
        start) vm_boot ;;
        reboot)
            # A hardware reset, as the guest has nobody to answer an ACPI one.
            in_container truncate -s 0 "$GUEST_CONSOLE"
            virsh_in reset "$DOMAIN" >/dev/null
            guest_wait
            ;;
        dimm) vm_dimm "$1" "${3:-1}" ;;
        regions) vm_regions "$1" ;;
        destroy | suspend | resume) virsh_in "$2" "$DOMAIN" >/dev/null ;;
        *) die "vm takes start, destroy, reboot, suspend, resume, dimm or regions" ;;
    esac
}

# vm_boot: starts the VM, until its guest answers. An emulated guest has been seen not to come up, long before a NIC was
# plugged: that is shown, and the VM started once more.
vm_boot() {
    vm_start
    if (guest_wait); then return; fi
    say "the guest has not booted; the end of its console, and its QEMU's threads (state, seconds of a CPU / 100):"
    tail -n 20 "/proc/$PID/root$GUEST_CONSOLE" >&2 || true
    cut -d ' ' -f 2,3,4,14,15 "/proc/$(pod_process qemu-system-x86)"/task/*/stat >&2 || true
    vm_stuck "$NAME" >&2 || true
    say "and the end of QEMU's own log:"
    tail -n 5 "/proc/$PID/root/var/log/libvirt/qemu/$DOMAIN.log" | cut -c 1-300 >&2 || true
    say "the VM is started once more"
    # It may have ended by itself.
    virsh_in destroy "$DOMAIN" >/dev/null || true
    vm_start
    guest_wait
}

guest_wait() {
    wait_for 120 "the guest to boot ($GUEST_CONSOLE in the container)" \
        grep -q 'lab guest is ready' "/proc/$PID/root$GUEST_CONSOLE"
    guest_run 20 true
}

# vm_stuck NAME: the CPUs of its VM that the emulator has left for dead, if there are any: one that halts for good, with
# interrupts allowed, while its local APIC has an interrupt in service. No guest does that, as it ends an interrupt (EOI)
# before it goes idle; the end got lost on the way, and no interrupt of that priority or a lower one comes through any more.
vm_stuck() {
    local look cpu vectors seen='' now
    pod_load "$1"
    for look in 1 2 3; do
        [ "$look" = 1 ] || sleep 1
        now=''
        while read -r cpu; do
            vectors=$(monitor "info lapic $cpu" | awk '$1 == "ISR" && $2 != "(none)" { $1 = ""; print }')
            [ -z "$vectors" ] || now+="CPU $cpu halts with interrupt$vectors in service"$'\n'
        done < <(monitor 'info registers -a' | awk '/^CPU#/ { cpu = substr($1, 5) } /^RIP=.* HLT=1/ { print cpu }')
        [ -n "$now" ] || return 0
        # What was caught in passing has changed by the next look.
        [ "$look" = 1 ] || [ "$now" = "$seen" ] || return 0
        seen=$now
    done
    printf '%s' "$seen"
}

monitor() {
    in_container timeout --kill-after=5 15 virsh --quiet --connect "$LIBVIRT_URI" qemu-monitor-command "$DOMAIN" --hmp "$1" |
        tr -d '\r'
}

guest() {
    pod_load "$1"
    shift
    guest_run "${LAB_GUEST_TIMEOUT:-30}" "$*"
}

# guest_run SECONDS SCRIPT: prints the script's output, returns its exit status; 124 when the guest does not answer.
# An emulated serial line loses a line now and then: what is not acknowledged is sent again, under the same id, and the
# guest runs it once.
guest_run() {
    local seconds=$1 id="$BASHPID-$RANDOM" request line part='' pending='' begun='' end status=124 sent answer
    local guest_in guest_out
    exec 8>"$POD/guest.lock"
    flock -w "$seconds" 8 || die "another guest command of pod '$NAME' did not end within $seconds s"
    coproc SERIAL { exec nsenter --target "$PID" --mount socat - "UNIX-CONNECT:$GUEST_SOCKET" 8>&- 2>>"$POD/log"; }
    guest_out=${SERIAL[0]} guest_in=${SERIAL[1]}
    # The first newline ends whatever an interrupted caller left on the line.
    request=$(printf '\n@@run %s %s %s' "$id" "$seconds" "$(printf '%s\n' "$2" | base64 -w 0)")
    printf '%s\n' "$request" >&"$guest_in"
    sent=$SECONDS end=$((SECONDS + seconds + 10))
    while [ "$SECONDS" -lt "$end" ]; do
        answer=0
        IFS= read -r -t 1 line <&"$guest_out" || answer=$?
        if [ "$answer" -gt 128 ]; then
            # A second without a whole line; what came of it is kept.
            part+=$line
            if { [ -z "$begun" ] && [ $((SECONDS - sent)) -ge 3 ]; } || [ $((SECONDS - sent)) -ge $((seconds + 3)) ]; then
                begun='' pending='' sent=$SECONDS
                printf '%s\n' "$request" >&"$guest_in"
            fi
            continue
        fi
        [ "$answer" = 0 ] || break
        line=$part$line part=''
        if [ -z "$begun" ]; then
            [ "$line" != "@@begin $id" ] || begun=first
            continue
        fi
        if [[ $line == "@@end $id "* ]]; then
            status=${line##* }
            # The guest adds a newline of its own before this line: an empty line pending is that one.
            [ -z "$pending" ] || printf '%s\n' "$pending"
            break
        fi
        [ "$begun" = first ] || printf '%s\n' "$pending"
        begun=more pending=$line
    done
    # Not a signal that it handles: socat may sleep on after one that comes while it goes to sleep.
    kill -KILL "$SERIAL_PID" 2>/dev/null || true
    wait "$SERIAL_PID" 2>/dev/null || true
    exec 8>&-
    return "$status"
}

guest_console() {
    pod_load "$1"
    cat "/proc/$PID/root$GUEST_CONSOLE"
}
