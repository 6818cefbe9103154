// Package buildertest is the suite that every builders.Builder passes.
package buildertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
)

// Options say how a builder is tested.
type Options struct {
	// New makes a builder for one bake, or to release what another has left.
	New func() builders.Builder
	// Config is the body of a source block that boots a machine with a POSIX
	// shell. Relative paths in it start in an empty directory of the bake's own.
	Config string
	// Type is the builder's, where it tells what is its own by that. Default: "suite".
	Type string
	// Exists says whether what a lease names exists, or any part of it. It is
	// asked before the lease is in the ledger too: ID and ExternalID are then empty.
	Exists func(l builders.Lease) bool
	// Machineless is for a builder that boots no machine: what needs one, or
	// its leases, is left out.
	Machineless bool
	// Bad are source blocks that Check must refuse.
	Bad []Bad
}

// Bad is a source block with one thing wrong.
type Bad struct {
	Name   string
	Config string
	// Option is what the problem must be reported at.
	Option string
}

// patience bounds one bake.
const patience = 5 * time.Minute

// Run runs the suite.
func Run(t *testing.T, o Options) {
	s := &suite{o}
	t.Run("Bake", s.bake)
	t.Run("StopsAtEveryPoint", s.stops)
	if !o.Machineless {
		t.Run("CancelledWhileProvisioning", s.provisioning)
	}
	t.Run("CancelledBeforeSnapshot", s.beforeSnapshot)
	t.Run("Orphans", s.orphans)
	t.Run("Check", s.check)
}

type suite struct{ Options }

func (s *suite) typ() string {
	if s.Type == "" {
		return "suite"
	}
	return s.Type
}

// bake is one bake under test.
type bake struct {
	suite   *suite
	t       *testing.T
	builder builders.Builder
	run     *builders.Run
	ledger  *ledger
	machine machine.Machine
}

func (s *suite) decode(t *testing.T, b builders.Builder, body string) {
	t.Helper()
	f, diags := hclsyntax.ParseConfig([]byte(body), "source.hcl", hcl.InitialPos)
	if !diags.HasErrors() {
		diags = config.Decode(f.Body, nil, b.Options())
	}
	if diags.HasErrors() {
		t.Fatal(diags)
	}
}

// begin makes a bake that is ready to boot.
func (s *suite) begin(t *testing.T) *bake {
	t.Helper()
	id := make([]byte, 10)
	_, _ = rand.Read(id) // never fails
	b := &bake{suite: s, t: t, builder: s.New()}
	b.ledger = &ledger{t: t, exists: s.Exists, bakeID: hex.EncodeToString(id), reached: func(string) error { return nil }}
	b.run = &builders.Run{
		BakeID: b.ledger.bakeID, Name: "suite", Type: s.typ(), Source: "suite", Image: "suite", Dir: t.TempDir(),
		Created: time.Now(), Values: map[string]string{}, Leases: b.ledger,
		Events: event.Scope{Bake: "suite", Sink: event.Func(func(e event.Event) { _ = b.ledger.reached("event " + e.Text) })},
	}
	s.decode(t, b.builder, s.Config)
	if ps := b.builder.Check(t.Context(), &builders.CheckEnv{Dir: b.run.Dir}); slices.ContainsFunc(ps, func(p config.Problem) bool { return !p.Warning }) {
		t.Fatalf("Check refuses the suite's configuration: %+v", ps)
	}
	t.Cleanup(func() { b.release() }) // whatever else happens
	return b
}

func (b *bake) boot(ctx context.Context) error {
	m, err := b.builder.Boot(ctx, b.run)
	if err != nil {
		return err
	}
	if m == nil && !b.suite.Machineless {
		return errors.New("the builder's Boot gave neither a machine nor an error")
	}
	b.machine = m
	return nil
}

// release gives everything back as the engine does, newest first; then again
// as a sweep does, with a builder that knows nothing of the bake.
func (b *bake) release() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if b.machine != nil {
		if err := b.machine.Close(); err != nil {
			b.t.Errorf("close the machine: %v", err)
		}
		b.machine = nil
	}
	for _, l := range slices.Backward(b.ledger.Open()) {
		builder := b.builder
		if l.ID == b.ledger.never {
			builder = b.suite.New() // nobody but the ledger knows of it
		}
		if err := builder.Release(ctx, l); err != nil {
			b.t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
			continue
		}
		_ = b.ledger.Released(ctx, l) // never fails by now
	}
	for _, l := range slices.Backward(b.ledger.all()) {
		if err := b.suite.New().Release(ctx, l); err != nil {
			b.t.Errorf("release %s %s, which is gone: %v", l.Kind, l.Name, err)
		}
	}
	for _, l := range b.ledger.all() {
		if b.suite.Exists(l) {
			b.t.Errorf("%s %s exists after its release", l.Kind, l.Name)
		}
	}
}

func (s *suite) context(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), patience)
}

// bake is the good case: everything works and is in its place.
func (s *suite) bake(t *testing.T) {
	ctx, cancel := s.context(t)
	defer cancel()
	b := s.begin(t)
	if err := b.boot(ctx); err != nil {
		t.Fatal(err)
	}
	if b.run.Values["ID"] == "" {
		t.Error("Boot has left build.ID empty")
	}
	if !s.Machineless {
		b.use(ctx)
	}

	open := b.ledger.Open()
	if len(open) == 0 && !s.Machineless {
		t.Error("a machine runs, and the ledger has no lease")
	}
	for _, l := range open {
		if l.Data[builders.UntilRecorded] == "" && !s.Exists(l) {
			t.Errorf("the machine runs, and its %s %s does not exist: does Exists see it?", l.Kind, l.Name)
		}
	}
	publisher, public := b.builder.(builders.Publisher)
	b.run.Unproven = public
	a, err := b.builder.Snapshot(ctx, b.run)
	if err != nil {
		t.Fatal(err)
	}
	s.checkArtifact(t, a)
	if p, ok := b.builder.(builders.Proofer); ok {
		b.prove(ctx, p, a)
	}
	if public {
		b.run.Unproven = false
		id := a.ID
		if a, err = publisher.Publish(ctx, b.run, a); err != nil {
			t.Fatalf("publish the image: %v", err)
		}
		if s.checkArtifact(t, a); a.ID != id {
			t.Errorf("published, the artifact is %s, and was %s", a.ID, id)
		}
	}

	// What guards the image stays, everything else goes.
	var guards []builders.Lease
	for _, l := range slices.Backward(b.ledger.Open()) {
		if l.Data[builders.UntilRecorded] != "" {
			guards = append(guards, l)
			continue
		}
		for _, builder := range []builders.Builder{b.builder, b.builder, s.New()} {
			if err := builder.Release(ctx, l); err != nil {
				t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
			}
		}
		if s.Exists(l) {
			t.Errorf("%s %s exists after its release", l.Kind, l.Name)
		}
	}
	for _, l := range guards {
		if !s.Exists(l) {
			t.Errorf("%s %s guards the finished image, and does not exist", l.Kind, l.Name)
		}
	}
	for _, f := range a.Files {
		if !filepath.IsAbs(f) {
			f = filepath.Join(b.run.Dir, f)
		}
		if _, err := os.Stat(f); err != nil {
			t.Errorf("a file of the artifact: %v", err)
		}
	}
}

// prove boots the image once more. The machine has what was put into the
// image, and what happens to it does not.
func (b *bake) prove(ctx context.Context, p builders.Proofer, a *builders.Artifact) {
	b.t.Helper()
	before := b.ledger.Open()
	if len(before) == 0 || !slices.ContainsFunc(before, func(l builders.Lease) bool { return l.Data[builders.UntilRecorded] != "" }) {
		b.t.Error("the image is finished but not recorded, and no lease covers it")
	}
	m, err := p.BootProof(ctx, b.run, a)
	if err != nil {
		b.t.Fatalf("boot the image: %v", err)
	}
	if err := m.Run(ctx, machine.Command{Line: "test -s /opt/suite/file && ! test -e /opt/suite/proof && echo > /opt/suite/proof"}); err != nil {
		b.t.Errorf("the machine that was booted from the image is not what the image is: %v", err)
	}
	open := b.ledger.Open()
	if len(open) <= len(before) {
		b.t.Error("a second machine runs, and the ledger has no lease of it")
	}
	for _, l := range slices.Backward(open[len(before):]) {
		if !b.suite.Exists(l) {
			b.t.Errorf("the machine runs, and its %s %s does not exist: does Exists see it?", l.Kind, l.Name)
		}
		if err := b.builder.Release(ctx, l); err != nil {
			b.t.Errorf("release %s %s: %v", l.Kind, l.Name, err)
		}
		if b.suite.Exists(l) {
			b.t.Errorf("%s %s exists after its release", l.Kind, l.Name)
		}
		_ = b.ledger.Released(ctx, l) // never fails by now
	}
}

// use does with the machine what provisioners do.
func (b *bake) use(ctx context.Context) {
	b.t.Helper()
	if p := b.machine.Platform(); p.OS == "" || p.Arch == "" || p.Shell == "" {
		b.t.Errorf("the machine's platform is %+v: OS, Arch and Shell must be known", p)
	}
	var out, errs bytes.Buffer // two: they may be written to at the same time
	if err := b.machine.Run(ctx, machine.Command{Line: "mkdir -p /opt/suite && echo one && echo two >&2", Stdout: &out, Stderr: &errs}); err != nil {
		b.t.Fatalf("run a command: %v", err)
	}
	if all := out.String() + errs.String(); !strings.Contains(all, "one\n") || !strings.Contains(all, "two\n") {
		b.t.Errorf("the command printed %q", all)
	}
	var exit *machine.ExitError
	if err := b.machine.Run(ctx, machine.Command{Line: "exit 7"}); !errors.As(err, &exit) || exit.Status != 7 {
		b.t.Errorf("exit 7: %v", err)
	}
	content := bytes.Repeat([]byte("the suite\x00was here\n"), 10000)
	if err := b.machine.Put(ctx, "/opt/suite", machine.BytesTree("file", content, 0o640)); err != nil {
		b.t.Fatalf("put a file: %v", err)
	}
	to := b.t.TempDir()
	if err := b.machine.Get(ctx, "/opt/suite/file", machine.DirSink(to)); err != nil {
		b.t.Fatalf("get a file: %v", err)
	}
	if got, err := os.ReadFile(filepath.Join(to, "file")); err != nil || !bytes.Equal(got, content) {
		b.t.Errorf("got a file of %d bytes, want the %d that were put; %v", len(got), len(content), err)
	}
}

func (s *suite) checkArtifact(t *testing.T, a *builders.Artifact) {
	t.Helper()
	if a == nil {
		t.Fatal("Snapshot gave neither an artifact nor an error")
	}
	if a.BuilderID == "" || a.ID == "" || a.Text == "" {
		t.Errorf("the artifact lacks its builder's id, its id or its text: %+v", a)
	}
	if len(a.Places) == 0 && !s.Machineless {
		t.Error("the artifact is in no place, so that it cannot be recorded")
	}
	for _, p := range a.Places {
		if p.Platform == "" || p.ID == "" {
			t.Errorf("a place lacks its platform or id: %+v", p)
		}
	}
}

// stops bakes again and again. Each time one call to the ledger fails after it
// has been written, as in a crash before the resource is created; or the
// context ends at that call, or at an event. Nothing is left then.
func (s *suite) stops(t *testing.T) {
	for _, how := range []string{"fails", "cancelled"} {
		t.Run(how, func(t *testing.T) {
			phases := map[string]int{}
			for n, more := 0, true; more; n++ {
				more = s.stopAt(t, how == "cancelled", n, phases)
			}
			if phases["boot"] == 0 && !s.Machineless {
				t.Error("a boot without a single lease")
			}
			if _, ok := s.New().(builders.Proofer); ok && phases["proof"] == 0 {
				t.Error("a boot of the image without a single lease")
			}
		})
	}
}

// stopAt stops a bake at its nth point, and says whether it came that far.
func (s *suite) stopAt(t *testing.T, byCancel bool, n int, phases map[string]int) (reached bool) {
	t.Run(fmt.Sprint("point ", n), func(t *testing.T) {
		ctx, cancel := s.context(t)
		defer cancel()
		b := s.begin(t)
		var mu sync.Mutex
		phase, at := "boot", ""
		b.ledger.reached = func(point string) error {
			mu.Lock()
			defer mu.Unlock()
			if phase == "over" || !byCancel && !strings.HasPrefix(point, "intend") {
				return nil
			}
			n--
			if n != -1 {
				return nil
			}
			reached, at = true, phase+", "+point
			phases[phase]++
			if byCancel {
				cancel()
				return nil
			}
			return errors.New("the suite stops the bake here")
		}
		err := b.boot(ctx)
		if err == nil {
			mu.Lock()
			phase = "snapshot"
			mu.Unlock()
			var a *builders.Artifact
			if a, err = b.builder.Snapshot(ctx, b.run); err == nil {
				s.checkArtifact(t, a)
				if p, ok := b.builder.(builders.Proofer); ok {
					mu.Lock()
					phase = "proof"
					mu.Unlock()
					_, err = p.BootProof(ctx, b.run, a)
				}
			}
		}
		mu.Lock()
		phase = "over"
		mu.Unlock()
		t.Logf("stopped at %q: %v", at, err)
		switch {
		case !reached && err != nil:
			t.Error(err)
		case reached && !byCancel && err == nil:
			t.Error("the ledger has failed, and the bake succeeds")
		}
		b.release()
	})
	return reached && !t.Failed()
}

// firstByte cancels at the first byte of output.
type firstByte struct{ cancel context.CancelFunc }

func (f firstByte) Write(p []byte) (int, error) { f.cancel(); return len(p), nil }

func (s *suite) provisioning(t *testing.T) {
	ctx, cancel := s.context(t)
	defer cancel()
	b := s.begin(t)
	if err := b.boot(ctx); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	err := b.machine.Run(ctx, machine.Command{Line: "echo up; sleep 600", Stdout: firstByte{cancel}, Stderr: io.Discard})
	if err == nil || time.Since(start) > time.Minute {
		t.Errorf("a command whose context ended: %v after %s", err, time.Since(start))
	}
	b.release()
}

func (s *suite) beforeSnapshot(t *testing.T) {
	ctx, cancel := s.context(t)
	defer cancel()
	b := s.begin(t)
	if err := b.boot(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	if a, err := b.builder.Snapshot(ctx, b.run); err == nil {
		t.Errorf("a snapshot whose context had ended made %+v", a)
	}
	b.release()
}

func (s *suite) orphans(t *testing.T) {
	ctx, cancel := s.context(t)
	defer cancel()
	b := s.begin(t)
	if err := b.boot(ctx); err != nil {
		t.Fatal(err)
	}
	ours := func(olderThan time.Duration) (found []builders.Lease) {
		t.Helper()
		finder := s.New()
		s.decode(t, finder, s.Config)
		all, err := finder.Orphans(ctx, olderThan)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range all {
			if l.BakeID == b.run.BakeID {
				found = append(found, l)
			}
		}
		return found
	}
	if len(ours(0)) == 0 && !s.Machineless {
		t.Error("Orphans does not find the machine that runs")
	}
	if young := ours(time.Hour); len(young) > 0 {
		t.Errorf("Orphans takes what was just made for an hour old: %+v", young)
	}
	b.release()
	if left := ours(0); len(left) > 0 {
		t.Errorf("Orphans finds what was released: %+v", left)
	}
}

func (s *suite) check(t *testing.T) {
	for _, bad := range s.Bad {
		t.Run(bad.Name, func(t *testing.T) {
			b := s.New()
			s.decode(t, b, bad.Config)
			ps := b.Check(t.Context(), &builders.CheckEnv{Dir: t.TempDir()})
			if !slices.ContainsFunc(ps, func(p config.Problem) bool { return p.Option == bad.Option && !p.Warning && p.Summary != "" }) {
				t.Errorf("Check finds %+v, want a problem with %q", ps, bad.Option)
			}
		})
	}
}

// ledger is builders.Leases in memory.
type ledger struct {
	t      *testing.T
	exists func(builders.Lease) bool
	bakeID string
	// reached is called at each point where a bake may be stopped.
	reached func(point string) error

	mu      sync.Mutex
	history []builders.Lease // all that ever were
	struck  map[string]bool
	never   string // the lease whose resource was never created
}

func (l *ledger) Intend(_ context.Context, kind, name string, data map[string]string) (builders.Lease, error) {
	lease := builders.Lease{BakeID: l.bakeID, Builder: "suite", Kind: kind, Name: name, Data: data, Created: time.Now()}
	if name == "" {
		l.t.Errorf("a lease of kind %q has no name", kind)
	}
	if l.exists(lease) {
		l.t.Errorf("%s %s exists before its lease is in the ledger", kind, name)
	}
	l.mu.Lock()
	lease.ID = fmt.Sprint(len(l.history))
	l.history = append(l.history, lease)
	l.mu.Unlock()
	err := l.reached("intend " + kind)
	if err != nil {
		l.mu.Lock()
		l.never = lease.ID
		l.mu.Unlock()
	}
	return lease, err
}

func (l *ledger) Created(_ context.Context, lease builders.Lease, externalID string) error {
	l.mu.Lock()
	for i := range l.history {
		if l.history[i].ID == lease.ID {
			l.history[i].ExternalID = externalID
		}
	}
	l.mu.Unlock()
	return l.reached("created " + lease.Kind)
}

func (l *ledger) Released(_ context.Context, lease builders.Lease) error {
	l.mu.Lock()
	if l.struck == nil {
		l.struck = map[string]bool{}
	}
	l.struck[lease.ID] = true
	l.mu.Unlock()
	return l.reached("released " + lease.Kind)
}

func (l *ledger) Open() (open []builders.Lease) {
	for _, lease := range l.all() {
		l.mu.Lock()
		if !l.struck[lease.ID] {
			open = append(open, lease)
		}
		l.mu.Unlock()
	}
	return open
}

func (l *ledger) all() []builders.Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.history)
}
