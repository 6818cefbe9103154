package ansible

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/ingotbuild/ingot/machine"
)

// inventory is the path of the inventory. remove takes it away where it does
// not stand in the private directory.
func (r *run) inventory() (path string, remove func(), err error) {
	remove = func() {}
	if r.InventoryFile != "" {
		if r.keyFile != "" {
			r.env.Events.Say("All hosts of " + r.InventoryFile + " are reached as the machine is")
		}
		return r.bake.Abs(r.InventoryFile), remove, nil
	}
	line, err := r.hostLine()
	if err != nil {
		return "", remove, err
	}
	text := line
	for _, g := range r.Groups {
		text += "[" + g + "]\n" + line
	}
	for _, g := range r.EmptyGroups {
		text += "[" + g + "]\n"
	}
	if r.InventoryDirectory == "" && !r.KeepInventoryFile {
		path, err = r.write("inventory", []byte(text))
		return path, remove, err
	}
	dir := os.TempDir()
	if r.InventoryDirectory != "" {
		dir = r.bake.Abs(r.InventoryDirectory)
	}
	f, err := os.CreateTemp(dir, "ingot-ansible-")
	if err != nil {
		return "", remove, fmt.Errorf("write the inventory: %w", err)
	}
	if r.KeepInventoryFile {
		r.env.Events.Say("The inventory is kept: " + f.Name())
	} else {
		remove = func() { os.Remove(f.Name()) }
	}
	_, err = f.WriteString(text)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		remove()
		return "", func() {}, fmt.Errorf("write the inventory: %w", err)
	}
	return f.Name(), remove, nil
}

// hostLine is the machine's line in the inventory.
func (r *run) hostLine() (string, error) {
	host, port, user := r.env.Values["Host"], r.env.Values["Port"], r.env.Values["User"] // WinRM's
	if r.access != nil {
		host, port, user = r.access.Host, strconv.Itoa(r.access.Port), r.access.User
	}
	if r.User != "" {
		user = r.User
	}
	if r.InventoryFileTemplate != "" {
		line, err := r.render("inventory_file_template", r.InventoryFileTemplate, map[string]any{"HostAlias": r.HostAlias, "Host": host, "Port": port, "User": user})
		if line != "" && !strings.HasSuffix(line, "\n") {
			line += "\n"
		}
		return line, err
	}
	line := r.HostAlias + " ansible_host=" + machine.Quote(host) + " ansible_user=" + machine.Quote(user) + " ansible_port=" + port
	if r.access == nil {
		line += " ansible_connection=winrm ansible_winrm_transport=basic"
	}
	if r.windows || r.access == nil {
		line += " ansible_shell_type=powershell"
	}
	if r.access != nil {
		line += " ansible_ssh_args=" + machine.Quote(r.sshArgs)
	}
	if r.keyFile != "" {
		line += " ansible_ssh_private_key_file=" + machine.Quote(r.keyFile)
	}
	return line + "\n", nil
}
