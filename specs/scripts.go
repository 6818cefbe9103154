package specs

import (
	"context"
	"errors"
	"time"

	"github.com/ingotbuild/ingot/machine"
)

// Question is a shell script that a machine is asked to run.
type Question struct {
	// Script is for a POSIX sh, Args are its arguments.
	Script string
	Args   []string
	// Timeout bounds it, in whole seconds; 0 is 10 s.
	Timeout time.Duration
}

// Reply is what one script came to.
type Reply struct {
	Out, ErrOut []byte
	// Status is its exit status.
	Status int
	// Err says why there is no answer.
	Err error
}

// RunScripts puts all questions to a machine in one round trip, as a spec does: what
// one script prints cannot be taken for what another does. It is as root where
// sudo is asked for. There is one reply for each question; the error says that
// not all of them are whole. maxOutput bounds what the machine may print.
func RunScripts(ctx context.Context, m machine.Machine, questions []Question, sudo bool, maxOutput int64) ([]Reply, error) {
	replies := make([]Reply, len(questions))
	if m.Platform().OS == "windows" {
		err := errors.New("a POSIX shell is needed, which a Windows machine does not have")
		for i := range replies {
			replies[i].Err = err
		}
		return replies, err
	}
	sections := make([]section, len(questions))
	for i, q := range questions {
		if q.Timeout == 0 {
			q.Timeout = defaultTimeout
		}
		sections[i] = section{kind: &kind{script: q.Script}, subjects: q.Args, timeout: q.Timeout}
	}
	answers, err := ask(ctx, m, sections, sudo, maxOutput)
	for i, a := range answers {
		replies[i] = Reply{a.out, a.errOut, a.status, a.err}
	}
	return replies, err
}
