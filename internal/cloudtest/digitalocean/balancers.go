//go:build linux

package digitalocean

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// balancer is a load balancer: it listens on a loopback address and forwards to
// the droplets that its health check finds well.
type balancer struct {
	balancerWish
	id, region string
	vpc        *vpc
	droplets   []int
	ip         netip.Addr
	created    time.Time
	active     bool
	// health is by droplet's number.
	health map[int]*health
	// turn counts connections, for the round robin.
	turn int
	// end ends the current listeners.
	end context.CancelFunc
}

// balancerWish is what a caller says of a load balancer.
type balancerWish struct {
	Name      string         `json:"name"`
	Region    string         `json:"region"`
	Algorithm string         `json:"algorithm"`
	SizeUnit  int            `json:"size_unit"`
	Size      string         `json:"size"`
	Rules     []forward      `json:"forwarding_rules"`
	Check     *healthCheck   `json:"health_check"`
	Sticky    *stickySession `json:"sticky_sessions"`
	Droplets  []int          `json:"droplet_ids"`
	Tag       string         `json:"tag"`
	Redirect  bool           `json:"redirect_http_to_https"`
	Proxy     bool           `json:"enable_proxy_protocol"`
	Keepalive bool           `json:"enable_backend_keepalive"`
	Idle      int            `json:"http_idle_timeout_seconds"`
	VPC       string         `json:"vpc_uuid"`
	Project   string         `json:"project_id"`
	Network   string         `json:"network"`
	Type      string         `json:"type"`
}

// forward is a forwarding rule.
type forward struct {
	EntryProtocol  string `json:"entry_protocol"`
	EntryPort      int    `json:"entry_port"`
	TargetProtocol string `json:"target_protocol"`
	TargetPort     int    `json:"target_port"`
	Certificate    string `json:"certificate_id"`
	Passthrough    bool   `json:"tls_passthrough"`
}

type stickySession struct {
	Type   string `json:"type"`
	Cookie string `json:"cookie_name,omitempty"`
	TTL    int    `json:"cookie_ttl_seconds,omitempty"`
}

type healthCheck struct {
	Protocol  string `json:"protocol"`
	Port      int    `json:"port"`
	Path      string `json:"path,omitempty"`
	Interval  int    `json:"check_interval_seconds"`
	Timeout   int    `json:"response_timeout_seconds"`
	Unhealthy int    `json:"unhealthy_threshold"`
	Healthy   int    `json:"healthy_threshold"`
}

// health is what the checks of a droplet have found.
type health struct {
	well bool
	// streak counts the checks in a row that say otherwise.
	streak int
}

func (c *Cloud) balancerView(b *balancer) obj {
	status := "new"
	ip := ""
	if b.active {
		status, ip = "active", b.ip.String()
	}
	droplets := []int{}
	for _, d := range c.behind(b) {
		droplets = append(droplets, d.id)
	}
	return obj{
		"id": b.id, "name": b.Name, "ip": ip, "ipv6": "", "size_unit": b.SizeUnit, "size": "lb-small", "algorithm": b.Algorithm, "status": status,
		"created_at": stamp(b.created), "forwarding_rules": b.Rules, "health_check": b.Check, "sticky_sessions": b.Sticky,
		"region": c.regionView(b.region), "tag": b.Tag, "droplet_ids": droplets, "redirect_http_to_https": b.Redirect,
		"enable_proxy_protocol": b.Proxy, "enable_backend_keepalive": b.Keepalive, "http_idle_timeout_seconds": b.Idle,
		"vpc_uuid": b.vpc.id, "disable_lets_encrypt_dns_records": false, "project_id": c.projectOf(urn("loadbalancer", b.id)).id,
		"network": b.Network, "network_stack": "IPV4", "type": b.Type,
	}
}

// behind are the droplets that a balancer is for.
func (c *Cloud) behind(b *balancer) []*droplet {
	var all []*droplet
	for _, d := range c.droplets {
		if d.region == b.region && (slices.Contains(b.droplets, d.id) || b.Tag != "" && slices.Contains(d.tags, b.Tag)) {
			all = append(all, d)
		}
	}
	return all
}

// judge refuses what DigitalOcean would refuse and fills in its defaults.
func (w *balancerWish) judge(c *Cloud, self *balancer) error {
	w.Algorithm = cmp.Or(w.Algorithm, "round_robin")
	w.Network, w.Type = cmp.Or(w.Network, "EXTERNAL"), cmp.Or(w.Type, "REGIONAL")
	w.SizeUnit, w.Idle = cmp.Or(w.SizeUnit, 1), cmp.Or(w.Idle, 60)
	if w.Sticky == nil {
		w.Sticky = &stickySession{Type: "none"}
	}
	r := c.region(w.Region)
	switch {
	case w.Name == "" || !hostname.MatchString(w.Name) || len(w.Name) > 255:
		return unprocessable("name must have only letters, numbers, dots and dashes")
	case slices.ContainsFunc(c.balancers, func(b *balancer) bool { return b != self && b.Name == w.Name && b.region == w.Region }):
		return conflict("a load balancer with the name %s exists", w.Name)
	case r == nil || !r.available:
		return unprocessable("region is invalid")
	case w.Tag != "" && len(w.Droplets) > 0:
		return unprocessable("tag and droplet_ids can't be combined")
	case len(w.Rules) == 0:
		return unprocessable("at least one forwarding rule must be given")
	case w.Proxy || w.Redirect || w.Sticky.Type == "cookies":
		return unprocessable("The emulator has neither PROXY protocol nor redirects nor sticky sessions.")
	case w.Network != "EXTERNAL" || w.Type == "GLOBAL":
		return unprocessable("The emulator has only external, regional load balancers.")
	}
	if err := c.judgeBehind(w.Region, w.Droplets); err != nil {
		return err
	}
	if w.Check == nil {
		w.Check = &healthCheck{Protocol: "tcp", Port: w.Rules[0].TargetPort}
	}
	h := w.Check
	h.Interval, h.Timeout = cmp.Or(h.Interval, 10), cmp.Or(h.Timeout, 5)
	h.Unhealthy, h.Healthy = cmp.Or(h.Unhealthy, 3), cmp.Or(h.Healthy, 5)
	if h.Protocol == "http" {
		h.Path = cmp.Or(h.Path, "/")
	}
	switch {
	case h.Protocol != "http" && h.Protocol != "tcp":
		return unprocessable("The emulator has no health check by %s.", h.Protocol)
	case h.Port < 1 || h.Port > 65535:
		return unprocessable("health_check port must be from 1 to 65535")
	case h.Interval < 3 || h.Interval > 300 || h.Timeout < 3 || h.Timeout > 300 || h.Healthy < 2 || h.Healthy > 10 || h.Unhealthy < 2 || h.Unhealthy > 10:
		return unprocessable("health_check: times are from 3 to 300 seconds, thresholds from 2 to 10")
	}
	return judgeForwards(w.Rules)
}

func (c *Cloud) judgeBehind(region string, ids []int) error {
	for _, id := range ids {
		if d := c.dropletBy(id); d == nil || d.region != region {
			return unprocessable("droplet %d was not found in this region", id)
		}
	}
	return nil
}

func judgeForwards(rules []forward) error {
	ports := map[int]bool{}
	for _, r := range rules {
		how := r.EntryProtocol + " to " + r.TargetProtocol
		switch {
		case r.EntryPort < 1 || r.EntryPort > 65535 || r.TargetPort < 1 || r.TargetPort > 65535:
			return unprocessable("ports of forwarding rules must be from 1 to 65535")
		case ports[r.EntryPort]:
			return unprocessable("entry port %d is used twice", r.EntryPort)
		case how != "http to http" && how != "tcp to tcp" && !(how == "https to https" && r.Passthrough):
			return unprocessable("The emulator forwards http, tcp and https that is passed through, not %s.", how)
		}
		ports[r.EntryPort] = true
	}
	return nil
}

func listBalancers(q *request) (any, error) {
	var all []obj
	for _, b := range q.c.balancers {
		all = append(all, q.c.balancerView(b))
	}
	return q.page("load_balancers", all)
}

func createBalancer(q *request) (any, error) {
	var in balancerWish
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if err := in.judge(q.c, nil); err != nil {
		return nil, err
	}
	b := &balancer{balancerWish: in, id: uuid.NewString(), region: in.Region, droplets: in.Droplets, created: time.Now(), health: map[int]*health{}}
	if b.vpc = q.c.defaultVPC(b.region); in.VPC != "" {
		if b.vpc = q.c.vpcBy(in.VPC); b.vpc == nil || b.vpc.region != b.region {
			return nil, unprocessable("VPC %s was not found in this region.", in.VPC)
		}
	}
	home := slices.IndexFunc(q.c.projects, func(p *project) bool { return p.id == in.Project })
	if in.Project != "" && home < 0 {
		return nil, unprocessable("The project was not found.")
	}
	var err error
	if b.ip, err = q.c.host.Address(); err != nil {
		return nil, fmt.Errorf("a load balancer's address: %w", err)
	}
	if home >= 0 {
		q.c.projects[home].assigned[urn("loadbalancer", b.id)] = b.created
	}
	q.c.balancers = append(q.c.balancers, b)
	q.c.later(q.c.o.Durations.LoadBalancer, func() {
		q.c.mu.Lock()
		defer q.c.mu.Unlock()
		if slices.Contains(q.c.balancers, b) {
			b.active = true
			q.c.forwardAll(b)
		}
	})
	return obj{"load_balancer": q.c.balancerView(b)}, nil
}

// balancer is the one in the path.
func (q *request) balancer() (*balancer, error) {
	i := slices.IndexFunc(q.c.balancers, func(b *balancer) bool { return b.id == q.PathValue("balancer") })
	if i < 0 {
		return nil, notFound()
	}
	return q.c.balancers[i], nil
}

func getBalancer(q *request) (any, error) {
	b, err := q.balancer()
	if err != nil {
		return nil, err
	}
	return obj{"load_balancer": q.c.balancerView(b)}, nil
}

func updateBalancer(q *request) (any, error) {
	b, err := q.balancer()
	if err != nil {
		return nil, err
	}
	var in balancerWish
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	if in.Region != b.region {
		return nil, unprocessable("region can't be changed")
	}
	if err := in.judge(q.c, b); err != nil {
		return nil, err
	}
	b.balancerWish, b.droplets = in, in.Droplets
	if b.active {
		q.c.forwardAll(b)
	}
	return obj{"load_balancer": q.c.balancerView(b)}, nil
}

func deleteBalancer(q *request) (any, error) {
	b, err := q.balancer()
	if err != nil {
		return nil, err
	}
	b.stop()
	q.c.balancers = slices.DeleteFunc(q.c.balancers, func(o *balancer) bool { return o == b })
	q.c.forgetResource(urn("loadbalancer", b.id))
	return nil, nil
}

// alter reads a body of droplets or rules and changes the balancer in the path by it.
func (q *request) alter(do func(b *balancer, in balancerWish) error) (any, error) {
	b, err := q.balancer()
	if err != nil {
		return nil, err
	}
	var in balancerWish
	if err := q.decode(&in); err != nil {
		return nil, err
	}
	return nil, do(b, in)
}

func addBalancerDroplets(q *request) (any, error) {
	return q.alter(func(b *balancer, in balancerWish) error {
		if b.Tag != "" {
			return unprocessable("droplets are chosen by tag")
		}
		if err := q.c.judgeBehind(b.region, in.Droplets); err != nil {
			return err
		}
		b.droplets = union(b.droplets, in.Droplets)
		return nil
	})
}

func removeBalancerDroplets(q *request) (any, error) {
	return q.alter(func(b *balancer, in balancerWish) error {
		if b.Tag != "" {
			return unprocessable("droplets are chosen by tag")
		}
		b.droplets = without(b.droplets, in.Droplets)
		return nil
	})
}

func addBalancerRules(q *request) (any, error) {
	return q.alter(func(b *balancer, in balancerWish) error { return q.c.reforward(b, union(b.Rules, in.Rules)) })
}

func removeBalancerRules(q *request) (any, error) {
	return q.alter(func(b *balancer, in balancerWish) error { return q.c.reforward(b, without(b.Rules, in.Rules)) })
}

func (c *Cloud) reforward(b *balancer, rules []forward) error {
	if len(rules) == 0 {
		return unprocessable("at least one forwarding rule must remain")
	}
	if err := judgeForwards(rules); err != nil {
		return err
	}
	b.Rules = rules
	if b.active {
		c.forwardAll(b)
	}
	return nil
}

// stop ends a balancer's listeners and connections, which are gone a little later.
func (b *balancer) stop() {
	if b.end != nil {
		b.end()
	}
}

// forwardAll listens anew for all rules of a balancer and begins its health checks.
func (c *Cloud) forwardAll(b *balancer) {
	b.stop()
	ctx, end := context.WithCancel(c.ctx)
	b.end = end
	idle := time.Duration(b.Idle) * time.Second
	for _, r := range b.Rules {
		c.work.Go(func() { c.listenFor(ctx, b, r, idle) })
	}
	c.work.Go(func() { c.checkHealth(ctx, b) })
}

// listenFor forwards by one rule until the context ends.
func (c *Cloud) listenFor(ctx context.Context, b *balancer, r forward, idle time.Duration) {
	var l net.Listener
	for {
		var err error
		// The listeners of an earlier set of rules may still be there.
		if l, err = net.Listen("tcp4", net.JoinHostPort(b.ip.String(), strconv.Itoa(r.EntryPort))); err == nil {
			break
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			c.violation("the emulator's own trouble: load balancer %s: %v", b.id, err)
			return
		}
		t := time.NewTimer(5 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
	if r.EntryProtocol == "http" {
		c.forwardHTTP(ctx, b, r, idle, l)
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var pairs sync.WaitGroup
	defer pairs.Wait()
	for {
		in, err := l.Accept()
		if err != nil {
			return // the listener was closed
		}
		pairs.Go(func() {
			defer in.Close()
			out, err := c.dialBehind(ctx, b, r.TargetPort)
			if err != nil {
				return // as a balancer with nobody behind it does
			}
			defer out.Close()
			stop := context.AfterFunc(ctx, func() { _ = in.Close(); _ = out.Close() })
			defer stop()
			join(in, out)
		})
	}
}

// join copies both ways until both ends have said all.
func join(a, b net.Conn) {
	var both sync.WaitGroup
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // either end may go away at any time
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		} else {
			_ = to.Close()
		}
	}
	both.Go(func() { pass(a, b) })
	both.Go(func() { pass(b, a) })
	both.Wait()
}

func (c *Cloud) forwardHTTP(ctx context.Context, b *balancer, r forward, idle time.Duration, l net.Listener) {
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dialBehind(ctx, b, r.TargetPort) },
	}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: "behind"})
			p.Out.Host = p.In.Host
			p.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "503 Service Unavailable: No server is available to handle this request.", http.StatusServiceUnavailable)
		},
	}
	s := &http.Server{Handler: proxy, ReadHeaderTimeout: time.Minute, IdleTimeout: idle}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	_ = s.Serve(l) // until it is closed
}

var errNobody = errors.New("no healthy droplet")

// dialBehind connects to the next droplet that is well.
func (c *Cloud) dialBehind(ctx context.Context, b *balancer, port int) (net.Conn, error) {
	c.mu.Lock()
	var well []*droplet
	for _, d := range c.behind(b) {
		if h := b.health[d.id]; h != nil && h.well && d.machine != nil {
			well = append(well, d)
		}
	}
	if len(well) == 0 {
		c.mu.Unlock()
		return nil, errNobody
	}
	d := well[b.turn%len(well)]
	b.turn++
	c.mu.Unlock()
	return c.dialFrom(ctx, b, d, port)
}

// dialFrom connects to a droplet's port as a balancer, if the firewalls let it.
func (c *Cloud) dialFrom(ctx context.Context, b *balancer, d *droplet, port int) (net.Conn, error) {
	c.mu.Lock()
	m, ok := d.machine, d.status == "active" && c.admits(d, port, visitor{address: b.ip, balancer: b.id})
	c.mu.Unlock()
	if !ok || m == nil {
		return nil, errNobody
	}
	return m.Dial(ctx, port)
}

// checkHealth asks all droplets of a balancer how they are, again and again.
func (c *Cloud) checkHealth(ctx context.Context, b *balancer) {
	every := c.o.Durations.Health
	if every == 0 {
		c.mu.Lock()
		every = time.Duration(b.Check.Interval) * time.Second
		c.mu.Unlock()
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		c.mu.Lock()
		all, check := c.behind(b), *b.Check
		c.mu.Unlock()
		var asked sync.WaitGroup
		for _, d := range all {
			asked.Go(func() {
				well := c.isWell(ctx, b, d, check)
				c.mu.Lock()
				defer c.mu.Unlock()
				h := b.health[d.id]
				if h == nil {
					h = &health{}
					b.health[d.id] = h
				}
				if well == h.well {
					h.streak = 0
					return
				}
				enough := check.Healthy
				if h.well {
					enough = check.Unhealthy
				}
				if h.streak++; h.streak >= enough {
					h.well, h.streak = well, 0
				}
			})
		}
		asked.Wait()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (c *Cloud) isWell(ctx context.Context, b *balancer, d *droplet, check healthCheck) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(check.Timeout)*time.Second)
	defer cancel()
	if check.Protocol == "tcp" {
		conn, err := c.dialFrom(ctx, b, d, check.Port)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	client := &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return c.dialFrom(ctx, b, d, check.Port) },
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://behind"+check.Path, nil)
	if err != nil {
		return false
	}
	resp, err := client.Do(r)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode >= 200 && resp.StatusCode < 400
}
