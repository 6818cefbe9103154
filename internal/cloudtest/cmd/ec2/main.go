//go:build linux

// Ec2 runs a command against an emulated Amazon cloud, or without a command
// serves one until it is interrupted and prints what to export.
//
//	go run ./internal/cloudtest/cmd/ec2 -- ingot build examples/amazon-web
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/ingotbuild/ingot/internal/cloudtest/ec2"
	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
)

type options struct {
	speed       float64
	instant     bool
	left, calls bool
	host, nvme  bool
	deviceDir   string
	tree, user  string
	regions     string
}

func main() {
	machines.Reexec(nil)
	var o options
	flag.Float64Var(&o.speed, "speed", 50, "how much faster than the real cloud this one is")
	flag.BoolVar(&o.instant, "instant", false, "let everything happen at once")
	flag.BoolVar(&o.left, "left", false, "say at the end what is left in the account, and fail if anything is but images and their snapshots")
	flag.BoolVar(&o.calls, "calls", false, "say at the end which calls were made")
	flag.BoolVar(&o.host, "host", false, "let the command find itself on an instance of the cloud, for amazon-chroot")
	flag.BoolVar(&o.nvme, "nvme", false, "name the devices of that instance as Nitro instances do")
	flag.StringVar(&o.deviceDir, "device-dir", "", "where its devices appear (default: in a temporary directory)")
	flag.StringVar(&o.tree, "image", "", "a directory or raw disk that is a base image, too, named tree-<base name>")
	flag.StringVar(&o.user, "user", "root", "the login user of -image")
	flag.StringVar(&o.regions, "regions", "us-east-1,us-west-2,eu-central-1", "the regions of the cloud")
	flag.Parse()
	code, err := run(o, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "ec2:", err)
		code = 1
	}
	os.Exit(code)
}

func run(o options, command []string) (code int, err error) {
	dir, err := os.MkdirTemp("", "ec2-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	opts := ec2.Options{Dir: dir, Regions: strings.Split(o.regions, ","), Speed: o.speed, Durations: ec2.Realistic(), NVMe: o.nvme, DeviceDir: o.deviceDir,
		Images: []ec2.BaseImage{ec2.HostImage(), ec2.UbuntuLike()}}
	if o.instant {
		opts.Durations = ec2.Durations{}
	}
	if o.tree != "" {
		opts.Images = append(opts.Images, ec2.TreeImage(o.tree, o.user))
	}
	c, err := ec2.New(opts)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close(), errors.Join(c.Problems()...)) }()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	env := c.Env()
	if o.host {
		env = append(env, c.MetadataEnv()...)
	}
	env = append(env, fmt.Sprintf("INGOT_EMULATED_CLOUD=%g", o.speed), "INGOT_EMULATED_DEVICES="+c.DeviceDir())
	if len(command) == 0 {
		for _, e := range env {
			name, value, _ := strings.Cut(e, "=")
			fmt.Printf("export %s='%s'\n", name, value)
		}
		<-ctx.Done()
	} else if code, err = obey(ctx, env, command); err != nil {
		return 0, err
	}
	if o.calls {
		for _, call := range c.Plan().Calls() {
			fmt.Fprintln(os.Stderr, "call:", call)
		}
	}
	if o.left {
		for _, t := range c.Left() {
			fmt.Fprintln(os.Stderr, "left:", t)
			if t.Kind != "image" && t.Kind != "snapshot" && code == 0 {
				code = 1
			}
		}
	}
	return code, nil
}

// obey runs the command and returns its exit status.
func obey(ctx context.Context, env, command []string) (int, error) {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), env...)
	// An interrupt has reached the command from the terminal as well; it may clean up.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Minute
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil
	}
	return 0, err
}
