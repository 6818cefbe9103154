//go:build linux

package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
	"github.com/ingotbuild/ingot/internal/sandboxtest"
)

// TestMain is this program itself, if it is started as that.
func TestMain(m *testing.M) {
	machines.Reexec(nil)
	if os.Getenv("INGOT_TEST_EC2_MAIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestCommand(t *testing.T) {
	sandboxtest.Need(t)
	tree := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"-instant", "--", "sh", "-c", `echo "$AWS_ENDPOINT_URL"; exit 3`}, "http://127.0.0.1:", 3},
		{[]string{"-instant", "-image", tree, "-calls", "--", "sh", "-c", ask}, "<name>tree-", 0},
		{[]string{"-left", "--", "sh", "-c", strings.ReplaceAll(ask, "DescribeImages", "CreateKeyPair&KeyName=k&KeyType=ed25519")}, "left: key-pair key-", 1},
		{[]string{"--", "/no/such/program"}, "no such file", 1},
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], c.args...)
		cmd.Env = append(os.Environ(), "INGOT_TEST_EC2_MAIN=1")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%v: status %d (%v), want %d, and %q in\n%s", c.args, code, err, c.code, c.want, out.String())
		}
	}
}

// ask calls the endpoint with nothing but a known access key.
const ask = `exec curl -sS --noproxy '*' "$AWS_ENDPOINT_URL" -H "Authorization: AWS4-HMAC-SHA256 Credential=$AWS_ACCESS_KEY_ID/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0" --data 'Action=DescribeImages'`
