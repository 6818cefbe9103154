package script

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
)

// Start calls attempt until the script has started, for limit at most. attempt
// is told how long the start may take (0: no limit), and says whether the
// script started; what went wrong with it then is final.
func Start(ctx context.Context, name string, limit time.Duration, events event.Scope, attempt func(patience time.Duration) (started bool, err error)) error {
	deadline := time.Now().Add(limit)
	var said error // what the machine last had to say
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 2*time.Second) {
		started, err := attempt(time.Until(deadline))
		if started || ctx.Err() != nil {
			return err
		}
		if !errors.Is(err, errNoAnswer) || said == nil {
			said = err
		}
		if time.Until(deadline) <= delay {
			return fmt.Errorf("%s could not be started within start_retry_timeout (%v): %w", name, limit, said)
		}
		if delay == 100*time.Millisecond {
			events.Warn(fmt.Sprintf("%s cannot be started yet: %v; trying again for %v", name, err, limit))
		}
		if err := Pause(ctx, delay); err != nil {
			return err
		}
	}
}

// errNoAnswer says of an attempt that its time was over.
var errNoAnswer = errors.New("the machine did not answer")

// Gate is the stderr of a command that starts a script. What comes before the mark tells why the
// script could not be started; what comes after is the script's.
type Gate struct {
	mark []byte
	next io.Writer

	mu     sync.Mutex
	before []byte
	open   bool
}

// NewGate returns a gate that opens after mark, and then writes to next.
func NewGate(mark string, next io.Writer) *Gate { return &Gate{mark: []byte(mark), next: next} }

// maxBefore is more than a shell says about a file that it cannot write.
const maxBefore = 16 << 10

// Write implements io.Writer.
func (g *Gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open {
		return g.next.Write(p)
	}
	g.before = append(g.before, p...)
	if i := bytes.Index(g.before, g.mark); i >= 0 {
		g.open = true
		if _, err := g.next.Write(g.before[i+len(g.mark):]); err != nil {
			return 0, err
		}
		g.before = nil
	} else if len(g.before) > maxBefore {
		g.before = g.before[len(g.before)-maxBefore:]
	}
	return len(p), nil
}

// IsOpen says whether the mark has come.
func (g *Gate) IsOpen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

// Said is what came before the mark.
func (g *Gate) Said() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.TrimSpace(string(g.before))
}

// Run runs a command whose stderr is the gate, and gives up when it has not
// opened within patience (0: no limit). started says whether it has. An error
// of what was started is the machine's own.
func (g *Gate) Run(ctx context.Context, m machine.Machine, c machine.Command, patience time.Duration) (started bool, err error) {
	runCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	if patience > 0 {
		defer time.AfterFunc(patience, func() {
			if !g.IsOpen() {
				cancel()
			}
		}).Stop()
	}
	c.Stderr = g
	err = m.Run(runCtx, c)
	switch {
	case ctx.Err() != nil:
		return g.IsOpen(), ctx.Err()
	case g.IsOpen():
		return true, err
	case runCtx.Err() != nil:
		err = errNoAnswer
	case err == nil:
		err = errors.New("the machine did not run the command that puts it there")
	}
	if said := g.Said(); said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return false, err
}
