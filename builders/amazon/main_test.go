package amazon

import (
	"os"
	"testing"

	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
)

func TestMain(m *testing.M) {
	machines.Reexec(nil)
	os.Exit(m.Run())
}
