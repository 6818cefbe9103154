package breakpoint

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/provisioners"
)

// run provisions with a pipe for a terminal; act is called at the halt.
func run(t *testing.T, ctx context.Context, o Options, act func(keys *os.File)) (said string, err error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p := &Provisioner{o, func() (io.ReadCloser, error) { return r, nil }}
	env := &provisioners.Env{Events: event.Scope{Sink: event.Func(func(e event.Event) {
		said += e.Text
		act(w)
	})}}
	err = p.Provision(ctx, env, nil)
	return said, err
}

func TestEnterGoesOn(t *testing.T) {
	said, err := run(t, t.Context(), Options{Note: "look"}, func(keys *os.File) { keys.WriteString("\n") })
	if err != nil || !strings.Contains(said, `"look"`) || !strings.Contains(said, "Enter") {
		t.Errorf("%v, said %q", err, said)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := run(t, ctx, Options{}, func(*os.File) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestClosedTerminal(t *testing.T) {
	if _, err := run(t, t.Context(), Options{}, func(keys *os.File) { keys.Close() }); err == nil {
		t.Error("no error")
	}
}

func TestNoTerminal(t *testing.T) {
	none := func() (io.ReadCloser, error) { return nil, errors.New("no terminal here") }
	p := &Provisioner{Options{}, none}
	if err := p.Provision(t.Context(), &provisioners.Env{}, nil); err == nil || !strings.Contains(err.Error(), "disable = true") {
		t.Errorf("error %v", err)
	}
	p.o.Disable = true
	if err := p.Provision(t.Context(), &provisioners.Env{}, nil); err != nil {
		t.Errorf("disabled: %v", err)
	}
}
