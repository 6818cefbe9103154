package http

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/zclconf/go-cty/cty"
)

func TestRead(t *testing.T) {
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Answer", "yes")
			w.Header().Add("X-Two", "1")
			w.Header().Add("X-Two", "2")
			_, _ = io.WriteString(w, strings.Join([]string{r.Method, r.Header.Get("X-Asked"), r.Host, string(body)}, "|"))
		case "/large":
			_, _ = io.WriteString(w, strings.Repeat("x", maxBody+1))
		case "/bytes":
			_, _ = w.Write([]byte{0xff})
		case "/slow":
			<-stop
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	defer close(stop)
	ask := func(ctx context.Context, o Options, timeout time.Duration) (cty.Value, error) {
		s := New()
		if o.Method == "" {
			o.Method = s.o.Method
		}
		o.URL = server.URL + o.URL
		s.o, s.timeout = o, timeout
		if p := s.Check(); len(p) > 0 {
			t.Fatal(p)
		}
		return s.Read(ctx)
	}
	v, err := ask(t.Context(), Options{URL: "/echo", Method: "PUT", RequestBody: "text", RequestHeaders: map[string]string{"x-asked": "this", "host": "other"}}, timeout)
	if err != nil {
		t.Fatal(err)
	}
	if !v.Type().Equals(New().Type()) {
		t.Errorf("type %s", v.Type().GoString())
	}
	headers := v.GetAttr("request_headers").AsValueMap()
	if got := v.GetAttr("body").AsString(); got != "PUT|this|other|text" || headers["X-Answer"].AsString() != "yes" || headers["X-Two"].AsString() != "1, 2" ||
		v.GetAttr("url").AsString() != server.URL+"/echo" {
		t.Errorf("%q %v", got, headers)
	}
	if v, err := ask(t.Context(), Options{URL: "/echo"}, timeout); err != nil || !strings.HasPrefix(v.GetAttr("body").AsString(), "GET|") {
		t.Errorf("%v, %v", v, err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx     context.Context
		path    string
		timeout time.Duration
		want    string
	}{
		{t.Context(), "/none", timeout, "404 Not Found"},
		{t.Context(), "/large", timeout, "larger than 16 MiB"},
		{t.Context(), "/bytes", timeout, "UTF-8"},
		{t.Context(), "/slow", 50 * time.Millisecond, "within 50ms"},
		{cancelled, "/slow", timeout, "canceled"},
	} {
		if v, err := ask(c.ctx, Options{URL: c.path}, c.timeout); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v; want %q", c.path, v, err, c.want)
		}
	}
}

func TestCheck(t *testing.T) {
	for option, o := range map[string]Options{
		"":                    {URL: "https://example.com/x", Method: "GET", RequestHeaders: map[string]string{"A-B": "c"}},
		"url":                 {URL: "example.com", Method: "GET"},
		"url ":                {URL: "file:///etc/passwd", Method: "GET"},
		"method":              {URL: "http://example.com", Method: "get"},
		"request_headers.a b": {URL: "http://example.com", Method: "GET", RequestHeaders: map[string]string{"a b": "c"}},
		"request_headers.a":   {URL: "http://example.com", Method: "GET", RequestHeaders: map[string]string{"a": "c\r\nd: e"}},
	} {
		var got []string
		for _, p := range (&Source{o: o}).Check() {
			got = append(got, p.Option)
		}
		if strings.Join(got, ",") != strings.TrimSpace(option) {
			t.Errorf("%+v: problems with %q", o, got)
		}
	}
}
