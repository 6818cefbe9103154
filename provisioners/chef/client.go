package chef

import (
	"context"
	"net/url"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/confmgmt"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// ClientOptions are the options of a `provisioner "chef-client"` block.
// The machine registers with a Chef server and runs chef-client. Its node and
// client are taken off the server again, also after a failure.
type ClientOptions struct {
	// ServerURL is the address of the Chef server, with the organization.
	ServerURL string `cfg:"server_url,required"`
	// NodeName is the node's name on the server. Default: `packer-` and a random UUID.
	NodeName string `cfg:"node_name"`
	// ClientKey is where the client's key is or will be on the machine. Default:
	// client.pem in the staging directory, which is removed after the run,
	// however that ends.
	ClientKey string `cfg:"client_key"`
	// ValidationKeyPath is the validation key on this host. On the machine only
	// the login user can read it, and it is removed after the run, however that
	// ends. Default: the machine has it where Chef looks for it.
	ValidationKeyPath string `cfg:"validation_key_path"`
	// ValidationClientName is the name of the validation client. Default: chef-validator.
	ValidationClientName string `cfg:"validation_client_name"`
	// PolicyName and PolicyGroup choose a policy on the server. Both or neither
	// must be set, and then no run_list.
	PolicyName  string `cfg:"policy_name"`
	PolicyGroup string `cfg:"policy_group"`
	// KnifeCommand is the command that runs knife on the machine, a Go template
	// with {{ .Args }}, {{ .Flags }} and {{ .Sudo }}. Default: Packer's, as
	// [the guide](../configuration-management.md) has it.
	KnifeCommand string `cfg:"knife_command" render:"late" vars:"Args Flags Sudo"`
	// SkipCleanNode leaves the node on the Chef server, SkipCleanClient the client.
	SkipCleanNode   bool `cfg:"skip_clean_node"`
	SkipCleanClient bool `cfg:"skip_clean_client"`
	// SkipCleanStagingDirectory leaves the staging directory on the machine,
	// though not the keys.
	SkipCleanStagingDirectory bool `cfg:"skip_clean_staging_directory"`
	// SSLVerifyMode is `verify_none` or `verify_peer`, which is Chef's default.
	SSLVerifyMode string `cfg:"ssl_verify_mode"`
	// SSLCertPath is a file on this host with the certificates, in PEM form, of
	// the authorities that may sign the server's.
	SSLCertPath string `cfg:"ssl_cert_path"`
	// TrustedCertsDir is a directory on the machine with further certificates to trust.
	TrustedCertsDir string `cfg:"trusted_certs_dir"`
	// RubygemsURL is where cookbooks get gems from. Default: Chef's own.
	RubygemsURL string `cfg:"rubygems_url"`
	// StagingDir is the directory on the machine that the files are put into.
	// Default: `/tmp/packer-chef-client`, on Windows
	// `C:/Windows/Temp/packer-chef-client`.
	StagingDir string `cfg:"staging_directory"`
	// ElevatedUser and ElevatedPassword are the Windows account to run Chef as,
	// by a scheduled task with all of its rights. Without a password it is a
	// service account such as SYSTEM. Default: who logs in.
	ElevatedUser     string `cfg:"elevated_user" render:"late"`
	ElevatedPassword string `cfg:"elevated_password" render:"late"`

	common
}

// Client is the chef-client provisioner.
type Client struct {
	o    ClientOptions
	last *report
}

// NewClient returns a chef-client provisioner with the default options.
func NewClient() *Client { return &Client{o: ClientOptions{common: common{GuestOSType: "unix"}}} }

var _ provisioners.Idempotent = (*Client)(nil)

// Options implements provisioners.Provisioner.
func (p *Client) Options() any { return &p.o }

var clientVars = []string{
	"ChefEnvironment", "ChefLicense", "ClientKey", "EncryptedDataBagSecretPath", "NodeName", "PolicyGroup", "PolicyName", "RubygemsURL",
	"ServerUrl", "SslVerifyMode", "TrustedCertsDir", "ValidationClientName", "ValidationKeyPath",
}

// nodeName is what a Chef server accepts, and no option of knife.
var nodeName = regexp.MustCompile(`^[A-Za-z0-9_.:][A-Za-z0-9_.:-]*$`)

// Check implements provisioners.Provisioner.
func (p *Client) Check(_ context.Context, env *provisioners.Env) []config.Problem {
	o, c := &p.o, &confmgmt.Checks{Bake: env.Bake()}
	if u, err := url.Parse(o.ServerURL); o.ServerURL == "" {
		c.Bad("server_url", "server_url is empty.")
	} else if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		c.Bad("server_url", "server_url must be an http or https address.") // it may hold a password
	}
	c.Path("validation_key_path", o.ValidationKeyPath, confmgmt.File)
	c.Path("ssl_cert_path", o.SSLCertPath, confmgmt.File)
	if o.NodeName != "" && !nodeName.MatchString(o.NodeName) {
		c.Bad("node_name", "node_name is %q: letters, digits, and _ . : - are allowed.", o.NodeName)
	}
	switch {
	case o.PolicyName != "" && o.PolicyGroup == "":
		c.Bad("policy_name", "policy_name is set, and policy_group is not: set both or neither.")
	case o.PolicyGroup != "" && o.PolicyName == "":
		c.Bad("policy_group", "policy_group is set, and policy_name is not: set both or neither.")
	case o.PolicyName != "" && len(o.RunList) > 0:
		c.Bad("run_list", "run_list cannot be used with policy_name: the policy has one.")
	case o.PolicyName != "" && o.ChefEnvironment != "":
		c.Bad("chef_environment", "chef_environment cannot be used with policy_name: the policy group stands for it.")
	}
	switch o.SSLVerifyMode {
	case "", "verify_peer":
	case "verify_none":
		c.Problems = append(c.Problems, config.Problem{
			Option: "ssl_verify_mode", Warning: true, Summary: "verify_none trusts whoever answers in the server's place.",
			Detail: "Set ssl_cert_path to the certificate of the server's authority instead.",
		})
	default:
		c.Bad("ssl_verify_mode", "ssl_verify_mode is %q: it must be verify_none or verify_peer.", o.SSLVerifyMode)
	}
	c.Template("knife_command", o.KnifeCommand)
	if o.KnifeCommand != "" && o.SkipCleanNode && o.SkipCleanClient {
		c.Bad("knife_command", "knife_command is set, but skip_clean_node and skip_clean_client leave nothing for it to do.")
	}
	c.Elevated(o.ElevatedUser, o.ElevatedPassword, confmgmt.Windows(o.GuestOSType))
	o.check(c, o.StagingDir, !o.SkipCleanStagingDirectory, clientVars)
	return c.Problems
}

// Changes implements provisioners.Idempotent.
func (p *Client) Changes() (int, bool) { return p.last.Changes() }

// Provision implements provisioners.Provisioner.
func (p *Client) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	p.last = nil
	o := &p.o
	if err := confmgmt.Fit("chef-client", m, confmgmt.Windows(o.GuestOSType)); err != nil {
		return err
	}
	r := o.newRun(env, m, "chef-client", o.StagingDir)
	r.clean, r.knifeCommand = !o.SkipCleanStagingDirectory, o.KnifeCommand
	r.user, r.password = o.ElevatedUser, o.ElevatedPassword
	node := o.NodeName
	if node == "" {
		node = "packer-" + uuid.NewString()
	}
	key := o.ClientKey
	if key == "" {
		key = r.at("client.pem")
		r.secrets = append(r.secrets, key)
	}
	secret, err := r.secret(o.EncryptedDataBagSecretPath, "encrypted_data_bag_secret")
	if err != nil {
		return err
	}
	validation, err := r.secret(o.ValidationKeyPath, "validation.pem")
	if err != nil {
		return err
	}
	authorities := ""
	if o.SSLCertPath != "" {
		authorities = r.at("ca.pem")
		r.trees = append(r.trees, machine.FileTree(env.Bake().Abs(o.SSLCertPath), "ca.pem"))
	}
	lines := []string{"log_level :info", "log_location STDOUT", setting("chef_server_url", o.ServerURL), setting("client_key", key)}
	add := func(name, value string) {
		if value != "" {
			lines = append(lines, setting(name, value))
		}
	}
	server := func() {
		add("node_name", node)
		if o.SSLVerifyMode != "" {
			lines = append(lines, "ssl_verify_mode :"+o.SSLVerifyMode)
		}
		add("ssl_ca_file", authorities)
		add("trusted_certs_dir", o.TrustedCertsDir)
	}
	server()
	knife := strings.Join(lines, "\n") + "\n"
	add("chef_license", r.license())
	add("encrypted_data_bag_secret", secret)
	validator := o.ValidationClientName
	if validator == "" {
		validator = "chef-validator"
	}
	add("validation_client_name", validator)
	add("validation_key", validation)
	add("environment", o.ChefEnvironment)
	add("policy_group", o.PolicyGroup)
	add("policy_name", o.PolicyName)
	add("rubygems_url", o.RubygemsURL)
	err = r.config("client.rb", map[string]any{
		"ChefEnvironment": o.ChefEnvironment, "ChefLicense": r.license(), "ClientKey": key, "EncryptedDataBagSecretPath": secret, "NodeName": node,
		"PolicyGroup": o.PolicyGroup, "PolicyName": o.PolicyName, "RubygemsURL": o.RubygemsURL, "ServerUrl": o.ServerURL,
		"SslVerifyMode": o.SSLVerifyMode, "TrustedCertsDir": o.TrustedCertsDir, "ValidationClientName": o.ValidationClientName, "ValidationKeyPath": validation,
	}, lines)
	if err != nil {
		return err
	}
	if !o.SkipCleanNode || !o.SkipCleanClient {
		r.trees = append(r.trees, machine.BytesTree("knife.rb", []byte(knife), 0o600))
		for _, clean := range []struct {
			skip bool
			what string
		}{{o.SkipCleanNode, "node"}, {o.SkipCleanClient, "client"}} {
			if clean.skip {
				continue
			}
			line, err := r.knife(clean.what + " delete " + confmgmt.Quote(node, r.windows))
			if err != nil {
				return err
			}
			r.after = append(r.after, line)
		}
	}
	p.last = r.report
	return r.run(ctx, "client.rb", "first-boot.json")
}

// knife is the command line of one use of knife.
func (r *run) knife(args string) (string, error) {
	standard := "{{if .Sudo}}sudo {{end}}knife {{.Args}} {{.Flags}}"
	if r.windows {
		standard = "c:/opscode/chef/bin/knife.bat {{.Args}} {{.Flags}}"
	}
	return r.words("knife_command", r.knifeCommand, standard, map[string]any{"Args": args, "Flags": "-y -c " + confmgmt.Quote(r.at("knife.rb"), r.windows), "Sudo": r.sudo()})
}
