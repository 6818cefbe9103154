//go:build linux

// Digitalocean runs a command against an emulated DigitalOcean, or without a
// command serves one until it is interrupted and prints what to export.
//
//	go run ./internal/cloudtest/cmd/digitalocean -- ingot build examples/digitalocean-web
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

	"github.com/ingotbuild/ingot/internal/cloudtest/digitalocean"
	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
)

func main() {
	machines.Reexec(nil)
	scale := flag.Float64("scale", 0.02, "how long things take: 1 is as on DigitalOcean, 0 is at once")
	left := flag.Bool("left", false, "say at the end what is left in the account")
	flag.Parse()
	code, err := run(*scale, *left, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "digitalocean:", err)
		code = 1
	}
	os.Exit(code)
}

func run(scale float64, left bool, command []string) (code int, err error) {
	dir, err := os.MkdirTemp("", "digitalocean-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c, err := digitalocean.New(digitalocean.Options{Dir: dir, Durations: digitalocean.Realistic().Scale(scale)})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	speed := 50.0
	if scale > 0 {
		speed = 1 / scale
	}
	env := append(c.Env(), fmt.Sprintf("INGOT_EMULATED_CLOUD=%g", speed))
	if len(command) == 0 {
		for _, e := range env {
			name, value, _ := strings.Cut(e, "=")
			fmt.Printf("export %s='%s'\n", name, value)
		}
		<-ctx.Done()
	} else if code, err = obey(ctx, env, command); err != nil {
		return 0, err
	}
	if left {
		for _, r := range c.Left() {
			fmt.Fprintln(os.Stderr, "left:", r)
		}
	}
	for _, v := range c.Violations() {
		fmt.Fprintln(os.Stderr, "violation:", v)
		if code == 0 {
			code = 1
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
