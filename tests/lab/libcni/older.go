//go:build !newer

package main

import (
	"fmt"

	"github.com/containernetworking/cni/libcni"
)

func newer(command string, _ *libcni.CNIConfig, _ *libcni.NetworkConfigList) error {
	return fmt.Errorf("no such command of libcni 1.1: %q", command)
}
