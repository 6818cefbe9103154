package ansible

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ingotbuild/ingot/internal/play"
	"github.com/ingotbuild/ingot/machine"
)

// galaxy installs what galaxy_file names, and tells Ansible where roles and
// collections are.
func (r *run) galaxy(ctx context.Context) error {
	roles, collections := false, false
	if r.GalaxyFile != "" {
		text, err := os.ReadFile(r.bake.Abs(r.GalaxyFile))
		if err != nil {
			return fmt.Errorf("galaxy_file: %w", err)
		}
		roles, collections = play.GalaxyHas(text)
	}
	if err := r.install(ctx, roles, "roles", "ANSIBLE_ROLES_PATH", r.RolesPath,
		"~/.ansible/roles:/usr/share/ansible/roles:/etc/ansible/roles", "role", "install"); err != nil {
		return err
	}
	return r.install(ctx, collections, "collections", "ANSIBLE_COLLECTIONS_PATH", r.CollectionsPath,
		"~/.ansible/collections:/usr/share/ansible/collections", "collection", "install")
}

// install installs one kind of thing, if wanted, below path, and puts path
// before the others in the variable that Ansible looks at.
func (r *run) install(ctx context.Context, wanted bool, kind, variable, path, others string, command ...string) error {
	if !wanted && path == "" {
		return nil
	}
	if path == "" {
		path = filepath.Join(r.dir, kind)
	} else {
		path = r.bake.Abs(path)
	}
	if have := getenv(r.environ, variable); have != "" {
		others = have
	}
	r.environ = append(r.environ, variable+"="+path+":"+others)
	if !wanted {
		return nil
	}
	args := append(command, "-r", r.bake.Abs(r.GalaxyFile), "-p", path)
	if r.GalaxyForceWithDeps {
		args = append(args, "--force-with-deps")
	} else if r.GalaxyForceInstall {
		args = append(args, "--force")
	}
	r.env.Events.Say("Installing " + kind + " of " + r.GalaxyFile)
	reader := play.NewReader(r.env.Events.Sink)
	err := r.exec(ctx, reader, r.GalaxyCommand, args...)
	if exit, ok := errors.AsType[*machine.ExitError](err); ok {
		return reader.Error(fmt.Sprintf("%s, installing the %s of %s,", r.GalaxyCommand, kind, r.GalaxyFile), exit.Status)
	}
	return err
}

func getenv(environ []string, name string) (value string) {
	for _, kv := range environ { // the last one counts
		if len(kv) > len(name) && kv[:len(name)] == name && kv[len(name)] == '=' {
			value = kv[len(name)+1:]
		}
	}
	return value
}
