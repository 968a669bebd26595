package acceptance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// dieWithParent makes the kernel end a child if the test binary is killed and cannot clean up. It uses SIGTERM, which
// Vault passes on to its plugins. SIGKILL would leave them behind.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}

// childrenOf returns the pids of the children of a process that run the given program.
func childrenOf(pid int, program string) ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var children []int
	for _, stat := range stats {
		child, parent, ok := readStat(stat)
		if ok && parent == pid && runs(child, program) {
			children = append(children, child)
		}
	}
	return children, nil
}

// startedWith returns the pids of processes that run the program with a setting such as HOME=/x in their environment,
// whoever their parent is now.
func startedWith(setting, program string) (pids []int) {
	environments, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environments {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || !runs(pid, program) {
			continue
		}
		content, err := os.ReadFile(path) //nolint:gosec // below /proc
		if err == nil && slices.Contains(strings.Split(string(content), "\x00"), setting) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// readStat returns the pid and the parent of a process, and false if the process is gone.
func readStat(path string) (pid, parent int, ok bool) {
	content, err := os.ReadFile(path) //nolint:gosec // below /proc
	if err != nil {
		return 0, 0, false
	}
	// The format is "pid (name) state ppid …". The name may contain spaces and parentheses.
	_, afterName, found := cutLast(string(content), ") ")
	if !found {
		return 0, 0, false
	}
	var state string
	if _, err := fmt.Sscan(afterName, &state, &parent); err != nil {
		return 0, 0, false
	}
	pid, err = strconv.Atoi(filepath.Base(filepath.Dir(path)))
	return pid, parent, err == nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// runs reports whether the process with this pid runs the program. It is checked before each kill, because pids are
// reused.
func runs(pid int, program string) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && strings.TrimSuffix(exe, " (deleted)") == program
}
