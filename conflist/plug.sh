#!/bin/sh
# Plugs a NIC into a running pod's VM, or unplugs it, as your own controller would. Run it on the pod's node, as root.
#
#   plug.sh add|del NAMESPACE/POD INTERFACE SANDBOX NETNS
#   plug.sh add default/vm1 pod59cc33fa39b "$sandbox" /proc/637226/ns/net
#
# SANDBOX is the ID of the pod's sandbox: sandbox=$(crictl pods -q --state ready --namespace default --name '^vm1$')
# NETNS is the network namespace of any process of the pod. "add" prints the NIC's addresses as a CNI result. If it fails, it
# unplugs the NIC, even if an earlier "add" plugged it. Both may be repeated. The network is that of nad.yaml: kube-ovn must
# have an address for the pod in it, which it allocates for the annotation in plug.yaml.
set -eu

[ $# -eq 5 ] || { sed -n 's/^#   //p' "$0" >&2; exit 2; }
command=$1
CNI_PATH=${CNI_PATH:-/opt/cni/bin}
CNI_CONTAINERID=$4 CNI_NETNS=$5 CNI_IFNAME=$3
CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=${2%%/*};K8S_POD_NAME=${2#*/}"
export CNI_PATH CNI_CONTAINERID CNI_NETNS CNI_IFNAME CNI_ARGS

common='"cniVersion": "1.0.0", "name": "dpdk1", "vhost_user_socket_volume_name": "vhostuser-sockets",
    "vhost_user_socket_consumption": "kubevirt"'
kube_ovn="{$common, \"type\": \"kube-ovn\", \"server_socket\": \"/run/openvswitch/kube-ovn-daemon.sock\",
    \"provider\": \"dpdk1.default.ovn\"}"

# call COMMAND PLUGIN CONFIGURATION: prints the plugin's result or its error object on stdout.
call() { printf '%s' "$3" | CNI_COMMAND=$1 "$CNI_PATH/$2"; }

# The reverse order of "add": the port may be removed only when the guest has released the NIC.
unplug() {
    call DEL vhostuser-hotplug "{$common, \"type\": \"vhostuser-hotplug\"}"
    call DEL kube-ovn "$kube_ovn"
}

case $command in
    add)
        if ! result=$(call ADD kube-ovn "$kube_ovn"); then
            echo "$result" >&2
            call DEL kube-ovn "$kube_ovn" >&2
            exit 1
        fi
        if ! answer=$(call ADD vhostuser-hotplug "{$common, \"type\": \"vhostuser-hotplug\", \"prevResult\": $result}"); then
            echo "$answer" >&2
            unplug >&2
            exit 1
        fi
        echo "$answer"
        ;;
    del) unplug ;;
    *) echo "plug.sh: add or del, not $command" >&2; exit 2 ;;
esac
