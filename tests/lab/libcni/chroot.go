package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"syscall"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// chrootExec runs plugins as thick Multus does: found by the runtime's own paths, run with another root, and with the
// runtime's working directory, which lies outside of it.
type chrootExec struct {
	version.PluginDecoder
	root string
}

func (e *chrootExec) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

func (e *chrootExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(ctx, path)
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: e.root}
	command.Env, command.Stdin, command.Stdout, command.Stderr = environ, bytes.NewReader(stdin), &stdout, &stderr
	err := command.Run()
	if err == nil {
		return stdout.Bytes(), nil
	}
	failure := types.Error{}
	if json.Unmarshal(stdout.Bytes(), &failure) != nil {
		return nil, fmt.Errorf("%s: %w: %s%s", path, err, stdout.String(), stderr.String())
	}
	return nil, &failure
}
