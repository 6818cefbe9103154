package script

import (
	"crypto/rand"
	"strings"

	"github.com/ingotbuild/ingot/machine"
)

// AsRoot is a command line that runs a script by sh as root: by sudo, which
// must not ask for a password, where the login user is not root.
func AsRoot(text string) string {
	return `s=; [ "$(id -u)" = 0 ] || s=1; exec ${s:+sudo} ${s:+-n} sh -c ` + machine.Quote(text)
}

// Token marks the lines that a script itself prints. No other program's output
// begins with it.
func Token() string { return rand.Text() }

// QuotePattern quotes a path for the shell but leaves its wildcards alone.
func QuotePattern(pattern string) string {
	var out, word strings.Builder
	flush := func() {
		if word.Len() > 0 {
			out.WriteString(machine.Quote(word.String()))
			word.Reset()
		}
	}
	for i := range len(pattern) {
		if strings.IndexByte("*?[]!^-", pattern[i]) < 0 {
			word.WriteByte(pattern[i])
			continue
		}
		flush()
		out.WriteByte(pattern[i])
	}
	flush()
	return out.String()
}
