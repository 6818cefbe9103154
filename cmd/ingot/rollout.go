package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/state"
	"github.com/ingotbuild/ingot/internal/userns"
	"github.com/ingotbuild/ingot/registry"
	"github.com/ingotbuild/ingot/report"
	"github.com/ingotbuild/ingot/rollouts"
	boxtarget "github.com/ingotbuild/ingot/rollouts/sandbox"
)

func rolloutVerb() verb {
	return verb{
		name: "rollout", args: "SERVICE | status|back|retire|stop [SERVICE]", short: "Bring the version that a channel names into service, blue-green",
		long: `ingot rollout web          start a new fleet from the version in the service's channel, prove it, switch the traffic
ingot rollout status [web] show what is live and what can be gone back to
ingot rollout back [web]   switch the traffic back to the fleet from before
ingot rollout retire [web] stop the fleet from before
ingot rollout stop [web]   stop everything`,
		run: runRollout,
	}
}

func runRollout(ctx context.Context, c *cli, args []string) int {
	fs := c.flags()
	asJSON := fs.Bool("json", false, "write JSON (status)")
	version := fs.String("version", "", "roll out this `version` (v3) in place of the one in the channel")
	rest, err := c.parse(fs, args, 1, 2)
	if err != nil {
		return code(err)
	}
	action := "start"
	switch rest[0] {
	case "status", "back", "retire", "stop":
		action, rest = rest[0], rest[1:]
	}
	if len(rest) > 1 {
		fmt.Fprintf(c.err, "ingot rollout: there is no action %q; there are status, back, retire and stop.\n", rest[0])
		return exitFailed
	}
	store, err := openRegistry(ctx)
	if err != nil {
		return c.fail(err)
	}
	defer store.Close()
	name := ""
	if len(rest) == 1 {
		name = rest[0]
	} else if name, err = onlyService(ctx, store); err != nil {
		return c.fail(err)
	}
	if err := registry.CheckService(name); err != nil {
		return c.fail(err)
	}
	sock, err := controlSocket(name)
	if err != nil {
		return c.fail(err)
	}
	progress := func(u rollouts.Update) {
		w := ""
		if u.Warning {
			w = "Warning: "
		}
		fmt.Fprintf(c.out, "==> %s: %s%s\n", name, w, u.Text)
	}
	switch action {
	case "start":
		if userns.Needed() {
			status, err := userns.Enter()
			if err != nil {
				return c.fail(err)
			}
			return status
		}
		return c.rollOut(ctx, store, name, *version, sock, progress)
	case "status":
		return c.rolloutStatus(ctx, store, name, sock, *asJSON)
	}
	client, err := rollouts.Dial(sock)
	if err != nil {
		return c.fail(fmt.Errorf("service %q is not running: `ingot rollout %s` starts it (%w)", name, name, err))
	}
	switch action {
	case "back":
		err = client.Back(ctx, progress)
	case "retire":
		err = client.Retire(ctx)
	case "stop":
		if err = client.Stop(ctx); err == nil {
			fmt.Fprintf(c.out, "==> %s: stopped\n", name)
		}
	}
	if err != nil {
		return c.fail(err)
	}
	if action == "back" {
		c.sayWhereChannelIs(ctx, store, client, name)
	}
	return exitOK
}

// sayWhereChannelIs reminds of a channel that still names the version that was
// gone back from: the next rollout would bring it again.
func (c *cli) sayWhereChannelIs(ctx context.Context, store registry.Store, client *rollouts.Client, name string) {
	st, err := client.Status(ctx)
	if err != nil || st.Live == nil {
		return
	}
	cfg, v, err := findService(ctx, store, name, "")
	if err == nil && v.Ref().String() != st.Live.Version {
		fmt.Fprintf(c.out, "==> %s: the channel %s still names %s; `ingot promote %s %s` makes it follow\n", name, cfg.Channel, v.Ref(), st.Live.Version, cfg.Channel)
	}
}

// onlyService is the one service there is, for commands that name none.
func onlyService(ctx context.Context, store registry.Store) (string, error) {
	rows, err := store.Services(ctx)
	if err != nil {
		return "", err
	}
	var names []string
	for _, r := range rows {
		names = append(names, r.Name)
	}
	switch len(names) {
	case 0:
		return "", errors.New("no service has been rolled out yet: `ingot rollout SERVICE` starts with one")
	case 1:
		return names[0], nil
	}
	return "", fmt.Errorf("which service? There are %s", strings.Join(names, ", "))
}

func serviceDir(name string) (string, error) {
	dir, err := state.Dir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "services", name), nil
}

func controlSocket(name string) (string, error) {
	dir, err := serviceDir(name)
	return filepath.Join(dir, "control"), err
}

// findService returns a service's configuration and the version to run.
func findService(ctx context.Context, store registry.Store, name, want string) (rollouts.Config, registry.Version, error) {
	var cfg rollouts.Config
	images, err := store.Images(ctx)
	if err != nil {
		return cfg, registry.Version{}, err
	}
	found := false
	var newest registry.Version
	for _, i := range images {
		vs, err := store.Versions(ctx, i.Name)
		if err != nil {
			return cfg, newest, err
		}
		for _, v := range vs {
			if s, ok := serviceConfig(v, name); ok && (!found || v.Created.After(newest.Created)) {
				cfg, newest, found = s, v, true
			}
		}
	}
	if !found {
		return cfg, newest, fmt.Errorf("no image says how to run a service %q: add a block rollout %q { … } to a template and bake it", name, name)
	}
	ref := cfg.Image + "@" + cfg.Channel
	if want != "" {
		ref = cfg.Image + "@" + want
	}
	r, err := registry.ParseRef(ref)
	if err != nil {
		return cfg, newest, err
	}
	v, err := store.Resolve(ctx, r)
	if err != nil {
		return cfg, newest, fmt.Errorf("%w; `ingot promote %s %s` says what to run", err, newest.Ref(), cfg.Channel)
	}
	// What a version was baked with says how to run it.
	if s, ok := serviceConfig(v, name); ok {
		cfg = s
	}
	return cfg, v, nil
}

func serviceConfig(v registry.Version, name string) (rollouts.Config, bool) {
	var all map[string]rollouts.Config
	if len(v.Rollout) == 0 || json.Unmarshal(v.Rollout, &all) != nil {
		return rollouts.Config{}, false
	}
	cfg, ok := all[name]
	return cfg, ok
}

// sandboxDigest is the version's image on this host.
func sandboxDigest(v registry.Version) (string, error) {
	for _, a := range v.Artifacts {
		if a.Platform == "sandbox" {
			return a.ExternalID, nil
		}
	}
	return "", fmt.Errorf("%s has no sandbox image, which is what can be run on this host", v.Ref())
}

func (c *cli) rollOut(ctx context.Context, store registry.Store, name, want, sock string, progress func(rollouts.Update)) int {
	cfg, v, err := findService(ctx, store, name, want)
	if err != nil {
		return c.fail(err)
	}
	digest, err := sandboxDigest(v)
	if err != nil {
		return c.fail(err)
	}
	client, err := rollouts.Dial(sock)
	if err != nil {
		if client, err = startSupervisor(ctx, name, cfg, sock); err != nil {
			return c.fail(err)
		}
	}
	if err := client.Start(ctx, rollouts.Target{Version: v.Ref().String(), Digest: digest}, progress); err != nil {
		return c.fail(err)
	}
	st, err := client.Status(ctx)
	if err != nil {
		return c.fail(err)
	}
	fmt.Fprintf(c.out, "==> %s: %s answers at http://%s/\n", name, st.Live.Version, st.Address)
	return exitOK
}

// startSupervisor starts the process that owns the service: it outlives this one.
func startSupervisor(ctx context.Context, name string, cfg rollouts.Config, sock string) (*rollouts.Client, error) {
	dir := filepath.Dir(sock)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the service's directory: %w", err)
	}
	raw, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o600); err != nil {
		return nil, fmt.Errorf("write the service's configuration: %w", err)
	}
	exe, err := durableExe(dir)
	if err != nil {
		return nil, err
	}
	logPath := filepath.Join(dir, "log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the service's log: %w", err)
	}
	defer log.Close()
	before, _ := log.Seek(0, io.SeekEnd)
	cmd := exec.Command(exe, "rollout-supervisor", name)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, dir
	cmd.SysProcAttr = detached()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the service's supervisor: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		if client, err := rollouts.Dial(sock); err == nil {
			return client, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case err := <-ended:
			return nil, fmt.Errorf("the service's supervisor did not start (%v): %s", err, tail(logPath, before))
		case <-time.After(wait):
		}
	}
}

// durableExe is this program in a place that stays: `go run` removes its own.
func durableExe(dir string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	if !strings.Contains(exe, string(filepath.Separator)+"go-build") {
		return exe, nil
	}
	src, err := os.Open(exe)
	if err != nil {
		return "", err
	}
	defer src.Close()
	tmp, err := os.CreateTemp(dir, "ingot-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name())
	if _, err := io.Copy(tmp, src); err != nil {
		tmp.Close()
		return "", err
	}
	if err := errors.Join(tmp.Chmod(0o700), tmp.Close()); err != nil {
		return "", err
	}
	to := filepath.Join(dir, "ingot")
	return to, os.Rename(tmp.Name(), to)
}

func tail(path string, from int64) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return err.Error()
	}
	b, _ := io.ReadAll(io.LimitReader(f, 4096))
	return strings.TrimSpace(string(b))
}

func (c *cli) rolloutStatus(ctx context.Context, store registry.Store, name, sock string, asJSON bool) int {
	client, err := rollouts.Dial(sock)
	if err != nil {
		if _, _, lerr := store.LoadService(ctx, name); errors.Is(lerr, registry.ErrNotFound) {
			return c.fail(fmt.Errorf("there is no service %q", name))
		}
		fmt.Fprintf(c.out, "%s: not running; `ingot rollout %s` starts it\n", name, name)
		return exitFailed
	}
	st, err := client.Status(ctx)
	if err != nil {
		return c.fail(err)
	}
	if asJSON {
		if err := c.json(st); err != nil {
			return c.fail(err)
		}
		return exitOK
	}
	fmt.Fprintf(c.out, "%s: %s at http://%s/\n", name, st.Phase, st.Address)
	if st.Running != "" {
		fmt.Fprintf(c.out, "  running  %s\n", st.Running)
	}
	if st.Reason != "" {
		fmt.Fprintf(c.out, "  reason   %s\n", st.Reason)
	}
	line := func(what string, f *rollouts.FleetStatus, more string) {
		if f == nil {
			return
		}
		traffic := "no traffic"
		if f.InTraffic {
			traffic = "in traffic"
		}
		fmt.Fprintf(c.out, "  %-8s %s (%s): %d of %d healthy, %s, requests %d, failed %d%s\n", what, f.Version, f.Color, f.Healthy, f.Replicas, traffic, f.Requests, f.Failures, more)
	}
	line("live", st.Live, "")
	line("next", st.Next, "")
	until := ""
	if !st.OldUntil.IsZero() {
		until = ", kept until " + st.OldUntil.Local().Format(time.DateTime)
	}
	line("old", st.Old, until)
	return exitOK
}

// supervisorVerb is the process behind a service.
func supervisorVerb() verb {
	return verb{name: "rollout-supervisor", args: "SERVICE", short: "Own a service (started by ingot rollout)", hidden: true, run: runSupervisor}
}

func runSupervisor(ctx context.Context, c *cli, args []string) int {
	rest, err := c.parse(c.flags(), args, 1, 1)
	if err != nil {
		return code(err)
	}
	name := rest[0]
	dir, err := serviceDir(name)
	if err != nil {
		return c.fail(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return c.fail(fmt.Errorf("read the service's configuration: %w", err))
	}
	var cfg rollouts.Config
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return c.fail(fmt.Errorf("read the service's configuration: %w", err))
	}
	store, err := openRegistry(ctx)
	if err != nil {
		return c.fail(err)
	}
	defer store.Close()
	sd, err := state.Dir()
	if err != nil {
		return c.fail(err)
	}
	rep := report.New(c.out, report.Options{Format: report.Plain, Timestamp: true})
	defer rep.Close()
	launcher, err := boxtarget.Open(ctx, sd, store, event.Scope{Sink: rep, Bake: name})
	if err != nil {
		return c.fail(err)
	}
	defer launcher.Close()
	control, err := rollouts.ListenControl(filepath.Join(dir, "control"))
	if err != nil {
		return c.fail(err)
	}
	s := rollouts.NewSupervisor(rollouts.SupervisorOptions{
		Name: name, Config: cfg, Journal: journal{store}, Events: rep,
		Launcher: launcher,
	})
	if err := s.Serve(ctx, control); err != nil && !errors.Is(err, context.Canceled) {
		return c.fail(err)
	}
	return exitOK
}

// journal is the registry as the rollout engine's journal.
type journal struct{ registry.Store }

func (j journal) LoadService(ctx context.Context, name string) (json.RawMessage, int64, error) {
	doc, rev, err := j.Store.LoadService(ctx, name)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, 0, nil
	}
	return doc, rev, err
}
