package amazon

import (
	"context"
	"errors"
	"slices"
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

// leaving is a machine that is shut down while it is cleaned.
type leaving struct {
	machine.Machine
	answers []error
}

func (l *leaving) Platform() machine.Platform { return machine.Platform{OS: "linux"} }

func (l *leaving) Run(context.Context, machine.Command) error {
	err := l.answers[0]
	l.answers = l.answers[1:]
	return err
}

// A machine that a provisioner shuts down may go at any moment of the cleaning,
// where the template says that it does.
func TestShutDownWhileCleaned(t *testing.T) {
	_, public, err := newHostKey()
	if err != nil {
		t.Fatal(err)
	}
	gone, lost, killed := errors.New("EOF"), &machine.ExitError{Status: machine.DisconnectStatus}, &machine.ExitError{Status: 143}
	for _, answers := range [][]error{{gone}, {lost}, {killed, gone}, {killed, lost}} {
		for _, said := range []bool{true, false} {
			r := &running{o: &RunOptions{DisableStopInstance: said}, key: keyPair{public: public}, run: &builders.Run{}}
			comm := communicator.Defaults()
			comm.Communicator = communicator.SSHKind
			r.comm = &comm
			all := append(slices.Clone(answers), gone)
			if err := r.clean(t.Context(), &instance{conn: &leaving{answers: all}}); (err == nil) != said {
				t.Errorf("%v, disable_stop_instance = %v: %v", answers, said, err)
			}
		}
	}
}
