//go:build newer

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// What libcni has from 1.2 on. gc takes the attachments that are still valid from CNI_VALID, a JSON array of
// {"containerID", "ifname"}.
func newer(command string, network *libcni.CNIConfig, list *libcni.NetworkConfigList) error {
	switch command {
	case "gc":
		valid := []types.GCAttachment{}
		if text := os.Getenv("CNI_VALID"); text != "" {
			if err := json.Unmarshal([]byte(text), &valid); err != nil {
				return fmt.Errorf("CNI_VALID: %w", err)
			}
		}
		return network.GCNetworkList(context.Background(), list, &libcni.GCArgs{ValidAttachments: valid})
	case "status":
		return network.GetStatusNetworkList(context.Background(), list)
	default:
		return fmt.Errorf("no such command: %q", command)
	}
}
