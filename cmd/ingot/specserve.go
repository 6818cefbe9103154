package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
	"github.com/ingotbuild/ingot/report/specreport"
	"github.com/ingotbuild/ingot/specs/goss"
)

func specServeVerb() verb {
	return verb{
		name: "serve", args: "FILE|DIRECTORY… -target TARGET", short: "Serve the verdict by HTTP, as a health endpoint",
		long: "GET /healthz checks the specs and answers with the report: 200 when all holds, 503 when not, also when it could not be\n" +
			"found out. Its format is chosen by ?format= or by Accept, also as goss has it (application/vnd.goss-json). GET /metrics is\n" +
			"for Prometheus. Requests share one run at a time, and its result for the time of -cache.\n\n" + targetHelp,
		run: runSpecServe,
	}
}

func runSpecServe(ctx context.Context, c *cli, args []string) int {
	fs := c.flags()
	var sf specFlags
	var tf targetFlags
	sf.add(fs)
	tf.add(fs)
	listen := fs.String("listen", "127.0.0.1:8080", "listen on this `address`; with port 0 the system chooses one")
	format := fs.String("format", "text", "the report's format where a request wants none, `"+strings.Join(specFormats(), "|")+"`; text unless given")
	cache := fs.Duration("cache", 5*time.Second, "how long a result is given again; 5s unless given, 0: not at all")
	timeout := fs.Duration("timeout", time.Minute, "the longest that one run may take; 1m unless given")
	parallel := fs.Int("parallel", 10, "look at `n` machines at once; 10 unless given")
	rest, err := c.parse(fs, args, 0, 1000)
	if err != nil {
		return specCode(err)
	}
	targets, err := parseTargets(tf.targets.values)
	err = errors.Join(err, sf.check(rest))
	if len(targets) == 0 {
		err = errors.Join(err, errors.New("which machine? -target ssh://HOST, docker://CONTAINER, image:REF, or local: for this one"))
	}
	if !slices.Contains(specFormats(), *format) {
		err = errors.Join(err, fmt.Errorf("there is no report format %q.%s", *format, config.DidYouMean(*format, specFormats())))
	}
	if *cache < 0 || *timeout <= 0 || *parallel < 1 {
		err = errors.Join(err, errors.New("-timeout and -parallel are more than 0, and -cache is not negative"))
	}
	if err != nil {
		return c.specUsage(err)
	}
	if status, entered := c.enterForTargets(targets); entered {
		return status
	}
	set, err := c.loadSpecs(ctx, rest, &sf)
	if err != nil {
		return exitUsage
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return c.specUsage(fmt.Errorf("cannot listen on %s: %w", *listen, err))
	}
	if a, err := netip.ParseAddrPort(l.Addr().String()); err != nil || !a.Addr().Unmap().IsLoopback() {
		fmt.Fprintf(c.err, "Warning: whoever reaches %s can read what the checks find, and have them made.\n", l.Addr())
	}
	fmt.Fprintf(c.err, "Serving on http://%s/healthz\n", l.Addr())
	// Runs end with the program, not with the request that began them.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	h := &health{
		set: set, way: tf.way, timeout: *timeout, parallel: *parallel, cache: *cache, format: *format, events: c.warnings(), life: life,
		slots: make(chan struct{}, maxRequests),
	}
	for _, t := range targets {
		h.targets = append(h.targets, &kept{name: t.name})
	}
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		WriteTimeout: *timeout + 30*time.Second, MaxHeaderBytes: 16 << 10,
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	status := exitOK
	select {
	case err := <-served:
		fmt.Fprintln(c.err, "Error: serve:", err)
		status = exitBroken
	case <-ctx.Done():
		// What is asked for already is answered, with what is known by then.
		end()
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := srv.Shutdown(sctx); err != nil {
			srv.Close()
		}
	}
	end()
	if err := h.close(); err != nil {
		fmt.Fprintln(c.err, "Error:", err)
		status = exitBroken
	}
	return status
}

// maxRequests is how many requests may wait at once; more are told to come again.
const maxRequests = 64

// health answers for the verdict on some machines.
type health struct {
	set      *specSet
	targets  []*kept
	way      targetOptions
	timeout  time.Duration
	parallel int
	cache    time.Duration
	format   string
	events   event.Scope
	life     context.Context
	slots    chan struct{}

	mu     sync.Mutex
	last   *healthRun
	closed bool
}

// healthRun is one run of the checks, which any number of requests wait for.
type healthRun struct {
	done  chan struct{} // closed when all below stands
	found []specreport.Target
	at    time.Time
}

// kept is a machine that stays connected, or booted, from run to run.
type kept struct {
	name     string
	m        machine.Machine
	giveBack func() error
}

// result is what the newest run found, which is begun when there is none that is new enough.
func (h *health) result(ctx context.Context) ([]specreport.Target, error) {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, errors.New("it ends")
	}
	r := h.last
	if r != nil {
		select {
		case <-r.done:
			if time.Since(r.at) >= h.cache {
				r = nil
			}
		default: // it runs
		}
	}
	if r == nil {
		r = &healthRun{done: make(chan struct{})}
		h.last = r
		go func() {
			r.found = h.check()
			r.at = time.Now()
			close(r.done)
		}()
	}
	h.mu.Unlock()
	select {
	case <-r.done:
		return r.found, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (h *health) check() []specreport.Target {
	found := make([]specreport.Target, len(h.targets))
	var all sync.WaitGroup
	slots := make(chan struct{}, h.parallel)
	for i, k := range h.targets {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			found[i] = h.checkOne(k)
		})
	}
	all.Wait()
	return found
}

func (h *health) checkOne(k *kept) specreport.Target {
	t := specreport.Target{Name: k.name}
	ctx, cancel := context.WithTimeoutCause(h.life, h.timeout, fmt.Errorf("it took longer than %v (-timeout)", h.timeout))
	defer cancel()
	if k.m == nil {
		var err error
		if k.m, k.giveBack, err = openTarget(ctx, k.name, h.way, h.events); err != nil {
			k.m = nil
			t.Err = h.set.masked(because(ctx, err))
			return t
		}
	}
	var err error
	if t.Reports, err = h.set.run(ctx, k.m); err != nil {
		// It is anew what the next run asks.
		err = errors.Join(err, k.close())
	}
	t.Err = h.set.masked(err)
	return t
}

func (k *kept) close() error {
	if k.m == nil {
		return nil
	}
	k.m = nil
	return k.giveBack()
}

// close waits for the run under way, and gives the machines back.
func (h *health) close() error {
	h.mu.Lock()
	h.closed = true
	r := h.last
	h.mu.Unlock()
	if r != nil {
		<-r.done
	}
	var errs []error
	for _, k := range h.targets {
		errs = append(errs, k.close())
	}
	return errors.Join(errs...)
}

// ServeHTTP implements http.Handler.
func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case r.URL.Path != "/healthz" && r.URL.Path != "/metrics":
		http.Error(w, "There are /healthz and /metrics.", http.StatusNotFound)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "This can be read only.", http.StatusMethodNotAllowed)
		return
	}
	format, kind := "prometheus", contentType("prometheus")
	if r.URL.Path == "/healthz" {
		var err error
		if format, kind, err = h.wanted(r); err != nil {
			status := http.StatusNotAcceptable
			if r.URL.Query().Has("format") {
				status = http.StatusBadRequest
			}
			http.Error(w, err.Error(), status)
			return
		}
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "Too many requests wait already.", http.StatusServiceUnavailable)
		return
	}
	found, err := h.result(r.Context())
	if err != nil {
		return // nobody waits any more
	}
	var body bytes.Buffer
	status := http.StatusOK
	if err := writeSpecs(&body, format, found, specreport.Options{}); err != nil {
		http.Error(w, "The report cannot be written.", http.StatusInternalServerError)
		return
	}
	// For Prometheus that something fails is a value, and the answer is one.
	if r.URL.Path == "/healthz" && specStatus(found) != exitOK {
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	if format == "html" {
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	}
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // who has gone away misses it
}

// gossMedia begins the media types of goss' formats.
const gossMedia = "application/vnd.goss-"

// wanted is the format that a request asks for.
func (h *health) wanted(r *http.Request) (format, kind string, err error) {
	all := strings.Join(specFormats(), ", ")
	if q := r.URL.Query(); q.Has("format") {
		f := q.Get("format")
		if !slices.Contains(specFormats(), f) {
			return "", "", fmt.Errorf("there is no such format; there are %s", all)
		}
		return f, contentType(f), nil
	}
	type wish struct {
		media string
		q     float64
	}
	var wishes []wish
	for _, part := range strings.Split(strings.Join(r.Header.Values("Accept"), ","), ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		q := 1.0
		if text, ok := params["q"]; ok {
			if q, err = strconv.ParseFloat(text, 64); err != nil {
				continue
			}
		}
		if q > 0 {
			wishes = append(wishes, wish{media, q})
		}
	}
	slices.SortStableFunc(wishes, func(a, b wish) int { return cmp.Compare(b.q, a.q) })
	for _, w := range wishes {
		if name, ok := strings.CutPrefix(w.media, gossMedia); ok {
			if slices.Contains(goss.Formats(), name) {
				return gossPrefix + name, w.media, nil
			}
			continue
		}
		switch w.media {
		case "*/*":
			return h.format, contentType(h.format), nil
		case "text/html", "application/xhtml+xml":
			return "html", contentType("html"), nil
		case "application/json":
			return "json", contentType("json"), nil
		case "application/xml", "text/xml":
			return "junit", contentType("junit"), nil
		case "text/markdown":
			return "markdown", contentType("markdown"), nil
		case "text/plain", "text/*":
			return "text", contentType("text"), nil
		case "application/x-ndjson", "application/jsonl":
			return "jsonl", contentType("jsonl"), nil
		}
	}
	if len(wishes) > 0 {
		return "", "", fmt.Errorf("nothing of what Accept names can be had; ?format= takes %s", all)
	}
	return h.format, contentType(h.format), nil
}

func contentType(format string) string {
	switch strings.TrimPrefix(format, gossPrefix) {
	case "html":
		return "text/html; charset=utf-8"
	case "json", "json_oneline", "structured":
		return "application/json"
	case "jsonl":
		return "application/x-ndjson"
	case "junit":
		return "application/xml"
	case "markdown":
		return "text/markdown; charset=utf-8"
	case "prometheus":
		return "text/plain; version=0.0.4; charset=utf-8"
	}
	return "text/plain; charset=utf-8"
}
