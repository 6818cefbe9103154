package puppet

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/ingotbuild/ingot/internal/confmgmt/confmgmttest"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
)

// serve runs the real Puppet server on the machine, with a certificate for the
// node "baked", and returns the directories of its certificates and its key.
func serve(t *testing.T, m machine.Machine, manifest string) (certs, keys string) {
	t.Helper()
	if _, err := exec.LookPath("puppetserver"); err != nil {
		sandboxtest.Missing(t, "needs puppetserver (Debian: puppetserver)")
	}
	if err := m.Put(t.Context(), "/etc/puppet/code/environments/production/manifests", machine.BytesTree("site.pp", []byte(manifest), 0o644)); err != nil {
		t.Fatal(err)
	}
	Sh(t, m, `printf '[main]\ncertname = puppet\nserver = puppet\ndns_alt_names = puppet,localhost\n' >/etc/puppet/puppet.conf
echo '127.0.0.1 puppet' >>/etc/hosts
mkdir -p /run/puppetserver /run/puppet /var/log/puppetserver && chown puppet:puppet /run/puppetserver /run/puppet /var/log/puppetserver`)
	begin := time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	var out bytes.Buffer
	var failed atomic.Pointer[error]
	go func() {
		defer close(ended)
		// As its systemd unit starts it.
		line := `set -a; . /etc/default/puppetserver; set +a; RUNTIME_DIRECTORY=/run/puppetserver; printf 0 >/run/puppetserver/restart; chown puppet:puppet /run/puppetserver/restart
exec setpriv --reuid puppet --regid puppet --init-groups env HOME=/var/lib/puppetserver java -Xms512m -Xmx512m -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Djruby.lib=/usr/share/jruby/lib \
 -Djruby.logger.class=com.puppetlabs.jruby_utils.jruby.Slf4jLogger -jar /usr/share/puppetserver/puppetserver.jar \
 --config /etc/puppet/puppetserver/conf.d --bootstrap-config /etc/puppet/puppetserver/services.d --restart-file /run/puppetserver/restart`
		if err := m.Run(ctx, machine.Command{Line: line, Stdout: &out, Stderr: &out}); err != nil {
			failed.Store(&err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		if t.Failed() {
			t.Logf("the server said:\n%s", &out)
		}
	})
	for deadline := time.Now().Add(8 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		err := m.Run(t.Context(), machine.Command{Line: "head -c1 /run/puppetserver/restart | grep -q 1"})
		if err == nil {
			break
		}
		if e := failed.Load(); e != nil {
			t.Fatalf("the Puppet server ended: %v", *e)
		}
		if time.Now().After(deadline) {
			t.Fatal("the Puppet server did not start in 8 minutes")
		}
	}
	t.Logf("the server started after %v", time.Since(begin))
	Sh(t, m, "puppetserver ca generate --certname baked")
	t.Logf("the certificate was there after %v", time.Since(begin))
	dir := t.TempDir()
	certs, keys = filepath.Join(dir, "certs"), filepath.Join(dir, "keys")
	for from, to := range map[string]string{"certs/baked.pem": certs, "certs/ca.pem": certs, "private_keys/baked.pem": keys} {
		if err := m.Get(t.Context(), "/var/lib/puppet/ssl/"+from, machine.DirSink(to)); err != nil {
			t.Fatal(err)
		}
	}
	Sh(t, m, "rm -f /var/lib/puppet/ssl/*/baked.pem")
	return certs, keys
}

// The real agent against the real server, both on one machine.
func TestAgent(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a Puppet server, which takes a minute of processor time")
	}
	m := start(t)
	certs, keys := serve(t, m, "node 'baked' { file { '/etc/baked': content => \"${facts['packer_build_name']} ${facts['role']}\\n\" } }\nnode default { fail('unknown node') }\n")
	env, l := Env(t, nil)
	p := NewServer()
	p.o.PuppetServer, p.o.PuppetNode, p.o.ClientCertPath, p.o.ClientPrivateKeyPath = "puppet", "baked", certs, keys
	p.o.PreventSudo, p.o.Facter = true, map[string]string{"role": "a web server"}
	p.o.ExtraArguments, p.o.AgentOptions = []string{"--environment=production"}, "--no-usecacheonfailure"
	Check(t, p, env)
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	Changes(t, p, 1)
	if got := Sh(t, m, "cat /etc/baked"); got != "web a web server" {
		t.Errorf("the machine has %q", got)
	}
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	Changes(t, p, 0)
	// The staging directory stays, the key does not.
	if got := Sh(t, m, "ls /tmp/packer-puppet-server"); got != "certs" {
		t.Errorf("in the staging directory: %q", got)
	}
	key, err := os.ReadFile(filepath.Join(keys, "baked.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(l.String(), strings.Split(string(key), "\n")[1]) {
		t.Error("the private key is in the events")
	}

	if err := m.Put(t.Context(), "/etc/puppet/code/environments/production/manifests", machine.BytesTree("site.pp", []byte("fail('not for you')"), 0o644)); err != nil {
		t.Fatal(err)
	}
	Sh(t, m, "rm -rf /tmp/packer-puppet-server")
	p.o.CleanStagingDir = true
	if err := p.Provision(t.Context(), env, m); err == nil || !strings.Contains(err.Error(), "not for you") {
		t.Errorf("a catalog that fails: %v", err)
	}
	if got := Sh(t, m, "ls -A /tmp | grep packer || true"); got != "" {
		t.Errorf("left in /tmp: %s", got)
	}
}
