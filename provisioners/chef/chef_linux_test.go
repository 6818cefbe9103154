package chef

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	. "github.com/ingotbuild/ingot/internal/confmgmt/confmgmttest"
	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/machine"
)

func TestMain(m *testing.M) {
	sandbox.Reexec(nil)
	os.Exit(m.Run())
}

// Chef itself is not in Debian. These programs stand in for chef-solo,
// chef-client and knife on a real machine: they record how they were called and
// what they found, print what Chef prints, and exit as they are told. So the
// tests prove what Chef is given, and what becomes of its answers, but not that
// Chef accepts it.
const standIn = `exec >>/record
echo "$(basename "$0") $*"
pwd
for a in "$@"; do case $a in
  /*.rb|/*.json) stat -c '%a %n' "$a"; cat "$a" ;;
esac; done
find "$(dirname "$(printf '%s\n' "$@" | grep -m1 '^/')")" -type f | sort | xargs stat -c '%a %n'
[ ! -f /say ] || cat /say >&3
[ ! -f /hang ] || { sleep 987; }
exit $(cat /status 2>/dev/null || echo 0)
`

func standIns(t *testing.T, m machine.Machine, names ...string) {
	for _, name := range names {
		Program(t, m, name, "exec 3>&1\n"+standIn)
	}
}

// say makes the stand-ins print the text and exit with the status.
func say(t *testing.T, m machine.Machine, text, status string) {
	t.Helper()
	for name, content := range map[string]string{"say": text, "status": status} {
		if err := m.Put(t.Context(), "/", machine.BytesTree(name, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	Sh(t, m, "rm -f /record /hang")
}

const done = `Chef Infra Client, version 18.2.7
Converging 3 resources
Recipe: web::default
  * file[/etc/web] action create
    - create new file /etc/web
Running handlers:
Running handlers complete
Chef Infra Client finished, 2/3 resources updated in 02 seconds
`

// As Chef 15 and later print it.
const broken = `Recipe: web::default
  * execute[configure] action run

    ================================================================================
    Error executing action ` + "`run`" + ` on resource 'execute[configure]'
    ================================================================================

    Mixlib::ShellOut::ShellCommandFailed
    ------------------------------------
    Expected process to exit with [0], but received '1'
    ---- Begin output of /bin/configure ----
    STDOUT:
    STDERR: no pipework at 7
    ---- End output of /bin/configure ----
    Ran /bin/configure returned 1

    Resource Declaration:
    ---------------------
    # In /tmp/packer-chef-solo/cookbooks-0/web/recipes/default.rb

Running handlers:
[2026-01-02T03:04:05+00:00] ERROR: Running exception handlers
Running handlers complete
[2026-01-02T03:04:05+00:00] ERROR: Exception handlers complete
Chef Infra Client failed. 1 resources updated in 02 seconds
[2026-01-02T03:04:05+00:00] FATAL: Stacktrace dumped to /var/chef/cache/chef-stacktrace.out
[2026-01-02T03:04:05+00:00] FATAL: Mixlib::ShellOut::ShellCommandFailed: execute[configure] (web::default line 3) had an error
`

func TestSolo(t *testing.T) {
	m := Start(t)
	standIns(t, m, "chef-solo")
	env, l := Env(t, map[string]string{
		"cookbooks/web/recipes/default.rb": "file '/etc/web'", "more/x/metadata.rb": "name 'x'", "roles/a.json": "{}", "bags/b/c.json": "{}",
		"environments/prod.json": "{}", "secret": "s3cr3t",
	})
	say(t, m, done, "0")
	p := NewSolo()
	p.o.CookbookPaths, p.o.RemoteCookbookPaths = []string{"cookbooks", "more"}, []string{"/opt/it's"}
	p.o.RolesPath, p.o.DataBagsPath, p.o.EnvironmentsPath, p.o.ChefEnvironment = "roles", "bags", "environments", "prod"
	p.o.EncryptedDataBagSecretPath, p.o.PreventSudo, p.o.RunList = "secret", true, []string{"recipe[web]"}
	p.o.JSONString = `{"port": 12345678901234567890, "password": "hunter2"}`
	Check(t, p, env)
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	Changes(t, p, 2)
	const want = `chef-solo --no-color -c /tmp/packer-chef-solo/solo.rb -j /tmp/packer-chef-solo/node.json
/root
600 /tmp/packer-chef-solo/solo.rb
chef_license 'accept-silent'
cookbook_path ['/opt/it\'s','/tmp/packer-chef-solo/cookbooks-0','/tmp/packer-chef-solo/cookbooks-1']
role_path '/tmp/packer-chef-solo/roles'
data_bag_path '/tmp/packer-chef-solo/data_bags'
encrypted_data_bag_secret '/tmp/packer-chef-solo/encrypted_data_bag_secret'
environment_path '/tmp/packer-chef-solo/environments'
environment 'prod'
600 /tmp/packer-chef-solo/node.json
{
  "password": "hunter2",
  "port": 12345678901234567890,
  "run_list": [
    "recipe[web]"
  ]
}644 /tmp/packer-chef-solo/cookbooks-0/web/recipes/default.rb
644 /tmp/packer-chef-solo/cookbooks-1/x/metadata.rb
644 /tmp/packer-chef-solo/data_bags/b/c.json
600 /tmp/packer-chef-solo/encrypted_data_bag_secret
644 /tmp/packer-chef-solo/environments/prod.json
600 /tmp/packer-chef-solo/node.json
644 /tmp/packer-chef-solo/roles/a.json
600 /tmp/packer-chef-solo/solo.rb`
	if got := Sh(t, m, "cat /record"); got != want {
		t.Errorf("chef-solo had\n%s\nwant\n%s", got, want)
	}
	if got := Sh(t, m, "cd /tmp/packer-chef-solo && ls"); strings.Contains(got, "secret") || strings.Contains(got, "node.json") || !strings.Contains(got, "cookbooks-0") {
		t.Errorf("left: %s", got)
	}
	if text := l.String(); strings.Contains(text, "hunter2") || strings.Contains(text, "s3cr3t") || strings.Contains(text, "Installing") {
		t.Errorf("events:\n%s", text)
	}
}

func TestSoloFails(t *testing.T) {
	m := Start(t)
	standIns(t, m, "chef-solo")
	env, _ := Env(t, map[string]string{"secret": "s3cr3t"})
	p := NewSolo()
	p.o.EncryptedDataBagSecretPath, p.o.PreventSudo = "secret", true
	say(t, m, broken, "1")
	err := p.Provision(t.Context(), env, m)
	Fails(t, err, "chef-solo ended with exit status 1", "execute[configure]", "STDERR: no pipework at 7", "(web::default line 3) had an error")
	if err != nil && strings.Contains(err.Error(), "Stacktrace") {
		t.Errorf("the error holds what says nothing: %v", err)
	}
	Changes(t, p, 1)
	for status, why := range map[string]string{"35": "scheduled a reboot", "37": "needs a reboot", "172": "chef_license", "213": "run again"} {
		say(t, m, "", status)
		Fails(t, p.Provision(t.Context(), env, m), "exit status "+status, why)
	}
	if n, known := p.Changes(); known {
		t.Errorf("%d changes are known of a run that said nothing", n)
	}
	if got := Sh(t, m, "ls /tmp/packer-chef-solo"); got != "solo.rb" {
		t.Errorf("left: %s", got)
	}
	Sh(t, m, "rm /usr/local/bin/chef-solo")
	p.o.SkipInstall = true
	Fails(t, p.Provision(t.Context(), env, m), "was not found on the machine", "skip_install")
}

func TestInstall(t *testing.T) {
	m := Start(t)
	env, l := Env(t, nil)
	p := NewSolo()
	p.o.PreventSudo, p.o.Version = true, "18.4"
	p.o.InstallCommand = `echo "installs {{.Version}} {{.Sudo}}" >>/installs; printf '#!/bin/sh\ncase $1 in --version) echo "Chef Infra Client: {{.Version}}.12" ;; esac\n' >/usr/local/bin/chef-solo && chmod 755 /usr/local/bin/chef-solo`
	Check(t, p, env)
	for range 2 {
		if err := p.Provision(t.Context(), env, m); err != nil {
			t.Fatal(err)
		}
	}
	p.o.Version = "18"
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	if got := Sh(t, m, "cat /installs"); got != "installs 18.4 false" {
		t.Errorf("the first version was installed again: %s", got)
	}
	p.o.Version = "1"
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	if got := Sh(t, m, "cat /installs"); got != "installs 18.4 false\ninstalls 1 false" {
		t.Errorf("18.4 was taken for 1: %s", got)
	}
	if strings.Count(l.String(), "Installing Chef") != 2 {
		t.Errorf("events:\n%s", l)
	}
	Sh(t, m, "rm /usr/local/bin/chef-solo")
	p.o.InstallCommand = "echo no such mirror >&2; exit 6"
	Fails(t, p.Provision(t.Context(), env, m), "the installation of Chef ended with exit status 6", "no such mirror")
	// Packer's command: without a network curl fails, and bash has nothing to run.
	p.o.InstallCommand = ""
	Fails(t, p.Provision(t.Context(), env, m), "chef-solo or another program of the command was not found")
}

func TestClient(t *testing.T) {
	m := Start(t)
	standIns(t, m, "chef-client", "knife")
	env, l := Env(t, map[string]string{"validation.pem": "PRIVATE 1", "secret": "s3cr3t", "ca.pem": "CERT"})
	say(t, m, done, "0")
	p := NewClient()
	p.o.ServerURL, p.o.NodeName, p.o.ChefEnvironment = "https://chef.example/organizations/o", "baked", "pr'od"
	p.o.ValidationKeyPath, p.o.EncryptedDataBagSecretPath, p.o.SSLCertPath, p.o.SSLVerifyMode = "validation.pem", "secret", "ca.pem", "verify_peer"
	p.o.PreventSudo, p.o.RubygemsURL, p.o.TrustedCertsDir = true, "https://gems.example", "/etc/trusted"
	Check(t, p, env)
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	Changes(t, p, 2)
	const files = `644 /tmp/packer-chef-client/ca.pem
600 /tmp/packer-chef-client/client.rb
600 /tmp/packer-chef-client/encrypted_data_bag_secret
600 /tmp/packer-chef-client/first-boot.json
600 /tmp/packer-chef-client/knife.rb
600 /tmp/packer-chef-client/validation.pem
`
	const head = `log_level :info
log_location STDOUT
chef_server_url 'https://chef.example/organizations/o'
client_key '/tmp/packer-chef-client/client.pem'
node_name 'baked'
ssl_verify_mode :verify_peer
ssl_ca_file '/tmp/packer-chef-client/ca.pem'
trusted_certs_dir '/etc/trusted'
`
	knife := func(what string) string {
		return "knife " + what + " delete baked -y -c /tmp/packer-chef-client/knife.rb\n/root\n600 /tmp/packer-chef-client/knife.rb\n" + head + files
	}
	want := "chef-client --no-color -c /tmp/packer-chef-client/client.rb -j /tmp/packer-chef-client/first-boot.json\n/root\n" +
		"600 /tmp/packer-chef-client/client.rb\n" + head + `chef_license 'accept-silent'
encrypted_data_bag_secret '/tmp/packer-chef-client/encrypted_data_bag_secret'
validation_client_name 'chef-validator'
validation_key '/tmp/packer-chef-client/validation.pem'
environment 'pr\'od'
rubygems_url 'https://gems.example'
600 /tmp/packer-chef-client/first-boot.json
{}` + files + knife("node") + knife("client")
	if got := Sh(t, m, "cat /record") + "\n"; got != want {
		t.Errorf("the programs had\n%s\nwant\n%s", got, want)
	}
	if got := Sh(t, m, "ls -A /tmp"); got != "" {
		t.Errorf("left: %s", got)
	}
	if text := l.String(); strings.Contains(text, "PRIVATE") || strings.Contains(text, "s3cr3t") {
		t.Errorf("events:\n%s", text)
	}

	// A failure takes the node off the server too, and the keys go although the directory stays.
	say(t, m, broken, "1")
	p.o.SkipCleanStagingDirectory, p.o.SkipCleanClient = true, true
	err := p.Provision(t.Context(), env, m)
	Fails(t, err, "chef-client ended with exit status 1", "no pipework", "the command after Chef failed with exit status 1")
	if got := Sh(t, m, "grep -c ^knife /record; ls /tmp/packer-chef-client"); got != "1\nca.pem\nclient.rb\nknife.rb" {
		t.Errorf("knife was run and left: %s", got)
	}
}

// Files that sudo made are removed by sudo.
func TestSudo(t *testing.T) {
	m := Start(t)
	standIns(t, m, "chef-client", "knife")
	Program(t, m, "sudo", `echo "sudo $*" >>/sudo; [ "$1" != -n ] || { shift; PATH=/usr/bin:/bin; }; exec "$@"`)
	Program(t, m, "rm", `case $2 in */client.pem) exit 1 ;; esac; exec /bin/rm "$@"`)
	env, _ := Env(t, nil)
	p := NewClient()
	p.o.ServerURL, p.o.NodeName = "https://chef.example", "baked"
	say(t, m, done, "0")
	Check(t, p, env)
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	const dir = "/tmp/packer-chef-client"
	want := "sudo chef-client --no-color -c " + dir + "/client.rb -j " + dir + "/first-boot.json\nsudo knife node delete baked -y -c " + dir + "/knife.rb\nsudo knife client delete baked -y -c " + dir + "/knife.rb\nsudo -n rm -rf " + dir + "/client.pem"
	if got := Sh(t, m, "cat /sudo"); got != want {
		t.Errorf("sudo was used for\n%s\nwant\n%s", got, want)
	}
	// A key that nobody can remove is no success.
	Program(t, m, "sudo", `[ "$1" != -n ] || exit 1; exec "$@"`)
	Fails(t, p.Provision(t.Context(), env, m), dir+"/client.pem could not be removed from the machine")
}

func TestConfigTemplate(t *testing.T) {
	m := Start(t)
	standIns(t, m, "chef-client")
	env, _ := Env(t, map[string]string{"c.rb": `node "{{.NodeName}}"{{if ne .ValidationKeyPath ""}} key{{end}} {{build_name}}`, "bad.rb": "{{.NodeNmae}}", "worse.rb": "{{"})
	env.Template.BuildName = "web"
	say(t, m, done, "0")
	p := NewClient()
	p.o.ServerURL, p.o.ConfigTemplate, p.o.PreventSudo, p.o.SkipCleanClient, p.o.SkipCleanNode = "http://localhost:8889", "c.rb", true, true, true
	p.o.ExecuteCommand = "{{if .Sudo}}sudo {{end}}chef-client -z -c {{.ConfigPath}} -j '{{.JsonPath}}'"
	Check(t, p, env)
	if err := p.Provision(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	if got := Sh(t, m, "head -n1 /record; grep ^node /record"); !strings.HasPrefix(got, "chef-client -z -c /tmp/") || !strings.Contains(got, `node "packer-`) || !strings.Contains(got, `" web`) {
		t.Errorf("chef-client had %s", got)
	}
	for bad, want := range map[string]string{"bad.rb": "config_template?", "worse.rb": "config_template"} {
		p.o.ConfigTemplate = bad
		if got := Problems(t, p, env); got != want {
			t.Errorf("%s: problems with %q", bad, got)
		}
		Fails(t, p.Provision(t.Context(), env, m), "config_template")
	}
}

func TestCancelLeavesNoSecretAndNoNode(t *testing.T) {
	m := Start(t)
	standIns(t, m, "chef-client")
	Program(t, m, "knife", "echo \"$*\" >>/knife")
	env, l := Env(t, map[string]string{"validation.pem": "PRIVATE 1"})
	say(t, m, "converging\n", "0")
	Sh(t, m, "touch /hang")
	p := NewClient()
	p.o.ServerURL, p.o.NodeName, p.o.ValidationKeyPath, p.o.PreventSudo = "https://chef.example", "baked", "validation.pem", true
	p.o.SkipCleanStagingDirectory = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l.Output = func(s string) {
		if s == "converging" {
			cancel()
		}
	}
	if err := p.Provision(ctx, env, m); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	Processes(t, m, "sleep 987|chef-client")
	if got := Sh(t, m, "cd /tmp/packer-chef-client; ls; cat /knife"); got != "client.rb\nknife.rb\nnode delete baked -y -c /tmp/packer-chef-client/knife.rb\nclient delete baked -y -c /tmp/packer-chef-client/knife.rb" {
		t.Errorf("left: %s", got)
	}
}

// A full disk while the files are put there leaves no secret either.
func TestSecretsGoWhenStagingFails(t *testing.T) {
	m := Start(t)
	env, _ := Env(t, map[string]string{"validation.pem": "PRIVATE 1", "secret": "s3cr3t"})
	p := NewClient()
	p.o.ServerURL, p.o.ValidationKeyPath, p.o.EncryptedDataBagSecretPath, p.o.PreventSudo = "https://chef.example", "validation.pem", "secret", true
	p.o.SkipCleanStagingDirectory = true
	// knife.rb comes after the secrets.
	Sh(t, m, "mkdir -p /tmp/packer-chef-client/knife.rb/in-the-way")
	Fails(t, p.Provision(t.Context(), env, m), "put the files for Chef into /tmp/packer-chef-client")
	if got := Sh(t, m, "ls /tmp/packer-chef-client"); strings.Contains(got, "validation.pem") || strings.Contains(got, "secret") {
		t.Errorf("left: %s", got)
	}
}
