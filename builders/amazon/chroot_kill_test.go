//go:build linux

package amazon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/machine"
)

// filed is a ledger in a file.
type filed struct {
	*memory
	path string
}

func (f filed) save(err error) error {
	b, e := json.Marshal(f.memory.Open())
	if e == nil {
		e = os.WriteFile(f.path+".new", b, 0o600)
	}
	if e == nil {
		e = os.Rename(f.path+".new", f.path)
	}
	return errors.Join(err, e)
}

func (f filed) Intend(ctx context.Context, kind, name string, data map[string]string) (builders.Lease, error) {
	l, err := f.memory.Intend(ctx, kind, name, data)
	return l, f.save(err)
}

func (f filed) Created(ctx context.Context, l builders.Lease, id string) error {
	return f.save(f.memory.Created(ctx, l, id))
}

func (f filed) Released(ctx context.Context, l builders.Lease) error {
	return f.save(f.memory.Released(ctx, l))
}

const killEnv = "INGOT_TEST_CHROOT_KILL"

// A bake whose process is killed while a daemon runs in the tree and has mounted
// something leaves nothing that keeps the volume busy, and its ledger the rest.
func TestChrootKilled(t *testing.T) {
	if in := os.Getenv(killEnv); in != "" {
		killed(t, in)
		return
	}
	c := newChrootCloud(t, small(t), ec2.Options{NVMe: true})
	dir := t.TempDir()
	body := c.body(`ami_name = "killed"`)
	if err := os.WriteFile(filepath.Join(dir, "body"), []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestChrootKilled$", "-test.v")
	cmd.Env = append(os.Environ(), killEnv+"="+dir, killEnv+"_DEV="+c.env.DevDir, killEnv+"_SYS="+c.env.SysDir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	up := false
	for lines := bufio.NewScanner(out); !up && lines.Scan(); {
		up = strings.Contains(lines.Text(), "the daemon is up")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // it was killed
	if !up {
		t.Fatal("the bake did not come so far")
	}
	text, err := os.ReadFile(filepath.Join(dir, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	var open []builders.Lease
	if err := json.Unmarshal(text, &open); err != nil || len(open) != 3 {
		t.Fatalf("the ledger has %s, %v", text, err)
	}
	if there, err := mountsBelow(c.mounts); err != nil || len(there) != 1 {
		t.Errorf("mounted is %v, %v", there, err)
	}
	for _, l := range slices.Backward(open) {
		if err := NewChroot(c.env).Release(t.Context(), l); err != nil {
			t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
		}
	}
	c.wantClean("kill -9")
}

// killed is the process that is killed.
func killed(t *testing.T, dir string) {
	body, err := os.ReadFile(filepath.Join(dir, "body"))
	if err != nil {
		t.Fatal(err)
	}
	env := NewEnv(awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly, Speed: 50}))
	env.DevDir, env.SysDir = os.Getenv(killEnv+"_DEV"), os.Getenv(killEnv+"_SYS")
	b := NewChroot(env)
	decodeInto(t, b, string(body))
	run := newRun(t, "killed", nil)
	run.Type, run.Leases = "amazon-chroot", filed{&memory{bake: "killed"}, filepath.Join(dir, "ledger")}
	m, err := b.Boot(t.Context(), run)
	if err != nil {
		t.Fatal(err)
	}
	line := `mkdir -p /mnt; mount -t tmpfs none /mnt; (trap '' TERM HUP; cd /mnt; echo the daemon is up; while :; do sleep 1; done >/dev/null 2>&1) & exec sleep 1000`
	t.Fatal(m.Run(t.Context(), machine.Command{Line: line, Stdout: os.Stdout}))
}
