package drift

import (
	"os"
	"strings"
	"testing"
)

// What is ignored stands in the guide, with why.
func TestIgnoredIsDocumented(t *testing.T) {
	guide, err := os.ReadFile("../docs/drift.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range Ignored() {
		if !strings.Contains(string(guide), "`"+pattern+"`") {
			t.Errorf("docs/drift.md does not say that %q is ignored", pattern)
		}
	}
	if _, err := newMatcher(Ignored()...); err != nil {
		t.Error(err)
	}
}
