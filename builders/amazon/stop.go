package amazon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/communicator"
)

func abs(dir, path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// stop takes out of the machine what was put there for the bake, and stops it.
// It returns the instance's id. One that cannot be stopped, since it is a spot
// instance, runs on: EC2 stops it while it makes the image.
func (r *running) stop(ctx context.Context) (string, error) {
	if r.main == nil {
		return "", errors.New("there is no machine to stop")
	}
	in := r.main
	if err := r.cleanWhileUp(ctx, in); err != nil {
		return "", fmt.Errorf("%w%s", err, r.shutdownHint(err))
	}
	if in.conn != nil {
		_ = in.conn.Close() // the machine is about to go
	}
	in.end()
	if in.spot {
		return in.id, nil
	}
	w := awscloud.Wait{What: fmt.Sprintf("instance %s to be stopped", in.id), Pace: awscloud.InstancePace, Like: "stop " + r.session.Region + " " + r.o.types()[0]}
	if r.o.DisableStopInstance {
		r.run.Events.Say("Waiting for the instance to be shut down, as disable_stop_instance says")
		w.Like = ""
	} else {
		r.run.Events.Say("Stopping " + in.id)
		err := r.session.Wait(ctx, awscloud.Wait{What: "instance " + in.id + " to be known", First: -1}, func(ctx context.Context) (bool, string, error) {
			_, err := r.session.EC2("").StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{in.id}})
			return err == nil, "", err
		})
		if err != nil {
			return "", fmt.Errorf("stop the instance: %w", err)
		}
	}
	_, err := awscloud.Watch(ctx, r.session, r.session.Instances(""), in.id, w, func(i types.Instance) (bool, string, error) {
		return awscloud.JudgeInstance(i, types.InstanceStateNameStopped)
	})
	if err != nil {
		return "", fmt.Errorf("stop the instance: %w%s", err, r.shutdownHint(err))
	}
	return in.id, nil
}

// shutdownHint says what to do about an instance that has ended by itself.
func (r *running) shutdownHint(err error) string {
	var failed *awscloud.FailedError
	if errors.As(err, &failed) && r.o.shutdownBehavior() == types.ShutdownBehaviorTerminate {
		return `; if a script shuts it down, set shutdown_behavior = "stop"`
	}
	return ""
}

// downPace is for an instance that may have been shut down while it is cleaned.
var downPace = awscloud.Pace{First: 3 * time.Second, Min: 3 * time.Second, Cap: 10 * time.Second, Timeout: 2 * cleanTime}

// cleanWhileUp is clean, for as long as the instance is up.
func (r *running) cleanWhileUp(ctx context.Context, in *instance) error {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		_, err := awscloud.Watch(ctx, r.session, r.session.Instances(""), in.id, awscloud.Wait{What: "instance " + in.id, Pace: downPace}, func(i types.Instance) (bool, string, error) {
			return awscloud.JudgeInstance(i, types.InstanceStateNameStopped)
		})
		var failed *awscloud.FailedError
		switch {
		case err == nil:
			cancel(errDown)
		case errors.As(err, &failed):
			cancel(err)
		}
	}()
	err := r.clean(ctx, in)
	why := context.Cause(ctx)
	cancel(nil)
	<-watched
	if err != nil && why != nil {
		return why
	}
	return err
}

// errDown says that the machine was shut down before the keys were out of it.
var errDown = errors.New("the machine was shut down before the keys of this bake could be taken out of it: leave the shutdown to Ingot, or set disable_stop_instance = true")

// end gives up what this process has open for the instance.
func (in *instance) end() {
	for _, c := range in.close {
		c()
	}
	in.close = nil
}

// cleanTime bounds the cleaning.
const cleanTime = 3 * time.Minute

// cleaning removes, as root, the temporary key ($KEY) from all authorized_keys,
// and with $MARK, which is a line of the injected host key, that key and all
// that cloud-init keeps of this instance. Then it looks again. What a link leads
// to is looked at and not written to: a user may have made it.
const cleaning = `set -f
homes=$(cut -d: -f6 /etc/passwd | sort -u)
bad=
if [ -n "$KEY" ]; then
  for h in $homes; do
    for f in "$h/.ssh/authorized_keys" "$h/.ssh/authorized_keys2"; do
      [ -f "$f" ] && [ ! -L "$f" ] && grep -qF -e "$KEY" "$f" || continue
      rest=$(grep -vF -e "$KEY" "$f")
      if [ -n "$rest" ]; then printf '%s\n' "$rest" >"$f"; else : >"$f"; fi
    done
  done
  for h in $homes; do
    for f in "$h/.ssh/authorized_keys" "$h/.ssh/authorized_keys2"; do
      if [ -f "$f" ] && grep -qF -e "$KEY" "$f"; then bad="$bad $f"; fi
    done
  done
fi
if [ -n "$MARK" ]; then
  rm -f /etc/ssh/ssh_host_ed25519_key /etc/ssh/ssh_host_ed25519_key.pub
  rm -rf /var/lib/cloud/instances /var/lib/cloud/instance
  found=$(grep -rlF -e "$MARK" /etc/ssh /etc/cloud /var/lib/cloud /var/log 2>/dev/null)
  [ -z "$found" ] || bad="$bad $found"
  command -v cloud-init >/dev/null 2>&1 || echo "NO-CLOUD-INIT"
fi
sync
if [ -n "$bad" ]; then echo "still there:" $bad >&2; exit 3; fi
echo CLEANED
`

// clean takes the keys of the bake out of the machine, and makes sure.
func (r *running) clean(ctx context.Context, in *instance) error {
	if in.conn == nil || r.comm.Kind() != communicator.SSHKind || in.conn.Platform().OS == "windows" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, cleanTime)
	defer cancel()
	key := ""
	if fields := strings.Fields(r.key.public); len(fields) > 1 {
		key = fields[1]
	}
	mark := hostKeyMark(in.hostKey)
	if key == "" && mark == "" {
		return nil
	}
	// By its input: what sudo writes into a log is only "sh".
	script := "KEY=" + machine.Quote(key) + "\nMARK=" + machine.Quote(mark) + "\n" + cleaning
	var out, said bytes.Buffer
	err := in.conn.Run(ctx, machine.Command{
		Line:  `if [ "$(id -u)" = 0 ]; then exec sh; fi; exec sudo -n sh`,
		Stdin: strings.NewReader(script), Stdout: limited(&out), Stderr: limited(&said),
	})
	if err == nil && !strings.Contains(out.String(), "CLEANED") {
		err = errors.New("the machine did not say that it is done")
	}
	// Where it was to be shut down by a provisioner, a machine that does not answer is on its way.
	leaves := func(err error) bool {
		var exit *machine.ExitError
		return r.o.DisableStopInstance && (!errors.As(err, &exit) || exit.Status == machine.DisconnectStatus) &&
			(ctx.Err() == nil || errors.Is(context.Cause(ctx), errDown))
	}
	var exit *machine.ExitError
	if err != nil && mark == "" && !leaves(err) && errors.As(err, &exit) && exit.Status != 3 {
		// Without root, what the user itself can do.
		if err = communicator.ClearAuthorizedKeys(ctx, in.conn, r.key.public); err != nil && !leaves(err) {
			return fmt.Errorf("take the temporary key out of the machine: %w", err)
		}
	}
	switch {
	case err == nil:
	case leaves(err):
		r.run.Events.Warn(fmt.Sprintf("The temporary key could not be taken out of the machine, which is shut down already: %v. Let the provisioner \"seal\" do it.", err))
		return nil
	default:
		return fmt.Errorf("take the keys of this bake out of the machine, so that they are not in the AMI: %w: %s (it needs root, or sudo without a password)", err, strings.TrimSpace(said.String()))
	}
	if strings.Contains(out.String(), "NO-CLOUD-INIT") {
		r.run.Events.Warn("The machine has no cloud-init any more, so that instances of the AMI make no SSH host keys by it, and the image has none.")
	}
	return nil
}

// hostKeyMark is a line of the private key that is in no other.
func hostKeyMark(pem string) string {
	lines := strings.Split(strings.TrimSpace(pem), "\n")
	if len(lines) < 4 {
		return ""
	}
	return strings.TrimSpace(lines[len(lines)-2-1]) // the last whole one
}

// limit bounds what a machine may say.
type limit struct{ b *bytes.Buffer }

func limited(b *bytes.Buffer) limit { return limit{b} }

func (l limit) Write(p []byte) (int, error) {
	l.b.Write(p[:min(len(p), max(0, 16<<10-l.b.Len()))])
	return len(p), nil
}
