package acceptance

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// stopTimeout is how long a process may take to exit before it is killed.
const stopTimeout = 20 * time.Second

// process is a program that a test started. Its output goes to a file. It is only ever signalled by its pid.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // valid once exited is closed
}

// startProcess runs a program with exactly the given environment.
func startProcess(output *os.File, env []string, name string, args ...string) (*process, error) {
	cmd := exec.Command(name, args...) //nolint:gosec,noctx // a program under test, ended by stop or kill
	cmd.Env = env
	cmd.Stdout = output
	cmd.Stderr = output
	cmd.SysProcAttr = dieWithParent()
	if err := onLauncher(cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// stop asks the process to exit and waits. If it does not exit in time, stop kills it and returns an error.
func (p *process) stop() error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("process %d still ran %s after SIGTERM", p.pid(), stopTimeout), p.kill())
	}
}

// kill ends the process at once, as a crash or the OOM killer would.
func (p *process) kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.exited
	return nil
}

// signal sends a signal. It does nothing if the process has ended.
func (p *process) signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %v to process %d: %w", s, p.pid(), err)
	}
	return nil
}

// launcher returns a queue of functions. They all run on one thread, which never ends.
var launcher = sync.OnceValue(func() chan<- func() {
	queue := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range queue {
			f()
		}
	}()
	return queue
})

// onLauncher runs f on the launcher's thread. A child started with dieWithParent ends when the thread that started it
// ends, not when the process does, and Go may end any other thread.
func onLauncher(f func() error) error {
	result := make(chan error)
	launcher() <- func() { result <- f() }
	return <-result
}
