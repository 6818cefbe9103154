// Package docloud is what the components for DigitalOcean share: who asks, the
// client, how it waits and tries again, and what was found.
package docloud

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/ingotbuild/ingot/internal/config"
)

// DefaultURL is DigitalOcean's own API.
const DefaultURL = "https://api.digitalocean.com/"

// tokenVariables are the environment variables that may hold the token, the
// first that is set first.
var tokenVariables = [...]string{"DIGITALOCEAN_TOKEN", "DIGITALOCEAN_ACCESS_TOKEN", "DIGITALOCEAN_API_TOKEN"}

// Access are the options by which components reach DigitalOcean.
type Access struct {
	// APIToken is the token of the account. Default: DIGITALOCEAN_TOKEN in the
	// environment, then DIGITALOCEAN_ACCESS_TOKEN, then DIGITALOCEAN_API_TOKEN
	// (deprecated), then that of doctl's current context.
	APIToken string `cfg:"api_token"`
	// DoctlContext takes the token of that context of doctl, and of nowhere
	// else. An option of Ingot's own.
	DoctlContext string `cfg:"doctl_context"`
	// APIURL is where the API is. Default: DIGITALOCEAN_API_URL in the
	// environment, then DigitalOcean's own.
	APIURL string `cfg:"api_url"`
	// HTTPRetryMax is how often a call that failed is tried again. Default:
	// DIGITALOCEAN_HTTP_RETRY_MAX in the environment, then 5.
	HTTPRetryMax *int `cfg:"http_retry_max"`
	// HTTPRetryWaitMax is the longest wait between two tries, in seconds.
	// Default: DIGITALOCEAN_HTTP_RETRY_WAIT_MAX in the environment, then 30.
	HTTPRetryWaitMax *float64 `cfg:"http_retry_wait_max"`
	// HTTPRetryWaitMin is the shortest wait between two tries, in seconds.
	// Default: DIGITALOCEAN_HTTP_RETRY_WAIT_MIN in the environment, then 1.
	HTTPRetryWaitMin *float64 `cfg:"http_retry_wait_min"`
	// HTTPTimeout bounds each try of a call. Default: 30s. An option of Ingot's own.
	HTTPTimeout time.Duration `cfg:"http_timeout"`
	// ThrottleTimeout is how long a call may wait for DigitalOcean's rate limit,
	// whose end the API tells. Default: 15m. An option of Ingot's own.
	ThrottleTimeout time.Duration `cfg:"throttle_timeout"`
}

// settled is an Access with everything that was left out filled in.
type settled struct {
	token, source string // source: env:NAME, doctl:CONTEXT or template
	url           *url.URL
	retryMax      int
	waitMin       time.Duration
	waitMax       time.Duration
	timeout       time.Duration
	throttle      time.Duration
}

// Check reports everything wrong with the options. token says whether the
// token has to be there.
func (a *Access) Check(token bool) []config.Problem {
	_, ps := a.settle(token)
	return ps
}

func (a *Access) settle(needToken bool) (s settled, ps []config.Problem) {
	bad := func(option, detail, format string, args ...any) {
		ps = append(ps, config.Problem{Option: option, Summary: fmt.Sprintf(format, args...), Detail: detail})
	}
	s = settled{timeout: 30 * time.Second, throttle: 15 * time.Minute}
	if a.HTTPTimeout != 0 {
		s.timeout = a.HTTPTimeout
	}
	if a.ThrottleTimeout != 0 {
		s.throttle = a.ThrottleTimeout
	}
	if s.timeout < 0 {
		bad("http_timeout", "", "http_timeout is negative")
	}
	if s.throttle < 0 {
		bad("throttle_timeout", "", "throttle_timeout is negative")
	}
	number := func(option string, given *float64, least, standard float64) float64 {
		if given != nil {
			if *given < least {
				bad(option, "", "%s is %v: it must be at least %v", option, *given, least)
			}
			return *given
		}
		name := "DIGITALOCEAN_" + strings.ToUpper(option)
		text := os.Getenv(name)
		if text == "" {
			return standard
		}
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || n < least {
			bad(option, "Set it to a number, or unset it.", "%s in the environment is no number of at least %v", name, least)
			return standard
		}
		return n
	}
	var most *float64
	if a.HTTPRetryMax != nil {
		n := float64(*a.HTTPRetryMax)
		most = &n
	}
	s.retryMax = int(min(number("http_retry_max", most, 0, 5), 1000))
	seconds := func(n float64) time.Duration { return time.Duration(min(n, 24*3600) * float64(time.Second)) }
	s.waitMin = seconds(number("http_retry_wait_min", a.HTTPRetryWaitMin, 0, 1))
	s.waitMax = seconds(number("http_retry_wait_max", a.HTTPRetryWaitMax, 0, 30))
	s.waitMax = max(s.waitMax, s.waitMin)

	at := a.APIURL
	if at == "" {
		at = os.Getenv("DIGITALOCEAN_API_URL")
	}
	if at == "" {
		at = DefaultURL
	}
	u, err := url.Parse(at)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		bad("api_url", "Write it as "+DefaultURL+".", "api_url is no address of an API")
	case u.Scheme == "http" && !Loopback(u):
		bad("api_url", "Write https.", "api_url would send the token unencrypted over the network")
	default:
		if !strings.HasSuffix(u.Path, "/") {
			u.Path += "/"
		}
		s.url = u
	}
	if a.APIToken != "" && a.DoctlContext != "" {
		bad("doctl_context", "Give one of them.", "api_token and doctl_context are both given")
	}
	if s.token, s.source, err = a.find(); err != nil && needToken {
		option := "api_token"
		if a.DoctlContext != "" {
			option = "doctl_context"
		}
		bad(option, "Set DIGITALOCEAN_TOKEN in the environment, or run `doctl auth init`.", "There is no token for DigitalOcean: %v", err)
	} else if s.source == "env:"+tokenVariables[2] {
		ps = append(ps, config.Problem{Option: "api_token", Warning: true, Summary: tokenVariables[2] + " is deprecated", Detail: "Call the variable " + tokenVariables[0] + "."})
	}
	// A placeholder is as good as none where none is needed.
	if needToken && strings.ContainsFunc(s.token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		bad("api_token", "It is one word, beginning with dop_v1_.", "The token has characters that no token has")
	}
	return s, ps
}

// find says what the token is, and where it can be found again.
func (a *Access) find() (token, source string, err error) {
	if a.APIToken != "" {
		// Most templates hand on a variable of the environment.
		for _, name := range tokenVariables {
			if os.Getenv(name) == a.APIToken {
				return a.APIToken, "env:" + name, nil
			}
		}
		if token, name, err := doctl(""); err == nil && token == a.APIToken {
			return token, "doctl:" + name, nil
		}
		return a.APIToken, "template", nil
	}
	if a.DoctlContext != "" {
		token, name, err := doctl(a.DoctlContext)
		return token, "doctl:" + name, err
	}
	for _, name := range tokenVariables {
		if t := strings.TrimSpace(os.Getenv(name)); t != "" {
			return t, "env:" + name, nil
		}
	}
	token, name, err := doctl("")
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.New("neither api_token nor DIGITALOCEAN_TOKEN is set, and doctl has none")
	}
	return token, "doctl:" + name, err
}

// doctl reads the token of one of doctl's contexts; "" is the current one.
func doctl(context string) (token, name string, err error) {
	path := os.Getenv("DIGITALOCEAN_CONFIG")
	if path == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return "", "", fmt.Errorf("find doctl's configuration: %w", err)
		}
		path = filepath.Join(dir, "doctl", "config.yaml")
	}
	f, err := os.Open(path)
	if err != nil {
		return "", "", fmt.Errorf("read doctl's configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return "", "", fmt.Errorf("read doctl's configuration: %w", err)
	}
	var c struct {
		Token    string            `yaml:"access-token"`
		Contexts map[string]string `yaml:"auth-contexts"`
		Context  string            `yaml:"context"`
	}
	if yaml.Unmarshal(text, &c) != nil {
		return "", "", fmt.Errorf("%s is not what doctl writes", path) // its text may hold the token
	}
	name = context
	if name == "" {
		name = os.Getenv("DIGITALOCEAN_CONTEXT")
	}
	if name == "" {
		name = c.Context
	}
	if name == "" {
		name = "default"
	}
	if token = c.Contexts[name]; token == "" && name == "default" {
		token = c.Token
	}
	if token = strings.TrimSpace(token); token == "" {
		return "", "", fmt.Errorf("%s has no token for the context %q; `doctl auth list` shows the contexts", path, name)
	}
	return token, name, nil
}

// Loopback says whether the API is on this host, as an emulator is.
func Loopback(u *url.URL) bool {
	if u.Hostname() == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.IsLoopback()
}
