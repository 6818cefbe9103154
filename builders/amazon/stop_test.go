package amazon

import (
	"context"
	"errors"
	"testing"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/communicator"
)

// asked is a machine that only counts what it is asked to run.
type asked struct {
	machine.Machine
	os   string
	runs int
}

func (a *asked) Platform() machine.Platform { return machine.Platform{OS: a.os} }

func (a *asked) Run(context.Context, machine.Command) error {
	a.runs++
	return errors.New("nothing runs here")
}

// Windows, and a machine that nobody logs in to, are left as they are.
func TestWhatIsCleaned(t *testing.T) {
	private, public, err := newHostKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		os, communicator string
		runs             int
	}{{"linux", communicator.SSHKind, 1}, {"windows", communicator.SSHKind, 0}, {"windows", communicator.WinRMKind, 0}, {"linux", communicator.None, 0}} {
		comm := communicator.Defaults()
		comm.Communicator = tc.communicator
		m := &asked{os: tc.os}
		r := &running{o: &RunOptions{}, comm: &comm, key: keyPair{public: public}, run: &builders.Run{}}
		if err := r.clean(t.Context(), &instance{conn: m, hostKey: private}); (err != nil) != (tc.runs > 0) || m.runs != tc.runs {
			t.Errorf("%s by %s: %d commands, %v", tc.os, tc.communicator, m.runs, err)
		}
	}
}
