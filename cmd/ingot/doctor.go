package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/state"
	"github.com/ingotbuild/ingot/internal/userns"
)

// finding is one line of the doctor's report.
type finding struct {
	Group string `json:"group"`
	What  string `json:"what"`
	OK    bool   `json:"ok"`
	Text  string `json:"text"`
}

func doctorVerb() verb {
	return verb{
		name: "doctor", args: "", short: "Say what works on this machine, and what to install for what does not",
		long: "The exit status is 1 when not even the sandbox works.",
		run: func(ctx context.Context, c *cli, args []string) int {
			fs := c.flags()
			asJSON := fs.Bool("json", false, "write JSON")
			if _, err := c.parse(fs, args, 0, 0); err != nil {
				return code(err)
			}
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			all, ok := examine(ctx)
			if *asJSON {
				if err := c.json(all); err != nil {
					return c.fail(err)
				}
			} else {
				group := ""
				for _, f := range all {
					if f.Group != group {
						group = f.Group
						fmt.Fprintf(c.out, "%s\n", group)
					}
					mark := "ok     "
					if !f.OK {
						mark = "missing"
					}
					fmt.Fprintf(c.out, "  %s  %-18s %s\n", mark, f.What, f.Text)
				}
			}
			if !ok {
				return exitFailed
			}
			return exitOK
		},
	}
}

// examine looks at everything; ok says whether the sandbox can bake.
func examine(ctx context.Context) (all []finding, ok bool) {
	ok = true
	add := func(group, what string, good bool, text string) {
		all = append(all, finding{group, what, good, text})
	}
	for _, f := range sandbox.Probe(ctx) {
		add("Sandbox", f.What, f.OK, f.Text)
		ok = ok && (f.OK || !f.Need)
	}
	if dir, err := state.Dir(); err != nil {
		add("Sandbox", "state directory", false, err.Error())
		ok = false
	} else {
		add("Sandbox", "state directory", true, dir)
	}
	if runtime.GOOS == "linux" && userns.Needed() {
		for _, t := range []string{"newuidmap", "newgidmap"} {
			tool(add, "Sandbox", t, "uidmap", "lets a normal user's sandbox have more than one user")
		}
	}
	tool(add, "Image formats", "mke2fs", "e2fsprogs", "ext4 and raw disks")
	tool(add, "Image formats", "qemu-img", "qemu-utils", "qcow2 disks")
	tool(add, "Image formats", "mksquashfs", "squashfs-tools", "squashfs")
	tool(add, "Image formats", "mkfs.erofs", "erofs-utils", "erofs")
	tool(add, "Image formats", "grub-mkimage", "grub-pc-bin grub-common", "boot loaders of disks whose tree has none")
	tool(add, "Image formats", "debootstrap", "debootstrap", "Debian and Ubuntu bases")
	kvm(add)
	tool(add, "Virtual machines", "qemu-system-x86_64", "qemu-system-x86", "boots finished disks")
	docker(ctx, add)
	tool(add, "Provisioners", "ansible-playbook", "ansible-core", "the ansible provisioner")
	sshAgent(add)
	clouds(add)
	return all, ok
}

func tool(add func(string, string, bool, string), group, name, pkg, use string) {
	p, err := exec.LookPath(name)
	if err != nil {
		for _, d := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} { // not on a normal user's PATH
			if q := filepath.Join(d, name); fileExists(q) {
				p, err = q, nil
				break
			}
		}
	}
	if err != nil {
		add(group, name, false, fmt.Sprintf("for %s; on Debian: apt-get install %s", use, pkg))
		return
	}
	add(group, name, true, p)
}

func fileExists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

func kvm(add func(string, string, bool, string)) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		add("Virtual machines", "KVM", false, "without it QEMU emulates, many times slower; "+kvmAdvice(err))
		return
	}
	f.Close()
	add("Virtual machines", "KVM", true, "/dev/kvm can be opened")
}

func kvmAdvice(err error) string {
	switch {
	case os.IsPermission(err):
		return "add this user to the group kvm"
	case os.IsNotExist(err):
		return "this machine has no /dev/kvm: load kvm_intel or kvm_amd, or turn on nested virtualization"
	}
	return err.Error()
}

func docker(ctx context.Context, add func(string, string, bool, string)) {
	sock := "/var/run/docker.sock"
	if h, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok {
		sock = h
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", sock)
	if err != nil {
		add("Docker", "engine", false, fmt.Sprintf("nothing answers on %s: start dockerd, or set DOCKER_HOST (%v)", sock, err))
		return
	}
	conn.Close()
	add("Docker", "engine", true, sock)
}

func sshAgent(add func(string, string, bool, string)) {
	sock := os.Getenv("SSH_AUTH_SOCK")
	if sock == "" {
		add("Provisioners", "ssh-agent", false, "SSH_AUTH_SOCK is not set; only needed for keys that an agent holds")
		return
	}
	conn, err := net.DialTimeout("unix", sock, time.Second)
	if err != nil {
		add("Provisioners", "ssh-agent", false, fmt.Sprintf("SSH_AUTH_SOCK is set, but nothing answers there: %v", err))
		return
	}
	conn.Close()
	add("Provisioners", "ssh-agent", true, sock)
}

// clouds says where credentials would come from, never what they are.
func clouds(add func(string, string, bool, string)) {
	home, _ := os.UserHomeDir()
	aws := ""
	switch {
	case os.Getenv("AWS_ACCESS_KEY_ID") != "":
		aws = "AWS_ACCESS_KEY_ID in the environment"
	case os.Getenv("AWS_PROFILE") != "":
		aws = "profile " + os.Getenv("AWS_PROFILE")
	case os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		aws = "a web identity token"
	case fileExists(filepath.Join(home, ".aws", "credentials")) || fileExists(filepath.Join(home, ".aws", "config")):
		aws = filepath.Join(home, ".aws")
	}
	if aws == "" {
		add("Clouds", "AWS", false, "no credentials found: set AWS_PROFILE, or run `aws configure`")
	} else {
		add("Clouds", "AWS", true, aws)
	}
	do := ""
	for _, v := range []string{"DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN", "DIGITALOCEAN_API_TOKEN"} {
		if os.Getenv(v) != "" {
			do = v + " in the environment"
		}
	}
	if p := filepath.Join(home, ".config", "doctl", "config.yaml"); do == "" && fileExists(p) {
		do = p
	}
	if do == "" {
		add("Clouds", "DigitalOcean", false, "no token found: set DIGITALOCEAN_TOKEN, or run `doctl auth init`")
	} else {
		add("Clouds", "DigitalOcean", true, do)
	}
}
