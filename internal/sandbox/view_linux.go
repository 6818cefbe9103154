package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// RunInView works on a merged tree: the view is mounted in a
// mount and PID namespace of its own, and task, which Tasks names, is called
// there with the tree's path and the JSON input. Its JSON output is decoded into out.
func RunInView(ctx context.Context, v View, task string, in, out any) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return err
	}
	msg, err := json.Marshal(viewCall{View: v, Task: task, Input: raw, UserNS: InUserNamespace()})
	if err != nil {
		return err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{argView}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(msg), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // see Start
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	if err := <-done; err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if stdout.Len() == 0 {
			return fmt.Errorf("pack the image: %w %s", err, bytes.TrimSpace(stderr.Bytes()))
		}
	}
	var r viewResult
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		return fmt.Errorf("pack the image: %w %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return json.Unmarshal(r.Output, out)
}

type viewCall struct {
	View
	Task   string          `json:"task"`
	Input  json.RawMessage `json:"input"`
	UserNS bool            `json:"user_ns"`
}

type viewResult struct {
	Error  string          `json:"error,omitempty"`
	Output json.RawMessage `json:"output,omitempty"`
}

func viewMain(tasks Tasks) {
	out, err := viewRun(tasks)
	r := viewResult{Error: errText(err)}
	if err == nil {
		if r.Output, err = json.Marshal(out); err != nil {
			r.Error = err.Error()
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(r)
	if r.Error != "" {
		os.Exit(1)
	}
	os.Exit(0)
}

func viewRun(tasks Tasks) (any, error) {
	raw, err := io.ReadAll(os.Stdin)
	if err != nil {
		return nil, err
	}
	var c viewCall
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("keep the view's mounts to itself: %w", err)
	}
	tree, err := mountRoot(Config{Dir: c.Dir, Layers: c.Layers, Image: c.Image}, c.UserNS, true)
	if err != nil {
		return nil, err
	}
	// Tools started below look at /proc; it must be the one of this namespace.
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil && !c.UserNS {
		return nil, fmt.Errorf("mount /proc: %w", err)
	}
	task, ok := tasks[c.Task]
	if !ok {
		return nil, fmt.Errorf("no packing task %q", c.Task)
	}
	return task(context.Background(), tree, c.Input)
}
