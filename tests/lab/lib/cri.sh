# shellcheck shell=bash
# containerd in the node, its Container Runtime Interface, and pods made through it. Sourced by ../lab; the functions run
# inside the node.

CONTAINERD=/run/lab-containerd
CRI_SOCKET=$CONTAINERD/containerd.sock
# One image for pause and launcher: a registry is neither needed nor asked.
CRI_IMAGE=localhost/lab:1
# Whom the root of a pod with a user namespace is on the node.
USERNS_ROOT=1000000
# Plugins as containerd finds them: each call is written down in /run/cni-calls, then made.
RECORDED=/opt/cni/recorded

# cri METHOD [SECONDS]: one call of the runtime service. The request is read, and the answer printed, in protobuf's text format.
cri() {
    local method=$1 scratch size status message
    scratch=$(mktemp -d "$CONTAINERD/call.XXXXXX")
    protoc --proto_path="$LAB_HOME" --encode="runtime.v1.${method}Request" cri.proto >"$scratch/message"
    # A gRPC message on the wire: not compressed, four bytes of length, the message.
    size=$(printf '%08x' "$(stat -c %s "$scratch/message")")
    {
        # shellcheck disable=SC2059 # the format is made of hexadecimal digits
        printf "\\x00\\x${size:0:2}\\x${size:2:2}\\x${size:4:2}\\x${size:6:2}"
        cat "$scratch/message"
    } >"$scratch/request"
    status=failed message="no answer"
    if curl --silent --show-error --max-time "${2:-180}" --http2-prior-knowledge --unix-socket "$CRI_SOCKET" \
        --header 'content-type: application/grpc' --header 'te: trailers' --data-binary "@$scratch/request" \
        --dump-header "$scratch/headers" --output "$scratch/answer" "http://localhost/runtime.v1.RuntimeService/$method"; then
        status=$(sed -n 's/^grpc-status: *\([0-9]*\).*/\1/p' "$scratch/headers")
        message=$(sed -n 's/^grpc-message: *//p' "$scratch/headers")
    fi
    if [ "$status" = 0 ]; then
        tail -c +6 "$scratch/answer" | protoc --proto_path="$LAB_HOME" --decode="runtime.v1.${method}Response" cri.proto
    fi
    rm -rf "$scratch"
    [ "$status" = 0 ] || die "$method: gRPC status $status: $message"
}

# containerd_up [1|1.7|2]: Debian 12's own, or a later release's.
containerd_up() {
    local name path=$PATH
    case ${1:-1} in
        1) ;;
        2)
            [ -x "$LATER/usr/bin/containerd" ] || die "containerd 2 is not there: run 'lab packages' again"
            path=$LATER/usr/bin:$PATH
            ;;
        1.7)
            [ -x "$CONTAINERD_17/usr/bin/containerd" ] || die "containerd 1.7 is not there: run 'lab packages' again"
            path=$CONTAINERD_17/usr/bin:$PATH
            ;;
        *) die "containerd-up takes 1, 1.7 or 2" ;;
    esac
    [ ! -e "$CONTAINERD/pid" ] || die "containerd is up already"
    mkdir -p "$CONTAINERD" "$RECORDED"
    for name in /opt/cni/bin/*; do
        ln -sf "$LAB_HOME/recorder" "$RECORDED/$(basename "$name")"
    done
    : >/run/cni-calls
    containerd_settings >"$CONTAINERD/config.toml"
    PATH=$path setsid containerd --config "$CONTAINERD/config.toml" </dev/null >>"$NODE_LOG/containerd.log" 2>&1 &
    record_pid "$CONTAINERD/pid" $!
    disown
    wait_for 120 "containerd to answer (see $NODE_LOG/containerd.log)" containerd_answers
    image "$CONTAINERD/image.tar"
    PATH=$path within 120 ctr --address "$CRI_SOCKET" --namespace k8s.io images import "$CONTAINERD/image.tar" >/dev/null
    rm "$CONTAINERD/image.tar"
}

# In a subshell, for a call that fails ends its shell.
containerd_answers() (cri Version 5 </dev/null)

containerd_down() {
    local pid
    if pid=$(recorded_pid "$CONTAINERD/pid"); then
        kill "$pid"
        wait_for 120 "containerd to end" process_gone "$CONTAINERD/pid"
    fi
    rm -rf "$CONTAINERD" "$RECORDED" /run/cni-calls
}

containerd_settings() {
    cat <<TOML
version = 2
root = "$CONTAINERD/root"
state = "$CONTAINERD/state"
[grpc]
  address = "$CRI_SOCKET"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$CRI_IMAGE"
  # Not every machine lets its root set one.
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$RECORDED"
    conf_dir = "/etc/cni/net.d"
TOML
}

# image FILE: an archive of one OCI image with the least that the machine's /usr, mounted over its own, needs to run.
image() {
    local scratch layer config manifest
    scratch=$(mktemp -d "$CONTAINERD/image.XXXXXX")
    mkdir -p "$scratch"/root/{usr/bin,etc,var/lib,var/log,var/cache,run,tmp,proc,sys,dev,root} "$scratch/blobs/sha256"
    cp /bin/busybox "$scratch/root/usr/bin/"
    ln -s usr/bin usr/sbin usr/lib usr/lib64 "$scratch/root/"
    ln -s /run "$scratch/root/var/run"
    chmod 1777 "$scratch/root/tmp"
    (cd /etc && cp -a --parents passwd group nsswitch.conf machine-id ld.so.cache ld.so.conf ld.so.conf.d alternatives "$scratch/root/etc/")
    tar -C "$scratch/root" -cf "$scratch/layer" .
    layer=$(blob "$scratch" "$scratch/layer")
    printf '{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/busybox","tail","-f","/dev/null"]},"rootfs":{"type":"layers","diff_ids":["%s"]}}' \
        "${layer%% *}" >"$scratch/config"
    config=$(blob "$scratch" "$scratch/config")
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":%s,"layers":[%s]}' \
        "$(descriptor application/vnd.oci.image.config.v1+json "$config")" \
        "$(descriptor application/vnd.oci.image.layer.v1.tar "$layer")" >"$scratch/manifest"
    manifest=$(blob "$scratch" "$scratch/manifest")
    printf '{"schemaVersion":2,"manifests":[%s]}' \
        "$(descriptor application/vnd.oci.image.manifest.v1+json "$manifest" ",\"annotations\":{\"io.containerd.image.name\":\"$CRI_IMAGE\"}")" \
        >"$scratch/index.json"
    echo '{"imageLayoutVersion":"1.0.0"}' >"$scratch/oci-layout"
    tar -C "$scratch" -cf "$1" oci-layout index.json blobs
    rm -rf "$scratch"
}

# blob DIRECTORY FILE: moves FILE to its place in an image; prints its digest and size.
blob() {
    local digest size
    digest=$(sha256sum "$2" | cut -d ' ' -f 1)
    size=$(stat -c %s "$2")
    mv "$2" "$1/blobs/sha256/$digest"
    echo "sha256:$digest $size"
}

# descriptor TYPE "DIGEST SIZE" [MORE]
descriptor() { printf '{"mediaType":"%s","digest":"%s","size":%s%s}' "$1" "${2% *}" "${2#* }" "${3:-}"; }

# As kubelet describes the pod, in the request for a sandbox and again with each of its containers.
cri_pod() {
    cat <<TEXT
metadata { name: "$NAME" uid: "$POD_UID" namespace: "$NAMESPACE" attempt: $ATTEMPT }
hostname: "$NAME"
log_directory: "$NODE_LOG"
labels { key: "io.kubernetes.pod.name" value: "$NAME" }
labels { key: "io.kubernetes.pod.namespace" value: "$NAMESPACE" }
labels { key: "io.kubernetes.pod.uid" value: "$POD_UID" }
linux {
  cgroup_parent: "/$(cri_cgroup)"
  $(cri_namespaces)
}
TEXT
}

# The pod's cgroup, as kubelet's driver names it.
cri_cgroup() { dirname "$(cgroup_of "$CGROUP" "$POD_UID" x)"; }

# cri_cgroup_note ID: of a container. containerd, told a slice, has runc take what systemd would be told for one name, below
# runc's own cgroup or beside it.
cri_cgroup_note() {
    local pod
    pod=$(cri_cgroup)
    cgroup_note "$pod"
    case $CGROUP in
        systemd) cgroup_note "$(basename "$pod"):cri-containerd:$1" ;;
        *) cgroup_note "$pod/$1" ;;
    esac
}

# As kubelet asks for them, for the sandbox and for each container.
cri_namespaces() {
    local map="{ host_id: $USERNS_ROOT container_id: 0 length: 65536 }" userns=
    [ "$USERNS" = no ] || userns="userns_options { mode: POD uids $map gids $map }"
    echo "security_context { namespace_options { pid: CONTAINER $userns } }"
}

# cri_field NAME: of an answer's text, the value of this field.
cri_field() { sed -n "s/^ *$1: \"\(.*\)\"\$/\1/p" | head -n 1; }

# cri_info KEY: of the JSON that a status' info holds, the first value of this key.
cri_info() { grep -o "\\\\\"$1\\\\\":[^,}]*" | head -n 1 | sed 's/.*:\(\\"\)\{0,1\}\([^\\"]*\).*/\2/'; }

cri_sandbox() {
    local status
    cgroup_note "$(cri_cgroup)"
    CID=$(cri RunPodSandbox <<<"config { $(cri_pod) }" | cri_field pod_sandbox_id)
    pod_fact CID "$CID"
    cri_cgroup_note "$CID"
    status=$(cri PodSandboxStatus <<<"pod_sandbox_id: \"$CID\" verbose: true")
    pod_fact PAUSE_PID "$(cri_info pid <<<"$status")"
    # What the dynamic networks controller takes: the path in the sandbox' OCI specification.
    pod_fact NETNS "$(grep -o '/[a-z/]*/netns/cni-[0-9a-f-]*' <<<"$status" | head -n 1)"
}

# A container with the machine's /usr in it, or the /usr of libvirt 12's tree: what runs in it sees the image's root otherwise, and no more of the node than
# any container does.
cri_container() {
    local mounts status kept user=root cache=$SYSTEM_CAPABILITIES usr=/usr
    [ "$LIBVIRT" != 12 ] || usr=$LIBVIRT_12/usr
    if [ "$SESSION" = yes ]; then
        user=$QEMU_UID cache=$SESSION_CAPABILITIES
    fi
    kept=$CACHE/capabilities-$LIBVIRT-$user
    if [ "$USERNS" = yes ]; then
        user=$USERNS_ROOT kept+=-userns
        # Where its container says how far it is.
        touch "$POD_LOG"
        chown "$user:$user" "$POD" "$POD_LOG"
    fi
    mkdir -p "$kept"
    chown "$user:$user" "$kept"
    mounts=$(
        cri_mount "$usr" /usr "readonly: true"
        # No virt-launcher image has it, and libvirt would ask it for the port's name.
        [ ! -e "$usr/bin/ovs-vsctl" ] || cri_mount /dev/null /usr/bin/ovs-vsctl
        cri_mount "$LAB_DIR" "$LAB_DIR"
        cri_mount "$LAB_HOME" "$LAB_HOME" "readonly: true"
        cri_mount "$kept" "$cache"
        [ -z "${VOLUME:-}" ] || cri_mount "$VOLUME" "$SOCKETS"
        [ "$SESSION" = no ] || cri_mount "$VOLUMES/libvirt-runtime" /run/libvirt
    )
    CONTAINER_ID=$(cri CreateContainer <<TEXT | cri_field container_id
pod_sandbox_id: "$CID"
config {
  metadata { name: "compute" }
  image { image: "$CRI_IMAGE" user_specified_image: "$CRI_IMAGE" }
  command: "/usr/bin/env" command: "LAB_DIR=$LAB_DIR" command: "$LAB_SELF" command: "--inside" command: "launcher_main" command: "$NAME"
  envs { key: "PATH" value: "/usr/sbin:/usr/bin:/sbin:/bin" }
  $mounts
  log_path: "pod-$NAME.cri.log"
  linux { $(cri_namespaces) }
}
sandbox_config { $(cri_pod) }
TEXT
    )
    pod_fact CONTAINER_ID "$CONTAINER_ID"
    cri_cgroup_note "$CONTAINER_ID"
    cri StartContainer <<<"container_id: \"$CONTAINER_ID\"" >/dev/null
    status=$(cri ContainerStatus <<<"container_id: \"$CONTAINER_ID\" verbose: true")
    pod_fact PID "$(cri_info pid <<<"$status")"
}

cri_mount() { echo "mounts { host_path: \"$1\" container_path: \"$2\" ${3:-} }"; }

# Running or not, there or not.
cri_remove() { cri RemovePodSandbox <<<"pod_sandbox_id: \"$CID\"" >/dev/null; }
