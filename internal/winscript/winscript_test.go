package winscript

import (
	"fmt"
	"testing"

	"github.com/ingotbuild/ingot/internal/powershell"
	"github.com/ingotbuild/ingot/internal/powershelltest"
)

func TestSyntax(t *testing.T) {
	hostile := powershell.Quote("c:/it’s $(x)/`s'.ps1")
	powershelltest.Parse(t, map[string]string{
		"run": runScript, "install": installScript, "remove": removeScript, "elevated": elevatedScript,
		"runner": fmt.Sprintf(runner, hostile, 1, hostile), "bad": runScript + ")",
	})
}
