package sleep

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New()
		p.o.Duration = time.Hour
		begin := time.Now()
		if err := p.Provision(t.Context(), nil, nil); err != nil || time.Since(begin) != time.Hour {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin = time.Now()
		if err := p.Provision(ctx, nil, nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

func TestCheck(t *testing.T) {
	for d, want := range map[time.Duration]string{-1: "error", 0: "warning", 1: ""} {
		got := ""
		for _, p := range (&Provisioner{Options{d}}).Check(t.Context(), nil) {
			got = "error"
			if p.Warning {
				got = "warning"
			}
		}
		if got != want {
			t.Errorf("duration %v: %q, want %q", d, got, want)
		}
	}
}
