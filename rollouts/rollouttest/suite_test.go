package rollouttest_test

import (
	"testing"

	"github.com/ingotbuild/ingot/rollouts"
	"github.com/ingotbuild/ingot/rollouts/rollouttest"
)

func TestFakeLauncher(t *testing.T) {
	rollouttest.Run(t, func(*testing.T) rollouts.Launcher { return &rollouttest.Launcher{} })
}
