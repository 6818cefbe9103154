package ansible

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ingotbuild/ingot/internal/sandboxtest"
	"github.com/ingotbuild/ingot/machine"
)

// The same play by plain SSH, through the proxy, and by ansible-playbook with
// the settings that it has by itself.
func BenchmarkPlay(b *testing.B) {
	play := "- hosts: all\n  gather_facts: false\n  tasks:\n"
	for i := range 10 {
		play += fmt.Sprintf("    - command: echo %d\n    - copy: {dest: /opt/f%d, content: x}\n", i, i)
	}
	files := map[string]string{"p.yml": play}
	for way, boot := range ways {
		b.Run(way, func(b *testing.B) {
			f := setup(b, files, func(o *Options) { o.PlaybookFile = "p.yml" })
			var ms []machine.Machine
			for range b.N {
				ms = append(ms, boot(b))
			}
			b.ResetTimer()
			for _, m := range ms {
				if err := f.p.Provision(b.Context(), f.env, m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("by hand", func(b *testing.B) {
		f := setup(b, files, nil)
		var ms []*reached
		for range b.N {
			ms = append(ms, sshBox(b))
		}
		b.ResetTimer()
		for i, m := range ms {
			key := fmt.Sprintf("key%d", i)
			sandboxtest.Write(b, f.env.Dir, key, string(m.a.PrivateKey), 0o600)
			control := filepath.Join(f.tmp, "c")
			cmd := exec.Command("ansible-playbook", "-i", fmt.Sprintf("127.0.0.1:%d,", m.a.Port), "-u", "root", "--private-key", key, "p.yml",
				"--ssh-common-args", "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ControlPath="+control)
			cmd.Dir = f.env.Dir
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v\n%s", err, out)
			}
			b.StopTimer()
			_ = exec.Command("ssh", "-o", "ControlPath="+control, "-O", "exit", "x").Run() // ansible leaves it for a minute
			b.StartTimer()
		}
	})
}
