//go:build !linux

package acceptance

import (
	"errors"
	"syscall"
)

// dieWithParent needs the kernel's help, which only Linux gives: elsewhere a killed test binary leaves its server.
func dieWithParent() *syscall.SysProcAttr { return nil }

func childrenOf(int, string) ([]int, error) {
	return nil, errors.New("looking up a process's children needs /proc, as on Linux")
}

func startedWith(string, string) []int { return nil }

func runs(int, string) bool { return false }
