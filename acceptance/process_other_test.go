//go:build !linux

package acceptance

import (
	"errors"
	"syscall"
)

// dieWithParent needs support from the kernel, which only Linux has. Elsewhere a killed test binary leaves its server
// behind.
func dieWithParent() *syscall.SysProcAttr { return nil }

func childrenOf(int, string) ([]int, error) {
	return nil, errors.New("finding the children of a process needs /proc, which only Linux has")
}

func startedWith(string, string) []int { return nil }

func runs(int, string) bool { return false }
