package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ingotbuild/ingot/internal/userns"
)

// The test binary is also the program under test, when this is set.
const asProgram = "INGOT_TEST_MAIN"

func TestMain(m *testing.M) {
	reexec()
	userns.Reexec()
	if os.Getenv(asProgram) != "" {
		main()
	}
	// The scripts run the program by its name.
	testscript.Main(m, map[string]func(){"ingot": main})
}
