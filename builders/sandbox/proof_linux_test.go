package sandbox

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
)

// memory is builders.Leases in memory.
type memory struct{ open []builders.Lease }

func (m *memory) Intend(_ context.Context, kind, name string, data map[string]string) (builders.Lease, error) {
	l := builders.Lease{ID: kind + name, Kind: kind, Name: name, Data: data}
	m.open = append(m.open, l)
	return l, nil
}

func (m *memory) Created(_ context.Context, l builders.Lease, id string) error {
	for i := range m.open {
		if m.open[i].ID == l.ID {
			m.open[i].ExternalID = id
		}
	}
	return nil
}

func (m *memory) Released(context.Context, builders.Lease) error { return nil }

func (m *memory) Open() []builders.Lease { return slices.Clone(m.open) }

// The image's own init runs where the template names one, and its program
// otherwise: neither did when the image was baked without a boot.
func TestBootProof(t *testing.T) {
	sandboxtest.Need(t)
	tree := sandboxtest.Busybox(t)
	sandboxtest.Write(t, tree, "etc/inittab", "::respawn:/bin/httpd -f -p 8080 -h /\n", 0o644)
	for name, tc := range map[string]struct {
		set      func(*Options)
		line     string
		programs string // what the program has to do with the events
	}{
		"init": {set: func(o *Options) { o.Init = "/sbin/init"; o.Cmd = []string{"touch", "/never"} },
			line: "[ $(cat /proc/1/comm) = init ] && until pidof httpd; do :; done && [ ! -e /never ]"},
		"program": {set: func(o *Options) {
			o.Entrypoint, o.Cmd, o.Env, o.User, o.WorkingDir = []string{"sh", "-c"}, []string{"touch /tmp/$WORD && exec sleep 300"}, map[string]string{"WORD": "ran"}, "nobody", "/tmp"
		}, line: "until [ -e /tmp/ran ]; do :; done; [ $(stat -c %U /tmp/ran) = nobody ]"},
		"program that ends": {set: func(o *Options) { o.Cmd = []string{"sh", "-c", "echo went wrong; exit 3"} }, line: "true", programs: "ended: exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			b := New(Env{StateDir: t.TempDir(), Wanted: func(context.Context, string, string) (bool, error) { return false, nil }})
			b.opts.Base, b.opts.Network = tree, "none"
			tc.set(&b.opts)
			said := make(chan string, 100)
			leases := &memory{}
			run := &builders.Run{
				BakeID: "proof" + strings.ReplaceAll(name, " ", ""), Source: "s", Image: "s", Dir: t.TempDir(), Leases: leases, Values: map[string]string{},
				Events: event.Scope{Sink: event.Func(func(e event.Event) { said <- e.Text })},
			}
			defer func() {
				for _, l := range slices.Backward(leases.open) {
					if err := b.Release(context.Background(), l); err != nil {
						t.Error(err)
					}
				}
			}()
			if _, err := b.Boot(t.Context(), run); err != nil {
				t.Fatal(err)
			}
			a, err := b.Snapshot(t.Context(), run)
			if err != nil {
				t.Fatal(err)
			}
			m, err := b.BootProof(t.Context(), run, a)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Run(t.Context(), machine.Command{Line: tc.line}); err != nil {
				t.Errorf("%s: %v", tc.line, err)
			}
			for tc.programs != "" {
				select {
				case text := <-said:
					if strings.Contains(text, tc.programs) {
						return
					}
				case <-t.Context().Done():
					t.Fatalf("nobody said %q", tc.programs)
				}
			}
		})
	}
}
