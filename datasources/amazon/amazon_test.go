package amazon

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ingotbuild/ingot/datasources"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/zclconf/go-cty/cty"
)

// cloud answers the calls of the genuine SDK: answer gets the action, and the
// form of EC2 or the JSON of the others.
func cloud(t *testing.T, answer func(action string, form url.Values, in map[string]any) (status int, body string)) *awscloud.Shared {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		action := r.Header.Get("X-Amz-Target")
		var form url.Values
		in := map[string]any{}
		if action != "" {
			if err := json.Unmarshal(body, &in); err != nil {
				t.Error(err)
			}
			_, action, _ = strings.Cut(action, ".")
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		} else {
			form, _ = url.ParseQuery(string(body))
			action = form.Get("Action")
			w.Header().Set("Content-Type", "text/xml")
		}
		if action == "GetCallerIdentity" {
			_, _ = io.WriteString(w, `<GetCallerIdentityResponse><GetCallerIdentityResult><Account>123456789012</Account><Arn>arn:aws:iam::123456789012:user/t</Arn><UserId>u</UserId></GetCallerIdentityResult></GetCallerIdentityResponse>`)
			return
		}
		status, text := answer(action, form, in)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": server.URL, "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "eu-west-1",
		"AWS_CONFIG_FILE": filepath.Join(dir, "config"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "credentials"),
		"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
	} {
		t.Setenv(k, v)
	}
	return awscloud.NewShared(awscloud.Options{Guard: awscloud.LoopbackOnly})
}

// read checks and reads, and looks at the type.
func read(t *testing.T, s datasources.Source) (map[string]cty.Value, error) {
	t.Helper()
	for _, p := range s.Check() {
		t.Fatal(p)
	}
	v, err := s.Read(t.Context())
	if err != nil {
		return nil, err
	}
	if !v.Type().Equals(s.Type()) {
		t.Errorf("it gives %s, and not %s", v.Type().GoString(), s.Type().GoString())
	}
	return v.AsValueMap(), nil
}

func image(id, name, created, rest string) string {
	return fmt.Sprintf(`<item><imageId>%s</imageId><name>%s</name><creationDate>%s</creationDate><imageOwnerId>123456789012</imageOwnerId>%s</item>`, id, name, created, rest)
}

func TestAMI(t *testing.T) {
	var asked url.Values
	var pages [][]string
	shared := cloud(t, func(action string, form url.Values, _ map[string]any) (int, string) {
		if action != "DescribeImages" {
			t.Errorf("it calls %s", action)
		}
		page := 0
		if form.Get("NextToken") != "" {
			page = 1
		} else {
			asked = form
		}
		if len(pages) == 0 {
			return 400, `<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>not you</Message></Error></Errors></Response>`
		}
		next := ""
		if page+1 < len(pages) {
			next = "<nextToken>more</nextToken>"
		}
		return 200, `<DescribeImagesResponse><imagesSet>` + strings.Join(pages[page], "") + `</imagesSet>` + next + `</DescribeImagesResponse>`
	})
	source := func(recent bool) *AMI {
		s := NewAMI(shared)
		s.o.Filters = map[string]string{"name": `web-*,"a,b"`, "tag:empty": ""}
		s.o.Filter = []Filter{{Key: "architecture", Value: "x86_64"}}
		s.o.Owners, s.o.MostRecent, s.o.IncludeDeprecated = []string{"self", "amazon"}, recent, true
		return s
	}
	old := image("ami-1", "web-1", "2026-01-01T00:00:00.000Z", "")
	young := image("ami-2", "web-2", "2026-03-01T00:00:00.000Z",
		"<imageOwnerAlias>amazon</imageOwnerAlias><tagSet><item><key>os</key><value>linux</value></item></tagSet>")
	odd := image("ami-3", "web-3", "yesterday", "")

	pages = [][]string{{old, young}, {odd}}
	v, err := read(t, source(true))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"id": "ami-2", "name": "web-2", "creation_date": "2026-03-01T00:00:00.000Z", "owner": "123456789012", "owner_name": "amazon"} {
		if got := v[name].AsString(); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := v["tags"].AsValueMap(); len(got) != 1 || got["os"].AsString() != "linux" {
		t.Errorf("tags %v", got)
	}
	for name, want := range map[string]string{
		"Owner.1": "self", "Owner.2": "amazon", "IncludeDeprecated": "true",
		"Filter.1.Name": "architecture", "Filter.1.Value.1": "x86_64", "Filter.2.Name": "name", "Filter.2.Value.1": "web-*", "Filter.2.Value.2": "a,b",
		"Filter.3.Name": "tag:empty", "Filter.3.Value.1": "", "Filter.4.Name": "",
	} {
		if got := asked.Get(name); got != want {
			t.Errorf("it asks with %s = %q, want %q", name, got, want)
		}
	}
	pages = [][]string{{old}}
	if v, err = read(t, source(false)); err != nil || v["id"].AsString() != "ami-1" || v["tags"].LengthInt() != 0 || v["owner_name"].AsString() != "" {
		t.Errorf("one alone: %v, %v", v, err)
	}
	for _, c := range []struct {
		pages [][]string
		want  []string
	}{
		{[][]string{{old, young}}, []string{"2 AMIs", "ami-1 (web-1)", "ami-2 (web-2)", "most_recent"}},
		{[][]string{{}}, []string{"no AMI of self, amazon in eu-west-1", `name = "web-*,a,b"`}},
		{nil, []string{"UnauthorizedOperation: not you"}},
	} {
		pages = c.pages
		_, err := read(t, source(false))
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v; want %q", err, want)
			}
		}
	}
}

func TestParameterStore(t *testing.T) {
	var asked map[string]any
	kind := "String"
	shared := cloud(t, func(action string, _ url.Values, in map[string]any) (int, string) {
		asked = in
		if action != "GetParameter" || in["Name"] != "/golden/base" {
			return 400, `{"__type":"ParameterNotFound","message":""}`
		}
		return 200, `{"Parameter":{"Name":"/golden/base","Type":"` + kind + `","Value":"ami-123","Version":7,"ARN":"arn:aws:ssm:eu-west-1:1:parameter/golden/base"}}`
	})
	s := NewParameterStore(shared)
	s.o.Name = "/golden/base"
	v, err := read(t, s)
	if err != nil || v["value"].AsString() != "ami-123" || v["version"].AsString() != "7" || !strings.HasPrefix(v["arn"].AsString(), "arn:") {
		t.Errorf("%v, %v", v, err)
	}
	if asked["WithDecryption"] != false || len(s.Secrets()) != 0 {
		t.Errorf("asked %v, secrets %q", asked, s.Secrets())
	}
	kind, s.o.WithDecryption = "SecureString", true
	if _, err := read(t, s); err != nil || asked["WithDecryption"] != true || !slices.Equal(s.Secrets(), []string{"ami-123"}) {
		t.Errorf("%v, asked %v, secrets %q", err, asked, s.Secrets())
	}
	s.o.Name = "/none"
	if _, err := read(t, s); err == nil || !strings.Contains(err.Error(), "/none in eu-west-1") || !strings.Contains(err.Error(), "ParameterNotFound") {
		t.Errorf("%v", err)
	}
}

func TestSecretsManager(t *testing.T) {
	var asked map[string]any
	var reply string
	shared := cloud(t, func(_ string, _ url.Values, in map[string]any) (int, string) {
		asked = in
		if reply == "" {
			return 400, `{"__type":"ResourceNotFoundException","message":"Secrets Manager can't find the specified secret."}`
		}
		return 200, reply
	})
	secret := func(s string) string {
		b, _ := json.Marshal(map[string]string{"SecretString": s, "VersionId": "v-1"})
		return string(b)
	}
	for name, c := range map[string]struct {
		reply, key string
		value      string // "null": is null
		secrets    []string
		err        string
	}{
		"one member":     {secret(`{"password":"hunter2"}`), "", "hunter2", []string{"hunter2", `{"password":"hunter2"}`}, ""},
		"a key":          {secret(`{"user":"root","deep":{"a":["x1",17]}}`), "user", "root", []string{"root", "x1", "17"}, ""},
		"not text":       {secret(`{"deep":{"a":["x1",17]}}`), "deep", `{"a":["x1",17]}`, []string{"x1", "17"}, ""},
		"several":        {secret(`{"a":"1","b":"2"}`), "", "null", nil, ""},
		"text":           {secret("plain\ntext"), "", "plain\ntext", []string{"plain\ntext"}, ""},
		"no object":      {secret(`{"a":"1"} and more`), "", `{"a":"1"} and more`, nil, ""},
		"unknown key":    {secret(`{"a":"hunter2","b":"2"}`), "c", "", []string{"hunter2"}, `no key "c", only a, b`},
		"key in text":    {secret("hunter2"), "c", "", []string{"hunter2"}, `no key "c"`},
		"bytes":          {`{"SecretBinary":"/wA=","VersionId":"v-1"}`, "", "", []string{"/wA="}, ""},
		"text as bytes":  {`{"SecretBinary":"aGVsbG8=","VersionId":"v-1"}`, "", "", []string{"hello"}, ""},
		"no such secret": {"", "", "", nil, "ResourceNotFoundException"},
	} {
		reply = c.reply
		s := NewSecretsManager(shared)
		s.o.Name, s.o.Key = "db", c.key
		v, err := read(t, s)
		for _, want := range c.secrets {
			if !slices.Contains(s.Secrets(), want) {
				t.Errorf("%s: secrets %q, want %q among them", name, s.Secrets(), want)
			}
		}
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v; want %q", name, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if asked["SecretId"] != "db" || asked["VersionStage"] != "AWSCURRENT" || asked["VersionId"] != nil {
			t.Errorf("%s: asked %v", name, asked)
		}
		if got := v["value"]; c.value == "null" && !got.IsNull() || c.value != "null" && (got.IsNull() || got.AsString() != c.value) {
			t.Errorf("%s: the value is %#v, want %q", name, got, c.value)
		}
		if v["version_id"].AsString() != "v-1" {
			t.Errorf("%s: %v", name, v)
		}
		if want := map[string]string{"bytes": "/wA=", "text as bytes": "hello"}[name]; v["secret_binary"].AsString() != want {
			t.Errorf("%s: bytes %q", name, v["secret_binary"].AsString())
		}
	}
	reply = secret("x")
	s := NewSecretsManager(shared)
	s.o.Name, s.o.VersionID = "db", "v-0"
	if _, err := read(t, s); err != nil || asked["VersionId"] != "v-0" || asked["VersionStage"] != nil {
		t.Errorf("%v, asked %v", err, asked)
	}
	s.o.VersionStage = "AWSPREVIOUS"
	if _, err := read(t, s); err != nil || asked["VersionId"] != "v-0" || asked["VersionStage"] != "AWSPREVIOUS" {
		t.Errorf("%v, asked %v", err, asked)
	}
}

func TestCheck(t *testing.T) {
	ami := func(o AMIOptions) datasources.Source { return &AMI{o: o} }
	fits := map[string]string{"name": "x"}
	for want, s := range map[string]datasources.Source{
		"":                   ami(AMIOptions{Filters: fits, Owners: []string{"self"}}),
		"filters":            ami(AMIOptions{Owners: []string{"self"}}),
		"owners":             ami(AMIOptions{Filters: fits}),
		"filters ":           ami(AMIOptions{Filters: map[string]string{"name": `"`}, Owners: []string{"self"}}),
		"filter[0]":          ami(AMIOptions{Filter: []Filter{{Value: "x"}}, Owners: []string{"self"}}),
		"access_key,owners ": ami(AMIOptions{Access: awscloud.Access{AccessKey: "a"}, Filters: fits}),
		"name":               &ParameterStore{},
		"name ":              &SecretsManager{},
	} {
		var got []string
		for _, p := range s.Check() {
			got = append(got, p.Option)
		}
		if strings.Join(got, ",") != strings.TrimSpace(want) {
			t.Errorf("problems with %q, want %q", got, want)
		}
	}
}
