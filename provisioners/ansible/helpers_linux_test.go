package ansible

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func authorized(key ssh.Signer) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))
}

func fetched(t testing.TB, f *fixture) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(f.env.Dir, "fetched.bin"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
