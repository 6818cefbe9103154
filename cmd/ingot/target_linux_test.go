package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/imagefs"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/registry"
)

// openAndRun opens a target, runs a command there and gives everything back.
func openAndRun(t *testing.T, ctx context.Context, spec string, o targetOptions, line string) (string, error) {
	t.Helper()
	if o.connectTimeout == 0 {
		o.connectTimeout = time.Minute
	}
	m, giveBack, err := openTarget(ctx, spec, o, event.Scope{})
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = m.Run(ctx, machine.Command{Line: line, Stdout: &out})
	if err := giveBack(); err != nil {
		t.Errorf("%s: give back: %v", spec, err)
	}
	return strings.TrimSpace(out.String()), err
}

func TestOpenSSH(t *testing.T) {
	s, gate := sshtest.Start(t, sshtest.Options{}), sshtest.Start(t, sshtest.Options{})
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("SSH_AUTH_SOCK", "")
	write := func(name, text string) string {
		t.Helper()
		p := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	address := fmt.Sprintf("ssh://%s@%s:%d", s.User, s.Host, s.Port)
	ask := "echo ${SSH_CONNECTION##* }"
	try := func(what, spec string, o targetOptions, wrong string) {
		t.Helper()
		out, err := openAndRun(t, t.Context(), spec, o, ask)
		switch {
		case wrong == "" && (err != nil || out != fmt.Sprint(s.Port)):
			t.Errorf("%s: %q, %v", what, out, err)
		case wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)):
			t.Errorf("%s: %q, %v", what, out, err)
		}
	}
	key := targetOptions{key: s.KeyFile}
	try("a host that nobody knows", address, key, "is not known")
	write(".ssh/known_hosts", s.KnownHosts()+gate.KnownHosts())
	try("by the key", address, key, "")
	try("no user: the local one's", fmt.Sprintf("ssh://%s:%d", s.Host, s.Port), key, "")
	try("no key", address, targetOptions{}, "refuses the login")
	write(".ssh/id_ed25519", string(s.Key))
	try("by the usual key", address, targetOptions{}, "")
	other, _ := sshtest.NewKey(t)
	write(".ssh/id_ed25519", string(other))
	config := write("config", fmt.Sprintf("Host web\n HostName %s\n Port %d\nHost *\n User %s\n IdentityFile %s\n", s.Host, s.Port, s.User, s.KeyFile))
	try("an alias", "web", targetOptions{sshConfig: config}, "")
	try("Host * counts", fmt.Sprintf("ssh://%s:%d", s.Host, s.Port), targetOptions{sshConfig: config}, "")
	gateAddress := fmt.Sprintf("%s@%s:%d", gate.User, gate.Host, gate.Port)
	try("the jump refuses", address, targetOptions{key: s.KeyFile, jump: gateAddress}, "bastion")
	gate.Authorize(strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.Signer().PublicKey()))))
	try("through a jump", address, targetOptions{key: s.KeyFile, jump: gateAddress}, "")
	if !strings.Contains(gate.Log(), "Accepted publickey") {
		t.Error("nobody came by the jump")
	}
	everywhere := write("jumping", fmt.Sprintf("Host *\n ProxyJump %s\n IdentityFile %s\n", gateAddress, s.KeyFile))
	try("a jump for all hosts is not its own", address, targetOptions{sshConfig: everywhere}, "")
	wrong := write("wrong", fmt.Sprintf("[%s]:%d %s\n", s.Host, s.Port, gate.HostKey))
	try("another host key", address, targetOptions{key: s.KeyFile, knownHosts: wrong}, "is not the one that is known")
	try("no such key file", address, targetOptions{key: "nowhere"}, "no such file")

	try("nobody there", "ssh://127.0.0.1:1", targetOptions{key: s.KeyFile, connectTimeout: time.Second}, "refused")
}

func TestOpenImage(t *testing.T) {
	sandboxtest.Need(t)
	home := t.TempDir()
	t.Setenv("INGOT_HOME", home)
	root := sandboxtest.Busybox(t)
	if err := os.WriteFile(filepath.Join(root, "mark"), []byte("here\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	t.Chdir(work)
	archive := filepath.Join(work, "root.tar")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(root)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f.Close()

	store, err := imagefs.Open(filepath.Join(home, "images"), event.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	base, err := store.TarballBase(t.Context(), archive)
	if err != nil {
		t.Fatal(err)
	}
	empty, err := store.PackDelta(t.Context(), t.TempDir(), imagefs.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	digest, err := store.WriteImage(t.Context(), base, empty, imagefs.ImageConfig{Cmd: []string{"/bin/true"}}, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.ExportOCI(t.Context(), digest, "layout", "latest"); err != nil {
		t.Fatal(err)
	}
	if _, err := store.ExportDockerArchive(t.Context(), digest, "saved.tar", "web:latest"); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	recordImage(t, "web", digest)

	for _, spec := range []string{
		"image:" + root, "image:root.tar", "image:./root.tar", "image:layout", "image:layout:latest", "image:oci:layout", "image:saved.tar",
		"image:web", "image:web@v1",
	} {
		out, err := openAndRun(t, t.Context(), spec, targetOptions{network: "none"}, "cat /mark; touch /made")
		if err != nil || out != "here" {
			t.Errorf("%s: %q, %v", spec, out, err)
		}
	}
	for spec, want := range map[string]string{
		"image:wbe":         `did you mean "web"`,
		"image:web@v7":      "v7",
		"image:./nowhere":   "no such file",
		"image:/etc/passwd": "base tarball",
	} {
		if _, err := openAndRun(t, t.Context(), spec, targetOptions{network: "none"}, "true"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", spec, err)
		}
	}
	if _, err := openAndRun(t, t.Context(), "image:web", targetOptions{network: "moon"}, "true"); err == nil || !strings.Contains(err.Error(), "moon") {
		t.Errorf("network: %v", err)
	}
	// Also one that is cancelled while its machine runs.
	ctx, cancel := context.WithCancel(t.Context())
	m, giveBack, err := openTarget(ctx, "image:web", targetOptions{network: "none"}, event.Scope{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_ = m.Run(ctx, machine.Command{Line: "true"})
	if err := giveBack(); err != nil {
		t.Error(err)
	}
	nothingLeft(t, home)
	if _, err := os.Stat(filepath.Join(root, "made")); err == nil {
		t.Error("the machine has written into the image")
	}
}

// recordImage enters a sandbox image in the registry.
func recordImage(t *testing.T, name, digest string) {
	t.Helper()
	reg, err := openRegistry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	if _, err := reg.Record(t.Context(), registry.NewVersion{
		Image: name, Status: registry.StatusReady, Artifacts: []registry.Artifact{{Platform: "sandbox", ExternalID: digest, Digest: digest}},
	}); err != nil {
		t.Fatal(err)
	}
}

// nothingLeft says what machines have left behind on this host.
func nothingLeft(t *testing.T, home string) {
	t.Helper()
	reg, err := openRegistry(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	leases, err := reg.OpenLeases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range leases {
		t.Errorf("left in the ledger: %s %s", l.Kind, l.Name)
	}
	bakes, err := reg.OpenBakes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bakes {
		t.Errorf("not ended in the ledger: %s", b.Name)
	}
	for _, pattern := range []string{"machines/*", "images/tmp/*"} {
		left, err := filepath.Glob(filepath.Join(home, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range left {
			t.Errorf("left on the disk: %s", p)
		}
	}
}
