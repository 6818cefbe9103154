package puppet

import (
	"context"
	"path"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/confmgmt"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/provisioners"
)

// ServerOptions are the options of a `provisioner "puppet-server"` block.
// `puppet agent` runs once against a Puppet server. Its exit statuses 0 and 2
// (something changed) are success.
type ServerOptions struct {
	// PuppetServer is the server's host name. Default: the machine's own
	// configuration, and without one `puppet`.
	PuppetServer string `cfg:"puppet_server"`
	// PuppetNode is the node's name, the name of its certificate. Default: the
	// machine's fully qualified name.
	PuppetNode string `cfg:"puppet_node"`
	// ClientCertPath is a directory on this host with the node's certificate,
	// NODE.pem, and the certificate of the server's authority, ca.pem.
	ClientCertPath string `cfg:"client_cert_path"`
	// ClientPrivateKeyPath is a directory on this host with the node's private
	// key, NODE.pem. On the machine only the login user can read it, and it is
	// removed after the run, however that ends.
	ClientPrivateKeyPath string `cfg:"client_private_key_path"`
	// AgentOptions are further options for puppet agent, as one text, behind
	// those of ExtraArguments. The option's name is options.
	AgentOptions string `cfg:"options"`
	// StagingDir is the directory on the machine that the files are put into.
	// Default: `/tmp/packer-puppet-server`, on Windows
	// `C:/Windows/Temp/packer-puppet-server`.
	StagingDir string `cfg:"staging_dir"`
	// ExecuteCommand is the command that runs puppet, a Go template with
	// {{ .WorkingDir }}, {{ .FacterVars }}, {{ .Sudo }}, {{ .PuppetBinDir }},
	// {{ .Debug }}, {{ .PuppetServer }}, {{ .PuppetNode }},
	// {{ .ClientCertPath }}, {{ .ClientPrivateKeyPath }} and
	// {{ .ExtraArguments }}. Default: Packer's, with `--logdest=console`, as
	// [the guide](../configuration-management.md) has it.
	ExecuteCommand string `cfg:"execute_command" render:"late" vars:"WorkingDir FacterVars Sudo PuppetBinDir Debug PuppetServer PuppetNode ClientCertPath ClientPrivateKeyPath ExtraArguments"`

	common
}

// Server is the puppet-server provisioner.
type Server struct {
	o    ServerOptions
	last *report
}

// NewServer returns a puppet-server provisioner with the default options.
func NewServer() *Server { return &Server{o: ServerOptions{common: common{GuestOSType: "unix"}}} }

var _ provisioners.Idempotent = (*Server)(nil)

// Options implements provisioners.Provisioner.
func (p *Server) Options() any { return &p.o }

// Check implements provisioners.Provisioner.
func (p *Server) Check(_ context.Context, env *provisioners.Env) []config.Problem {
	o, c := &p.o, &confmgmt.Checks{Bake: env.Bake()}
	c.Path("client_cert_path", o.ClientCertPath, confmgmt.Dir)
	c.Path("client_private_key_path", o.ClientPrivateKeyPath, confmgmt.Dir)
	o.check(c, "staging_dir", o.StagingDir, o.ExecuteCommand)
	return c.Problems
}

// Changes implements provisioners.Idempotent.
func (p *Server) Changes() (int, bool) { return p.last.Changes() }

// Provision implements provisioners.Provisioner.
func (p *Server) Provision(ctx context.Context, env *provisioners.Env, m machine.Machine) error {
	p.last = nil
	o, b := &p.o, env.Bake()
	if err := confmgmt.Fit("puppet-server", m, confmgmt.Windows(o.GuestOSType)); err != nil {
		return err
	}
	r := o.newRun(env, m, o.StagingDir, "packer-puppet-server")
	r.execute, r.options = o.ExecuteCommand, o.AgentOptions
	r.standard = r.head() + `agent --onetime --no-daemonize --detailed-exitcodes --logdest=console {{if .Debug}}--debug {{end}}` +
		`{{if ne .PuppetServer ""}}--server={{.PuppetServer}} {{end}}{{if ne .PuppetNode ""}}--certname={{.PuppetNode}} {{end}}` +
		`{{if ne .ClientCertPath ""}}--certdir={{.ClientCertPath}} {{end}}{{if ne .ClientPrivateKeyPath ""}}--privatekeydir={{.ClientPrivateKeyPath}} {{end}}` +
		`{{if ne .ExtraArguments ""}}{{.ExtraArguments}} {{end}}`
	// Without --logdest an agent tells only the syslog why it failed.
	r.paths["PuppetServer"], r.paths["PuppetNode"] = o.PuppetServer, o.PuppetNode
	r.paths["ClientCertPath"], r.paths["ClientPrivateKeyPath"] = "", ""
	if o.ClientCertPath != "" {
		r.trees = append(r.trees, machine.DirTree(b.Abs(o.ClientCertPath), "certs"))
		r.paths["ClientCertPath"] = path.Join(r.staging, "certs")
	}
	if o.ClientPrivateKeyPath != "" {
		keys, err := confmgmt.SecretDir(b.Abs(o.ClientPrivateKeyPath), "private_keys")
		if err != nil {
			return err
		}
		r.secret(keys, "private_keys")
		r.paths["ClientPrivateKeyPath"] = path.Join(r.staging, "private_keys")
	}
	p.last = r.report
	return r.run(ctx)
}
