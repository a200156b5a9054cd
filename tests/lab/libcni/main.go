// runtime is a CNI runtime for the lab: libcni, driven from the command line like cnitool, but with the container
// id, the interface's name and the cache directory free to choose.
//
//	runtime add|check|del|gc|status CONFLIST_FILE
//
// The environment says the rest: CNI_CONTAINERID, CNI_NETNS (may be empty on del), CNI_IFNAME, CNI_PATH, and
// optionally CNI_ARGS (KEY=VALUE;...), CAP_ARGS (a JSON object of capability arguments), CNI_CACHE (default
// /var/lib/cni), LAB_CHROOT (the plugins' root). On success the result of add is printed; on failure the plugin's error object is, and the exit
// status is 1.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		var failure *types.Error
		if errors.As(err, &failure) {
			_ = failure.Print()
		}
		fmt.Fprintln(os.Stderr, "runtime:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: runtime add|check|del|gc|status CONFLIST_FILE")
	}
	list, err := libcni.ConfListFromFile(args[1])
	if err != nil {
		return err
	}
	cache := os.Getenv("CNI_CACHE")
	if cache == "" {
		cache = "/var/lib/cni"
	}
	var how invoke.Exec
	if root := os.Getenv("LAB_CHROOT"); root != "" {
		how = &chrootExec{root: root}
	}
	network := libcni.NewCNIConfigWithCacheDir(filepath.SplitList(os.Getenv("CNI_PATH")), cache, how)
	if args[0] == "gc" || args[0] == "status" {
		return newer(args[0], network, list)
	}
	call, err := callFromEnvironment()
	if err != nil {
		return err
	}
	ctx := context.Background()
	switch args[0] {
	case "add":
		result, err := network.AddNetworkList(ctx, list, call)
		if err != nil {
			return err
		}
		return result.Print()
	case "check":
		return network.CheckNetworkList(ctx, list, call)
	case "del":
		return network.DelNetworkList(ctx, list, call)
	default:
		return fmt.Errorf("no such command: %q", args[0])
	}
}

func callFromEnvironment() (*libcni.RuntimeConf, error) {
	call := &libcni.RuntimeConf{
		ContainerID: os.Getenv("CNI_CONTAINERID"),
		NetNS:       os.Getenv("CNI_NETNS"),
		IfName:      os.Getenv("CNI_IFNAME"),
	}
	if call.ContainerID == "" || call.IfName == "" {
		return nil, errors.New("CNI_CONTAINERID and CNI_IFNAME must be set")
	}
	if args := os.Getenv("CNI_ARGS"); args != "" {
		for _, pair := range strings.Split(args, ";") {
			key, value, found := strings.Cut(pair, "=")
			if !found {
				return nil, fmt.Errorf("CNI_ARGS: %q is not KEY=VALUE", pair)
			}
			call.Args = append(call.Args, [2]string{key, value})
		}
	}
	if capabilities := os.Getenv("CAP_ARGS"); capabilities != "" {
		if err := json.Unmarshal([]byte(capabilities), &call.CapabilityArgs); err != nil {
			return nil, fmt.Errorf("CAP_ARGS: %w", err)
		}
	}
	return call, nil
}
