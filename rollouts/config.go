package rollouts

import (
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
)

// Config is the body of a template's rollout block. Decode it over NewConfig,
// which holds the defaults.
type Config struct {
	// Image is the image line that the service runs. Default: the block's label.
	Image string `cfg:"image" json:"image"`
	// Channel is the channel that names the version to run. Default: "production".
	Channel string `cfg:"channel" json:"channel"`
	// Replicas is the number of machines in a fleet. Default: 2.
	Replicas int `cfg:"replicas" json:"replicas"`
	// Listen is the host:port on which the proxy takes requests. Port 0 means a
	// free port, chosen once and kept from then on. Default: "127.0.0.1:0".
	Listen string `cfg:"listen" json:"listen"`
	// Port is the TCP port of the service inside the machine.
	Port int `cfg:"port,required" json:"port"`
	// Health says how to find out whether a machine can take traffic.
	Health Health `cfg:"health,block" json:"health"`
	// Drain is how long requests under way on the old fleet are waited for
	// after the switch. Default: 10s.
	Drain time.Duration `cfg:"drain" json:"drain"`
	// Soak is how long the new fleet is watched after the switch. A machine that
	// dies or turns unhealthy, or a rise of failed requests, leads back to the
	// old fleet. Default: 2s.
	Soak time.Duration `cfg:"soak" json:"soak"`
	// KeepOld is how long the old fleet stays up after a rollout, so that going
	// back is only a switch. Default: 24h.
	KeepOld time.Duration `cfg:"keep_old" json:"keep_old"`
}

// Health is the check that each machine of a fleet must pass: an HTTP GET.
type Health struct {
	// Path is what is asked for. Default: "/".
	Path string `cfg:"path" json:"path"`
	// Status is the status expected. Default: 0, any of 200 to 299.
	Status int `cfg:"status" json:"status"`
	// Contains must occur in the first 64 KiB of the answer. Default: empty.
	Contains string `cfg:"contains" json:"contains"`
	// Interval is the pause between two checks. Default: 100ms.
	Interval time.Duration `cfg:"interval" json:"interval"`
	// Timeout bounds one check. Default: 2s.
	Timeout time.Duration `cfg:"timeout" json:"timeout"`
	// HealthyAfter is the number of consecutive checks that a machine must pass
	// before it takes traffic. Default: 2.
	HealthyAfter int `cfg:"healthy_after" json:"healthy_after"`
	// Deadline bounds the wait for a whole fleet to become healthy, and the
	// launch of one machine. Default: 30s.
	Deadline time.Duration `cfg:"deadline" json:"deadline"`
}

// NewConfig returns the defaults for the rollout block with the given label.
func NewConfig(label string) Config {
	return Config{
		Image:    label,
		Channel:  "production",
		Replicas: 2,
		Listen:   "127.0.0.1:0",
		Health: Health{
			Path:         "/",
			Interval:     100 * time.Millisecond,
			Timeout:      2 * time.Second,
			HealthyAfter: 2,
			Deadline:     30 * time.Second,
		},
		Drain:   10 * time.Second,
		Soak:    2 * time.Second,
		KeepOld: 24 * time.Hour,
	}
}

// maxReplicas keeps a slip of the pen from filling the host.
const maxReplicas = 100

// Check returns everything that is wrong with c.
func (c *Config) Check() []config.Problem {
	var ps []config.Problem
	bad := func(ok bool, option, summary, detail string) {
		if !ok {
			ps = append(ps, config.Problem{Option: option, Summary: summary, Detail: detail})
		}
	}
	bad(c.Image != "", "image", "The image has no name.", "Name the image line that the service runs.")
	bad(c.Channel != "", "channel", "The channel has no name.", `Name the channel to follow, for example "production".`)
	bad(c.Replicas >= 1 && c.Replicas <= maxReplicas, "replicas", "The number of replicas is out of range.", "It must be from 1 to "+strconv.Itoa(maxReplicas)+".")
	bad(c.Port >= 1 && c.Port <= 65535, "port", "The port is out of range.", "It is the service's TCP port inside the machine, from 1 to 65535.")
	_, port, err := net.SplitHostPort(c.Listen)
	n, perr := strconv.Atoi(port)
	bad(err == nil && perr == nil && n >= 0 && n <= 65535, "listen", "The address to listen on is not host:port.", `Write for example "127.0.0.1:8080", or port 0 for a free one.`)
	bad(c.Drain >= 0, "drain", "The time to drain is negative.", "Write zero for no wait.")
	bad(c.Soak >= 0, "soak", "The time to soak is negative.", "Write zero for none.")
	bad(c.KeepOld >= 0, "keep_old", "The time to keep the old fleet is negative.", "Write zero to stop it at once.")
	h := &c.Health
	bad(strings.HasPrefix(h.Path, "/") && !strings.ContainsFunc(h.Path, func(r rune) bool { return r <= ' ' || r == 0x7f }), "health.path", "The path of the health check is not a URL path.", `It must start with "/" and hold neither spaces nor control characters.`)
	bad(h.Status == 0 || h.Status >= 200 && h.Status <= 599, "health.status", "The expected status is not an HTTP status.", "Leave it out to accept 200 to 299.")
	bad(h.Interval >= time.Millisecond, "health.interval", "The interval between health checks is too short.", "It must be at least 1ms.")
	bad(h.Timeout >= time.Millisecond, "health.timeout", "The timeout of a health check is too short.", "It must be at least 1ms.")
	bad(h.HealthyAfter >= 1, "health.healthy_after", "A machine must pass at least one check.", "Write 1 or more.")
	bad(h.Deadline >= h.Timeout, "health.deadline", "The deadline is shorter than the timeout of one check.", "Raise deadline or lower timeout.")
	return ps
}
