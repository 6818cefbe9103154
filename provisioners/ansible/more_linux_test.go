package ansible

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/internal/sshtest"
	"github.com/ingotbuild/ingot/machine"
)

// touch is a play that leaves a mark on the machine.
const touch = "- hosts: all\n  gather_facts: false\n  tasks: [{raw: touch /reached}]\n"

func TestPassword(t *testing.T) {
	need(t, "sshpass", "sshpass")
	m := sshBox(t)
	m.a.PrivateKey, m.a.Password = nil, "correct-horse"
	// A process list that is looked at all the time never shows the password.
	f := setup(t, map[string]string{"p.yml": touch}, func(o *Options) { o.PlaybookFile = "p.yml" })
	stop, seen := make(chan struct{}), make(chan bool)
	go func() {
		found := false
		for {
			files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, file := range files {
				line, _ := os.ReadFile(file)
				found = found || bytes.Contains(line, []byte("correct-horse"))
			}
			select {
			case <-stop:
				seen <- found
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	err := f.run(t, m)
	close(stop)
	if <-seen {
		t.Error("the password was in a command line")
	}
	if err != nil {
		t.Fatal(err)
	}
	must(t, m, "test -e /reached")
	if said := f.said(event.Message, event.Output, event.Warning); strings.Contains(said, "correct-horse") || !strings.Contains(said, "by SSH to 127.0.0.1") {
		t.Errorf("said %s", said)
	}
	f.nothingLeft(t)
}

func TestBastion(t *testing.T) {
	m := sshBox(t)
	hop := m.a
	// Seen from the bastion, which is the machine itself, sshd is at its own port.
	m.a.Port, m.a.Bastions = 2222, []machine.SSHAccess{hop}
	f := setup(t, map[string]string{"p.yml": touch}, func(o *Options) { o.PlaybookFile = "p.yml" })
	if err := f.run(t, m); err != nil {
		t.Fatal(err, f.said(event.Output))
	}
	must(t, m, "test -e /reached")
	f.nothingLeft(t)
	// The bastion's host key counts as well.
	other, _, err := newKey("ED25519")
	if err != nil {
		t.Fatal(err)
	}
	m.a.Bastions[0].HostKeys = []string{authorized(other)}
	must(t, m, "rm /reached")
	if err := f.run(t, m); err == nil {
		t.Error("a bastion with another host key was used")
	}
	if _, err := sh(t, m, "test -e /reached"); err == nil {
		t.Error("the machine was provisioned")
	}
	f.nothingLeft(t)
}

func TestInventories(t *testing.T) {
	m := box(t)
	files := map[string]string{
		"p.yml":                  "- hosts: all\n  gather_facts: false\n  tasks: [{copy: {dest: /etc/v, content: '{{ inventory_hostname }} {{ v }} {{ groups.keys() | sort | join(\",\") }}'}}]\n",
		"inv/group_vars/all.yml": "v: from group_vars\n",
		"own/hosts":              "box ansible_host=127.0.0.1 ansible_port=PORT v=own\nother ansible_host=192.0.2.1 v=x\n",
	}
	port := sshtest.FreePort(t)
	files["own/hosts"] = strings.ReplaceAll(files["own/hosts"], "PORT", strconv.Itoa(port))
	for name, tc := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"directory": {func(o *Options) { o.InventoryDirectory, o.Groups = "inv", []string{"g"} }, "default from group_vars all,g,ungrouped"},
		"template": {func(o *Options) {
			o.InventoryFileTemplate = "{{ .HostAlias }} ansible_host={{ .Host }} ansible_port={{ .Port }} ansible_user={{ .User }} v={{ .ID }}\n"
			o.HostAlias = "box2"
		}, "box2 i1 all,ungrouped"},
		"own": {func(o *Options) { o.InventoryFile, o.LocalPort, o.Limit = "own/hosts", port, "box" }, "box own all,ungrouped"},
	} {
		t.Run(name, func(t *testing.T) {
			f := setup(t, files, tc.change)
			f.p.o.PlaybookFile = "p.yml"
			if err := f.run(t, m); err != nil {
				t.Fatal(err, f.said(event.Output))
			}
			if got := must(t, m, "cat /etc/v"); got != tc.want {
				t.Errorf("%q, want %q", got, tc.want)
			}
			if left, _ := filepath.Glob(f.env.Dir + "/inv/ingot-*"); left != nil {
				t.Errorf("left behind: %v", left)
			}
			f.nothingLeft(t)
		})
	}
	t.Run("kept", func(t *testing.T) {
		f := setup(t, map[string]string{}, func(o *Options) {
			o.Module, o.ModuleArgs, o.KeepInventoryFile = "command", map[string]string{"cmd": "touch '/etc/it is {{ inventory_hostname }}'"}, true
		})
		if err := f.run(t, m); err != nil {
			t.Fatal(err, f.said(event.Output))
		}
		must(t, m, "test -e '/etc/it is default'")
		if n, known := f.p.Changes(); n != 1 || !known {
			t.Errorf("%d changes, %v", n, known)
		}
		kept, _ := filepath.Glob(f.tmp + "/ingot-ansible-*")
		if len(kept) != 1 || !strings.Contains(f.said(event.Message), kept[0]) {
			t.Fatalf("kept %v", kept)
		}
	})
}

func TestGalaxy(t *testing.T) {
	m := box(t)
	src := t.TempDir()
	for name, text := range map[string]string{
		"r/tasks/main.yml":               "- raw: touch /role\n",
		"r/meta/main.yml":                "galaxy_info: {author: a, description: d, license: MIT, min_ansible_version: '2.9'}\n",
		"c/galaxy.yml":                   "namespace: ns\nname: coll\nversion: 1.0.0\nreadme: README.md\nauthors: [a]\n",
		"c/README.md":                    "x\n",
		"c/roles/in_coll/tasks/main.yml": "- raw: touch /collection\n",
	} {
		sandboxtest.Write(t, src, name, text, 0o644)
	}
	tool := func(name string, args ...string) {
		cmd := exec.Command(name, args...)
		cmd.Dir = src
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	tool("tar", "-czf", "r.tgz", "r")
	tool("ansible-galaxy", "collection", "build", "c")
	files := map[string]string{
		"req.yml": "roles:\n  - {src: " + src + "/r.tgz, name: a_role}\ncollections:\n  - {name: " + src + "/ns-coll-1.0.0.tar.gz, type: file}\n",
		"p.yml":   "- hosts: all\n  gather_facts: false\n  roles: [a_role, ns.coll.in_coll]\n",
	}
	f := setup(t, files, func(o *Options) { o.PlaybookFile, o.GalaxyFile = "p.yml", "req.yml" })
	if err := f.run(t, m); err != nil {
		t.Fatal(err, f.said(event.Output))
	}
	must(t, m, "test -e /role && test -e /collection")
	f.nothingLeft(t)
	if left, _ := filepath.Glob(os.Getenv("HOME") + "/.ansible/[rc]o*/*"); left != nil {
		t.Errorf("installed for the user: %v", left)
	}
	sandboxtest.Write(t, f.env.Dir, "req.yml", "- {src: "+src+"/none.tgz, name: b}\n", 0o600)
	if err := f.run(t, m); err == nil || !strings.Contains(err.Error(), "installing the roles of req.yml, ended with exit status") {
		t.Errorf("error %v", err)
	}
	f.nothingLeft(t)
}

func TestWrongVault(t *testing.T) {
	need(t, "ansible-vault", "ansible-core")
	m := box(t)
	f := setup(t, map[string]string{"right": "right", "wrong": "wrong", "v.yml": "secret: hunter2-hunter2\n",
		"p.yml": "- hosts: all\n  gather_facts: false\n  vars_files: [v.yml]\n  tasks: [{raw: 'echo {{ secret }} >/secret', no_log: true}]\n"},
		func(o *Options) {
			o.PlaybookFile, o.ExtraArguments = "p.yml", []string{"--vault-password-file", "wrong"}
		})
	cmd := exec.Command("ansible-vault", "encrypt", "--vault-password-file", "right", "v.yml")
	cmd.Dir = f.env.Dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := f.run(t, m); err == nil || !strings.Contains(err.Error(), "Decryption failed") {
		t.Errorf("error %v", err)
	}
	f.nothingLeft(t)
	f.p.o.ExtraArguments[1] = "right"
	if err := f.run(t, m); err != nil {
		t.Fatal(err)
	}
	must(t, m, "grep -q hunter2 /secret")
	if strings.Contains(f.said(event.Output, event.Message), "hunter2") {
		t.Error("the secret is in the output")
	}
}

// startProxy serves the machine to the test.
func startProxy(t *testing.T, m machine.Machine, change func(*Options)) (*proxy, *fixture) {
	t.Helper()
	f := setup(t, nil, change)
	dir, err := privateDir()
	if err != nil {
		t.Fatal(err)
	}
	p, err := (&run{Options: &f.p.o, env: f.env, m: m, bake: f.env.Bake(), dir: dir}).proxy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, f
}

// The proxy lets nobody in but its own key, and forwards nothing.
func TestProxyIsClosed(t *testing.T) {
	m := box(t)
	p, _ := startProxy(t, m, nil)
	own, err := ssh.ParsePrivateKey(p.access.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := newKey("ED25519")
	if err != nil {
		t.Fatal(err)
	}
	cert := &ssh.Certificate{Key: own.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"x"}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(bytes.NewReader(make([]byte, 256)), other); err != nil {
		t.Fatal(err)
	}
	certified, err := ssh.NewCertSigner(cert, own)
	if err != nil {
		t.Fatal(err)
	}
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(p.access.HostKeys[0]))
	if err != nil {
		t.Fatal(err)
	}
	dial := func(auth ...ssh.AuthMethod) (*ssh.Client, error) {
		return ssh.Dial("tcp", p.network.Addr().String(), &ssh.ClientConfig{User: "x", Auth: auth, HostKeyCallback: ssh.FixedHostKey(hostKey)})
	}
	for name, auth := range map[string][]ssh.AuthMethod{
		"another key": {ssh.PublicKeys(other)}, "a certificate": {ssh.PublicKeys(certified)}, "a password": {ssh.Password("x")}, "nothing": nil,
	} {
		if c, err := dial(auth...); err == nil {
			c.Close()
			t.Errorf("%s lets in", name)
		}
	}
	if host, _, _ := net.SplitHostPort(p.network.Addr().String()); host != "127.0.0.1" {
		t.Errorf("it listens at %s", host)
	}
	c, err := dial(ssh.PublicKeys(own))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Dial("tcp", "127.0.0.1:22"); err == nil {
		t.Error("a connection is forwarded")
	}
	if _, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("a port is forwarded")
	}
	session := func() *ssh.Session {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := session()
	var stderr bytes.Buffer
	s.Stdin, s.Stderr = strings.NewReader("in"), &stderr
	out, err := s.Output("cat; echo err >&2; exit 7")
	if exit, ok := err.(*ssh.ExitError); !ok || exit.ExitStatus() != 7 || string(out) != "in" || stderr.String() != "err\n" {
		t.Errorf("%q, %q, %v", out, &stderr, err)
	}
	if err := session().Shell(); err == nil {
		t.Error("there is a shell")
	}
	// The end of a session ends its command; so does the end of the proxy.
	s = session()
	if err := s.Start("touch /tmp/one; exec sleep 1001"); err != nil {
		t.Fatal(err)
	}
	within(t, "the command runs", func() bool { _, err := sh(t, m, "test -e /tmp/one"); return err == nil })
	s.Close()
	within(t, "the command has ended", func() bool { _, err := sh(t, m, "pgrep -f 'sleep 100[1]'"); return err != nil })
	s = session()
	if err := s.Start("touch /tmp/two; exec sleep 1002"); err != nil {
		t.Fatal(err)
	}
	within(t, "the command runs", func() bool { _, err := sh(t, m, "test -e /tmp/two"); return err == nil })
	p.Close()
	if out, err := sh(t, m, "pgrep -f 'sleep 100[2]'"); err == nil {
		t.Errorf("the command goes on: %s", out)
	}
}

func TestProxyKeys(t *testing.T) {
	m := box(t)
	for _, kind := range []string{"RSA", "ecdsa"} {
		p, _ := startProxy(t, m, func(o *Options) { o.AnsibleProxyKeyType = kind })
		if !strings.Contains(p.access.HostKeys[0], strings.ToLower(kind)) {
			t.Errorf("%s: %s", kind, p.access.HostKeys[0])
		}
	}
	hostKey, hostPEM, _ := newKey("ED25519")
	userKey, userPEM, _ := newKey("ED25519")
	f := setup(t, map[string]string{"host": string(hostPEM), "user": string(userPEM), "user.pub": authorized(userKey), "p.yml": touch}, func(o *Options) {
		o.PlaybookFile, o.SSHHostKeyFile, o.SSHAuthorizedKeyFile = "p.yml", "host", "user.pub"
	})
	f.p.o.ExtraArguments = []string{"--private-key", filepath.Join(f.env.Dir, "user")}
	if err := f.run(t, m); err != nil {
		t.Fatal(err)
	}
	must(t, m, "test -e /reached")
	_ = hostKey
}

// The vars file holds what must not be seen.
func TestWinRM(t *testing.T) {
	f := setup(t, nil, func(o *Options) { o.Module, o.AnsibleWinRMUseHTTP = "win_ping", true })
	f.env.Values = map[string]string{"ConnType": "winrm", "Host": "10.0.0.5", "Port": "5985", "User": "Administrator", "Password": "s3cret-s3cret"}
	r := &run{Options: &f.p.o, env: f.env, m: windowsMachine{}, bake: f.env.Bake(), dir: f.tmp}
	end, err := r.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	if err := r.environment(); err != nil {
		t.Fatal(err)
	}
	args, remove, err := r.arguments()
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	if strings.Contains(strings.Join(append(args, r.environ...), " "), "s3cret") {
		t.Errorf("the password is in %q", args)
	}
	b, err := os.ReadFile(filepath.Join(f.tmp, "inventory"))
	if want := "default ansible_host=10.0.0.5 ansible_user=Administrator ansible_port=5985 ansible_connection=winrm ansible_winrm_transport=basic ansible_shell_type=powershell\n"; err != nil || string(b) != want {
		t.Errorf("inventory %q, %v", b, err)
	}
	var vars map[string]string
	b, _ = os.ReadFile(strings.TrimPrefix(args[1], "@"))
	if err := json.Unmarshal(b, &vars); err != nil || vars["ansible_password"] != "s3cret-s3cret" || vars["ansible_winrm_scheme"] != "http" || vars["packer_build_name"] != "web" {
		t.Errorf("variables %s, %v", b, err)
	}
	if info, _ := os.Stat(filepath.Join(f.tmp, "vars.json")); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	f.env.Values["User"] = "x\nProxyCommand evil"
	if _, err := r.connect(t.Context()); err == nil {
		t.Error("a hostile user name is taken")
	}
}

type windowsMachine struct{ machine.Machine }

func (windowsMachine) Platform() machine.Platform {
	return machine.Platform{OS: "windows", Shell: "powershell"}
}

// What a builder says of its machine is not taken into ssh's files unseen.
func TestHostileAddresses(t *testing.T) {
	need(t, "ssh", "openssh-client")
	_, key, err := newKey("ED25519")
	if err != nil {
		t.Fatal(err)
	}
	good := machine.SSHAccess{Host: "10.0.0.1", Port: 22, User: "root", PrivateKey: key}
	for name, change := range map[string]func(a *machine.SSHAccess){
		"an option":       func(a *machine.SSHAccess) { a.Host = "-oProxyCommand=x" },
		"a line":          func(a *machine.SSHAccess) { a.Host = "a\nProxyCommand x" },
		"no host":         func(a *machine.SSHAccess) { a.Host = "" },
		"no port":         func(a *machine.SSHAccess) { a.Port = 0 },
		"a user's line":   func(a *machine.SSHAccess) { a.User = "a\nProxyCommand x" },
		"a user's option": func(a *machine.SSHAccess) { a.User = "-x" },
		"a bastion": func(a *machine.SSHAccess) {
			a.Bastions = []machine.SSHAccess{{Host: "a b", Port: 22, User: "x", PrivateKey: key}}
		},
		"a bastion's password": func(a *machine.SSHAccess) {
			a.Bastions = []machine.SSHAccess{{Host: "b", Port: 22, User: "x", Password: "x"}}
		},
	} {
		a := good
		change(&a)
		if _, err := reachable(&reached{a: a}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for _, host := range []string{"10.0.0.1", "web-1.example.com", "::1", "fe80::1%eth0"} {
		a := good
		a.Host = host
		if _, err := reachable(&reached{a: a}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, err := reachable(&reached{a: good, no: true}); err == nil {
		t.Error("a machine that says no is taken")
	}
	r := &run{dir: t.TempDir(), variables: map[string]string{}}
	bad := good
	bad.HostKeys = []string{"ssh-ed25519 AAAA\n* ssh-rsa x"}
	if err := r.sshConfig(bad); err == nil {
		t.Error("a hostile host key is taken")
	}
}
