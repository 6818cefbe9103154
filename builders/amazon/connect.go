package amazon

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/crypto/ssh"

	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/machine/communicator"
	sshmachine "github.com/ingotbuild/ingot/machine/ssh"
)

// watchPace is for an instance that is being connected to: its address is
// wanted before it can have booted, and its failure not much later.
var watchPace = awscloud.Pace{First: 3 * time.Second, Min: time.Second, Slow: 3, Cap: 10 * time.Second, Timeout: 10 * time.Minute, Grace: 2 * time.Minute}

// whereabouts is what is known of an instance while it comes up.
type whereabouts struct {
	mu   sync.Mutex
	host string // "": not known yet
	last types.Instance
}

func (w *whereabouts) get() (string, types.Instance) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.host, w.last
}

// connect connects to an instance while it comes up, and tells what is known of
// the connection. The cloud's word that it has failed ends the attempts.
func (r *running) connect(ctx context.Context, in *instance, values map[string]string) (_ machine.Machine, err error) {
	defer func() {
		if err != nil {
			in.end()
		}
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	at := &whereabouts{}
	known := make(chan struct{})
	watched := make(chan error, 1)
	go func() { watched <- r.watch(ctx, in, at, known, cancel) }()
	stopped := false
	stopWatch := func() {
		if !stopped {
			stopped = true
			cancel(nil)
			<-watched
		}
	}
	defer stopWatch()

	if r.comm.Kind() == communicator.None {
		if err := <-watched; err != nil {
			watched <- err
			return nil, err
		}
		watched <- nil
		host, _ := at.get()
		values["Host"], values["ConnType"] = host, communicator.None
		return nil, nil
	}
	t := communicator.Target{Dir: r.run.Dir, Fresh: true, PrivateKey: r.key.private, Host: func(context.Context) (string, int, error) {
		host, _ := at.get()
		if host == "" {
			return "", 0, sshmachine.ErrNotYet
		}
		return host, 0, r.admit(ctx, host)
	}}
	if r.comm.Kind() == communicator.WinRMKind && r.comm.WinRMPassword == "" {
		password, err := r.password(ctx, in)
		if err != nil {
			return nil, cause(ctx, err)
		}
		t.Password = func(context.Context) (string, error) { return password, nil }
	}
	if r.o.SSHInterface == sessionManager {
		host, port, err := r.tunnel(ctx, in, known)
		if err != nil {
			return nil, cause(ctx, err)
		}
		t.Host = func(context.Context) (string, int, error) { return host, port, nil }
	}
	if t.HostKeys, err = r.hostKeys(ctx, in, known); err != nil {
		return nil, cause(ctx, err)
	}
	m, told, err := r.dial(ctx, in, t)
	if err != nil {
		if c := context.Cause(ctx); c != nil && !errors.Is(c, context.Canceled) {
			return nil, c
		}
		_, i := at.get()
		if state := awscloud.InstanceState(i); state != "" && ctx.Err() == nil {
			err = fmt.Errorf("%w (instance %s is %s)", err, in.id, state)
		}
		return nil, err
	}
	in.conn = m
	maps.Copy(values, told)
	if _, i := at.get(); len(r.keep) > 0 {
		if err := r.keepVolumes(ctx, in, i); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	return m, nil
}

// keyPatience is how long a machine may show another host key than the one that
// was put in: its sshd may begin before cloud-init has come that far. Nothing is
// sent to it meanwhile.
const keyPatience = 2 * time.Minute

// dial connects by the communicator.
func (r *running) dial(ctx context.Context, in *instance, t communicator.Target) (machine.Machine, map[string]string, error) {
	var since time.Time
	for {
		m, told, err := communicator.Connect(ctx, r.comm, t, r.run.Events)
		wrong, ok := errors.AsType[*sshmachine.HostKeyError](err)
		if !ok || in.hostPublic == "" {
			return m, told, err
		}
		if since.IsZero() {
			since = time.Now()
			r.run.Events.Say("The machine has not got its host key yet, and is not talked to before")
		}
		if time.Since(since) > keyPatience {
			return nil, nil, fmt.Errorf("the machine does not have the host key that its user data gives it: either it is another one that answers, or its image has no cloud-init (then set inject_host_key = false): %w", wrong)
		}
		pause := time.NewTimer(2 * time.Second)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, nil, context.Cause(ctx)
		}
	}
}

// cause is why ctx ended, where it did.
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

// watch looks at the instance until it runs. It closes known when its address
// is, and fails, ending all that goes on with cancel, when the instance has.
func (r *running) watch(ctx context.Context, in *instance, at *whereabouts, known chan struct{}, cancel context.CancelCauseFunc) error {
	announced := false
	judge := func(i types.Instance) (bool, string, error) {
		running, state, err := awscloud.JudgeInstance(i, types.InstanceStateNameRunning)
		host := r.address(i)
		at.mu.Lock()
		at.last = i
		if host != "" {
			at.host = host
		}
		host = at.host
		at.mu.Unlock()
		if host != "" && !announced {
			announced = true
			close(known)
		}
		if running && host == "" {
			return false, state + ", without an address", nil
		}
		return running, state, err
	}
	w := awscloud.Wait{What: fmt.Sprintf("instance %s to run and have the address for ssh_interface", in.id), Pace: watchPace}
	// First for the address, then less often for a failure.
	_, err := awscloud.Watch(ctx, r.session, r.session.Instances(""), in.id, w, func(i types.Instance) (bool, string, error) {
		done, state, err := judge(i)
		return done || announced, state, err
	})
	if _, i := at.get(); err == nil && awscloud.InstanceState(i) != types.InstanceStateNameRunning {
		w.Pace.First, w.Pace.Min = 5*time.Second, 5*time.Second
		_, err = awscloud.Watch(ctx, r.session, r.session.Instances(""), in.id, w, judge)
	}
	var failed *awscloud.FailedError
	var over *awscloud.TimeoutError
	switch {
	case errors.As(err, &failed):
		if strings.Contains(failed.Code, "InstanceInitiatedShutdown") && r.o.ShutdownBehavior == "" {
			err = fmt.Errorf("%w; it was shut down from within, which ends it: set shutdown_behavior = \"stop\" if a script does that", err)
		}
		cancel(err)
	case errors.As(err, &over), err != nil && ctx.Err() == nil:
		cancel(err)
	}
	return err
}

// address is where the instance is reached; "" while that is not known.
func (r *running) address(i types.Instance) string {
	public, private := aws.ToString(i.PublicIpAddress), aws.ToString(i.PrivateIpAddress)
	switch r.o.SSHInterface {
	case "public_ip":
		return public
	case "private_ip":
		return private
	case "public_dns":
		return aws.ToString(i.PublicDnsName)
	case "private_dns":
		return aws.ToString(i.PrivateDnsName)
	case "ipv6":
		if a := aws.ToString(i.Ipv6Address); a != "" {
			return a
		}
		for _, n := range i.NetworkInterfaces {
			for _, a := range n.Ipv6Addresses {
				return aws.ToString(a.Ipv6Address)
			}
		}
		return ""
	case sessionManager:
		return aws.ToString(i.InstanceId)
	}
	if public != "" {
		return public
	}
	// A public address comes while the instance is pending, if one comes at all.
	if a := r.o.AssociatePublicIPAddress; a != nil && !*a || awscloud.InstanceState(i) == types.InstanceStateNameRunning && (a == nil || !*a) {
		return private
	}
	return ""
}

// admit asks the guard of the process about an address.
func (r *running) admit(ctx context.Context, host string) error {
	a, err := netip.ParseAddr(host)
	if err == nil {
		return r.session.Admit(netip.AddrPortFrom(a, uint16(r.port())))
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil // connecting says it better
	}
	for _, a := range addrs {
		if err := r.session.Admit(netip.AddrPortFrom(a.Unmap(), uint16(r.port()))); err != nil {
			return err
		}
	}
	return nil
}

// saysHostKey says whether the template says how the host key is known, or none is needed.
func saysHostKey(c *communicator.Options) bool {
	return c.Kind() != communicator.SSHKind || len(c.SSHHostKey) > 0 || c.SSHKnownHostsFile != "" || c.SSHIgnoreHostKey || os.Getenv("INGOT_SSH_IGNORE_HOST_KEY") == "1"
}

const noWindowsKey = "the SSH host key of the instance is not known: Windows takes none from user data and prints none on its console; give ssh_host_key, or accept any key with ssh_ignore_host_key"

// hostKeys are the only host keys that the instance may show. None: the
// template says how to know it.
func (r *running) hostKeys(ctx context.Context, in *instance, known <-chan struct{}) ([]string, error) {
	switch {
	case in.hostPublic != "":
		return []string{in.hostPublic}, nil
	case saysHostKey(r.comm):
		return nil, nil
	case isWindowsImage(r.image):
		return nil, errors.New(noWindowsKey)
	}
	r.run.Events.Say("Waiting for the instance's console, to read the SSH host key there")
	select {
	case <-known:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var keys []string
	latest := aws.Bool(true) // not all types can
	w := awscloud.Wait{What: fmt.Sprintf("instance %s to print its SSH host keys on its console", in.id), First: 5 * time.Second,
		Pace: awscloud.Pace{Min: 3 * time.Second, Cap: 15 * time.Second, Timeout: 10 * time.Minute, Grace: time.Minute}}
	err := r.session.Wait(ctx, w, func(ctx context.Context) (bool, string, error) {
		out, err := r.session.EC2("").GetConsoleOutput(ctx, &ec2.GetConsoleOutputInput{InstanceId: &in.id, Latest: latest})
		if code := awscloud.Code(err); latest != nil && (code == "UnsupportedOperation" || code == "InvalidParameterCombination") {
			latest = nil
			return false, "", nil
		}
		if err != nil {
			return false, "", err
		}
		text, err := base64.StdEncoding.DecodeString(aws.ToString(out.Output))
		if err != nil {
			return false, "", fmt.Errorf("the console output of %s: %w", in.id, err)
		}
		keys = consoleKeys(string(text))
		return len(keys) > 0, "", nil
	})
	if err != nil {
		return nil, fmt.Errorf("the SSH host key of the instance is not known, and without it anybody could be at its address; let it be put in (inject_host_key), give ssh_host_key, or accept any key with ssh_ignore_host_key: %w", err)
	}
	return keys, nil
}

var consoleKey = regexp.MustCompile(`(ssh-ed25519|ecdsa-sha2-nistp(?:256|384|521)|ssh-rsa) [A-Za-z0-9+/]{40,}={0,2}`)

// consoleKeys are the host keys that cloud-init prints on the console, when it
// has printed all of them.
func consoleKeys(text string) []string {
	_, text, ok := strings.Cut(text, "BEGIN SSH HOST KEY KEYS")
	text, _, end := strings.Cut(text, "END SSH HOST KEY KEYS")
	if !ok || !end {
		return nil
	}
	var keys []string
	for _, k := range consoleKey.FindAllString(text, 16) {
		if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(k)); err == nil && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys
}

// password waits for the password that Windows makes.
func (r *running) password(ctx context.Context, in *instance) (string, error) {
	key := r.key.private
	if key == nil && r.comm.SSHPrivateKeyFile != "" {
		var err error
		if key, err = os.ReadFile(abs(r.run.Dir, r.comm.SSHPrivateKeyFile)); err != nil {
			return "", fmt.Errorf("the key that the password of Windows is encrypted for: %w", err)
		}
	}
	if key == nil {
		return "", errors.New("the password of Windows is encrypted for the key pair: give its private key as ssh_private_key_file, or winrm_password")
	}
	r.run.Events.Say("Waiting for the password that Windows makes")
	var data string
	w := awscloud.Wait{What: fmt.Sprintf("the password of instance %s", in.id), Timeout: r.o.WindowsPasswordTimeout, Option: "windows_password_timeout", First: 20 * time.Second,
		Pace: awscloud.Pace{Min: 5 * time.Second, Cap: 10 * time.Second, Timeout: r.o.WindowsPasswordTimeout, Grace: time.Minute}}
	err := r.session.Wait(ctx, w, func(ctx context.Context) (bool, string, error) {
		out, err := r.session.EC2("").GetPasswordData(ctx, &ec2.GetPasswordDataInput{InstanceId: &in.id})
		if err != nil {
			return false, "", err
		}
		data = aws.ToString(out.PasswordData)
		return strings.TrimSpace(data) != "", "none yet", nil
	})
	if err != nil {
		return "", err
	}
	return decryptPassword(data, key)
}

// tunnel listens on this host for connections that go to the instance through
// Session Manager.
func (r *running) tunnel(ctx context.Context, in *instance, known <-chan struct{}) (string, int, error) {
	select {
	case <-known:
	case <-ctx.Done():
		return "", 0, context.Cause(ctx)
	}
	if p := r.o.PauseBeforeSSM; p > 0 {
		r.run.Events.Say(fmt.Sprintf("Pausing %v before Session Manager", p))
		t := time.NewTimer(p)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return "", 0, context.Cause(ctx)
		}
	}
	limit := max(r.comm.SSHTimeout, r.comm.SSHWaitTimeout)
	tctx, cancel := context.WithTimeoutCause(ctx, limit, &awscloud.TimeoutError{What: "Session Manager to reach the instance", Waited: limit, Option: "ssh_timeout"})
	defer cancel()
	dial, end, err := r.env.Tunnel(tctx, r.session, r.session.Region, in.id, r.port(), r.run.Events)
	if err != nil {
		if ctx.Err() == nil && tctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(tctx), err)
		}
		return "", 0, fmt.Errorf("reach the instance by Session Manager: %w", err)
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", r.o.SessionManagerPort))
	if err != nil {
		return "", 0, errors.Join(fmt.Errorf("session_manager_port: %w", err), end())
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { bridge(life, near, dial) })
		}
	})
	in.close = append(in.close, func() {
		l.Close()
		stop()
		if err := end(); err != nil {
			r.run.Events.Warn(fmt.Sprintf("end the Session Manager session: %v", err))
		}
		conns.Wait()
	})
	return "127.0.0.1", l.Addr().(*net.TCPAddr).Port, nil
}

// bridge copies between a local connection and one through the tunnel.
func bridge(ctx context.Context, near net.Conn, dial func(context.Context) (net.Conn, error)) {
	defer near.Close()
	far, err := dial(ctx)
	if err != nil {
		return // the connection ends, and is tried again
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1]) // either end may go at any time
			way[0].Close()
		})
	}
	both.Wait()
}

// keepVolumes marks the volumes that the template wants to stay, so that they do.
func (r *running) keepVolumes(ctx context.Context, in *instance, i types.Instance) error {
	var ids []string
	i, err := r.session.Instances("").Get(ctx, in.id)
	if err != nil {
		return awscloud.Explain(err)
	}
	for _, m := range i.BlockDeviceMappings {
		if m.Ebs != nil && slices.Contains(r.keep, aws.ToString(m.DeviceName)) {
			ids = append(ids, aws.ToString(m.Ebs.VolumeId))
		}
	}
	if len(ids) == 0 {
		return nil
	}
	_, err = r.session.EC2("").CreateTags(ctx, &ec2.CreateTagsInput{Resources: ids, Tags: ec2Tags(map[string]string{tagKeep: "delete_on_termination is false"})})
	if err != nil {
		return fmt.Errorf("mark the volumes that stay: %w", awscloud.Explain(err))
	}
	return nil
}
