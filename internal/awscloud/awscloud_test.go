package awscloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/ingotbuild/ingot/internal/config"
)

// api is as much of the API as these tests ask for.
type api struct {
	*httptest.Server
	mu    sync.Mutex
	calls []call
	// answer gives the status and the body for a call; status 0: the default.
	answer func(c call) (int, string)
}

type call struct {
	action, region, key string
	form                map[string][]string
}

var scope = regexp.MustCompile(`Credential=([^/]+)/\d+/([^/]+)/`)

func newAPI(t *testing.T, answer func(c call) (int, string)) *api {
	t.Helper()
	a := &api{answer: answer}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		c := call{action: r.Form.Get("Action"), form: r.Form}
		if m := scope.FindStringSubmatch(r.Header.Get("Authorization")); m != nil {
			c.key, c.region = m[1], m[2]
		}
		a.mu.Lock()
		a.calls = append(a.calls, c)
		a.mu.Unlock()
		status, body := 0, ""
		if answer != nil {
			status, body = answer(c)
		}
		if status == 0 && c.action == "GetCallerIdentity" {
			status, body = 200, `<GetCallerIdentityResponse><GetCallerIdentityResult><Account>123456789012</Account><Arn>arn:aws:iam::123456789012:user/x</Arn></GetCallerIdentityResult></GetCallerIdentityResponse>`
		}
		if status == 0 {
			status, body = 400, ec2Error("InvalidAction", "the test has no answer to "+c.action)
		}
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	}))
	t.Cleanup(a.Close)
	dir := t.TempDir()
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": a.URL, "AWS_EC2_METADATA_DISABLED": "true", "AWS_ACCESS_KEY_ID": "AKIDENV", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "",
		"AWS_CONFIG_FILE": filepath.Join(dir, "config"), "AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "credentials"), "AWS_PROFILE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "",
		"AWS_POLL_DELAY_SECONDS": "", "AWS_MAX_ATTEMPTS": "", "AWS_TIMEOUT_SECONDS": "",
	} {
		t.Setenv(name, value)
	}
	return a
}

func (a *api) count(action string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, c := range a.calls {
		if c.action == action {
			n++
		}
	}
	return n
}

func (a *api) last() call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.calls[len(a.calls)-1]
}

func ec2Error(code, message string) string {
	return fmt.Sprintf("<Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors><RequestID>r</RequestID></Response>", code, message)
}

func instances(states map[string]string) string {
	var b strings.Builder
	b.WriteString("<DescribeInstancesResponse><reservationSet>")
	for id, state := range states {
		fmt.Fprintf(&b, "<item><instancesSet><item><instanceId>%s</instanceId><instanceState><name>%s</name></instanceState>"+
			"<stateReason><code>Server.Gone</code><message>the host is gone</message></stateReason></item></instancesSet></item>", id, state)
	}
	b.WriteString("</reservationSet></DescribeInstancesResponse>")
	return b.String()
}

// asked are the instances that a call asks for.
func asked(c call) []string {
	var ids []string
	for i := 1; ; i++ {
		id := c.form[fmt.Sprintf("Filter.1.Value.%d", i)]
		if id == nil {
			return ids
		}
		ids = append(ids, id[0])
	}
}

func connect(t *testing.T, a *Access) *Session {
	t.Helper()
	s, err := NewShared(Options{Guard: LoopbackOnly}).Connect(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCredentialsOrder(t *testing.T) {
	a := newAPI(t, nil)
	write := func(env, text string) {
		if err := os.WriteFile(os.Getenv(env), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("AWS_CONFIG_FILE", "[profile p]\nregion = eu-north-1\n")
	write("AWS_SHARED_CREDENTIALS_FILE", "[p]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = s\n")
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("[q]\naws_access_key_id = AKIDOTHER\naws_secret_access_key = s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		access      Access
		key, region string
	}{
		"environment":      {Access{Region: "us-east-1"}, "AKIDENV", "us-east-1"},
		"profile":          {Access{Profile: "p"}, "AKIDPROFILE", "eu-north-1"},
		"profile's region": {Access{Profile: "p", Region: "us-east-2"}, "AKIDPROFILE", "us-east-2"},
		"static":           {Access{Profile: "p", AccessKey: "AKIDSTATIC", SecretKey: "s", Region: "us-east-1"}, "AKIDSTATIC", "us-east-1"},
		"other file":       {Access{Profile: "q", SharedCredentialsFile: other, Region: "us-east-1"}, "AKIDOTHER", "us-east-1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := connect(t, &tc.access)
			if c := a.last(); c.key != tc.key || c.region != tc.region || s.Region != tc.region || s.Account != "123456789012" {
				t.Errorf("asked with %s in %s, session in %s of %s", c.key, c.region, s.Region, s.Account)
			}
			if told := len(s.Notes) > 0; told != (strings.HasPrefix(name, "profile") || name == "other file") {
				t.Errorf("notes: %q", s.Notes)
			}
		})
	}
	if _, err := NewShared(Options{}).Connect(t.Context(), &Access{}); err == nil || !strings.Contains(err.Error(), "AWS_REGION") {
		t.Errorf("without a region: %v", err)
	}
	if _, err := NewShared(Options{}).Connect(t.Context(), &Access{Profile: "none", Region: "us-east-1"}); err == nil || !strings.Contains(err.Error(), `no AWS profile "none"`) {
		t.Errorf("without the profile: %v", err)
	}
}

func TestAssumeRole(t *testing.T) {
	a := newAPI(t, func(c call) (int, string) {
		if c.action != "AssumeRole" {
			return 0, ""
		}
		return 200, `<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>AKIDROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey>` +
			`<SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`
	})
	connect(t, &Access{Region: "us-east-1", AssumeRole: &AssumeRole{RoleARN: "arn:aws:iam::1:role/r", ExternalID: "e", SessionName: "n", DurationSeconds: 1000, Policy: "{}",
		PolicyARNs: []string{"arn:p"}, Tags: map[string]string{"k": "v"}, TransitiveTagKeys: []string{"k"}}})
	if a.calls[0].action != "AssumeRole" || a.calls[1].key != "AKIDROLE" {
		t.Fatalf("calls: %+v", a.calls)
	}
	for field, want := range map[string]string{"RoleArn": "arn:aws:iam::1:role/r", "ExternalId": "e", "RoleSessionName": "n", "DurationSeconds": "1000", "Policy": "{}",
		"PolicyArns.member.1.arn": "arn:p", "Tags.member.1.Key": "k", "Tags.member.1.Value": "v", "TransitiveTagKeys.member.1": "k"} {
		if got := a.calls[0].form[field]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
}

func TestVault(t *testing.T) {
	var asked []string
	vault := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String()+" "+r.Header.Get("X-Vault-Token"))
		if r.URL.Path == "/v1/mine/creds/no" {
			w.WriteHeader(403)
			_, _ = fmt.Fprint(w, `{"errors":["permission denied"]}`)
			return
		}
		_, _ = fmt.Fprint(w, `{"data":{"access_key":"AKIDVAULT","secret_key":"s","security_token":"t"}}`)
	}))
	defer vault.Close()
	tries := 0
	a := newAPI(t, func(c call) (int, string) {
		if tries++; tries < 3 { // a new key is not known at once
			return 403, "<ErrorResponse><Error><Code>InvalidClientTokenId</Code><Message>no</Message></Error></ErrorResponse>"
		}
		return 0, ""
	})
	t.Setenv("VAULT_ADDR", vault.URL)
	t.Setenv("VAULT_TOKEN", "tok")
	connect(t, &Access{Region: "us-east-1", VaultAWSEngine: &VaultEngine{Name: "web", EngineName: "mine", RoleARN: "arn:r", TTL: "3600s"}})
	if want := "/v1/mine/creds/web?role_arn=arn%3Ar&ttl=3600s tok"; len(asked) != 1 || asked[0] != want {
		t.Errorf("asked Vault for %q, want %q", asked, want)
	}
	if c := a.last(); c.key != "AKIDVAULT" {
		t.Errorf("used the key %s", c.key)
	}
	_, err := NewShared(Options{}).Connect(t.Context(), &Access{Region: "us-east-1", VaultAWSEngine: &VaultEngine{Name: "no", EngineName: "mine"}})
	if err == nil || !strings.Contains(err.Error(), "permission denied") || strings.Contains(err.Error(), "tok") {
		t.Errorf("refused by Vault: %v", err)
	}
}

// AWS_MAX_ATTEMPTS is for our waits. The SDK, which would read it too, tries as
// often as max_retries says.
func TestRetries(t *testing.T) {
	a := newAPI(t, func(c call) (int, string) {
		if c.action == "DescribeVpcs" {
			return 503, ec2Error("Unavailable", "try again")
		}
		return 0, ""
	})
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	s := connect(t, &Access{Region: "us-east-1", MaxRetries: 2})
	if _, err := s.EC2("").DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{}); err == nil || a.count("DescribeVpcs") != 3 {
		t.Errorf("%d tries, want 3; %v", a.count("DescribeVpcs"), err)
	}
	if got, _ := s.polling.apply(InstancePace); got.Timeout != 15*time.Second {
		t.Errorf("one attempt is %v, want 15s", got.Timeout)
	}
}

func TestGuard(t *testing.T) {
	newAPI(t, nil)
	refuse := errors.New("not there")
	_, err := NewShared(Options{Guard: func(netip.AddrPort) error { return refuse }}).Connect(t.Context(), &Access{Region: "us-east-1", MaxRetries: 1})
	if !errors.Is(err, refuse) {
		t.Errorf("connected past the guard: %v", err)
	}
	for addr, good := range map[string]bool{"127.8.9.10:22": true, "[::1]:22": true, "10.0.0.1:22": false, "198.51.100.1:443": false} {
		if err := LoopbackOnly(netip.MustParseAddrPort(addr)); (err == nil) != good {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestCustomEndpoint(t *testing.T) {
	var hosts []string
	a := newAPI(t, nil)
	s := connect(t, &Access{Region: "us-east-1", CustomEndpointEC2: strings.Replace(a.URL, "127.0.0.1", "127.0.0.2", 1)})
	for _, r := range []string{"", "eu-west-1"} {
		hosts = append(hosts, aws.ToString(s.EC2(r).Options().BaseEndpoint))
	}
	if hosts[0] != hosts[1] || !strings.Contains(hosts[0], "127.0.0.2") {
		t.Errorf("the endpoints are %q", hosts)
	}
	s = connect(t, &Access{Region: "us-east-1", CustomEndpointEC2: "https://ec2-fips.us-east-1.amazonaws.com"})
	if got := aws.ToString(s.EC2("eu-west-1").Options().BaseEndpoint); got != "https://ec2-fips.eu-west-1.amazonaws.com" {
		t.Errorf("the other region's endpoint is %s", got)
	}
}

func TestDecodeAuthorizationMessages(t *testing.T) {
	a := newAPI(t, func(c call) (int, string) {
		switch {
		case c.action == "DescribeVpcs":
			return 403, ec2Error("UnauthorizedOperation", "You may not. Encoded authorization failure message: abc-123")
		case c.action == "DecodeAuthorizationMessage" && c.form["EncodedMessage"][0] == "abc-123":
			return 200, `<DecodeAuthorizationMessageResponse><DecodeAuthorizationMessageResult><DecodedMessage>{"allowed":false}</DecodedMessage></DecodeAuthorizationMessageResult></DecodeAuthorizationMessageResponse>`
		}
		return 0, ""
	})
	for _, on := range []bool{false, true} {
		s := connect(t, &Access{Region: "us-east-1", DecodeAuthorizationMessages: on})
		_, err := s.EC2("").DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{})
		text := Explain(err).Error()
		if !IsDenied(err) || strings.Contains(text, `{"allowed":false}`) != on || strings.Contains(text, "abc-123") == on {
			t.Errorf("decode %v: %s", on, text)
		}
	}
	if a.count("DecodeAuthorizationMessage") != 1 {
		t.Error("it was not decoded once")
	}
}

// fast is a pace that tests have time for.
var fast = Pace{First: time.Millisecond, Min: time.Millisecond, Cap: 5 * time.Millisecond, Timeout: time.Minute, Grace: time.Minute}

// Many waits are few calls, and one unknown id is nobody else's matter.
func TestBatch(t *testing.T) {
	var mu sync.Mutex
	looks := map[string]int{}
	a := newAPI(t, func(c call) (int, string) {
		if c.action != "DescribeInstances" {
			return 0, ""
		}
		mu.Lock()
		defer mu.Unlock()
		states := map[string]string{}
		for _, id := range asked(c) {
			looks[id]++
			if id == "i-none" {
				continue
			}
			states[id] = "pending"
			if looks[id] > 3 {
				states[id] = "running"
			}
		}
		return 200, instances(states)
	})
	s := connect(t, &Access{Region: "us-east-1"})
	var wg sync.WaitGroup
	const n = 50
	for i := range n {
		wg.Go(func() {
			id := fmt.Sprintf("i-%d", i)
			got, err := Watch(t.Context(), s, s.Instances(""), id, Wait{What: id, Pace: Pace{First: 50 * time.Millisecond, Min: 50 * time.Millisecond, Cap: time.Second, Timeout: time.Minute}},
				func(i types.Instance) (bool, string, error) { return JudgeInstance(i, types.InstanceStateNameRunning) })
			if err != nil || aws.ToString(got.InstanceId) != id {
				t.Errorf("%s: %v, %v", id, aws.ToString(got.InstanceId), err)
			}
		})
	}
	_, err := s.Instances("").Get(t.Context(), "i-none")
	var missing *NotFoundError
	if !errors.As(err, &missing) || !IsNotFound(err) {
		t.Errorf("an unknown instance: %v", err)
	}
	wg.Wait()
	mu.Lock()
	total := 0
	for _, l := range looks {
		total += l
	}
	mu.Unlock()
	if calls := a.count("DescribeInstances"); calls*5 > total {
		t.Errorf("%d looks took %d calls", total, calls)
	}
}

func TestWait(t *testing.T) {
	newAPI(t, nil)
	s := connect(t, &Access{Region: "us-east-1"})
	throttled := &apiError{"RequestLimitExceeded"}
	missing := &apiError{"InvalidInstanceID.NotFound"}
	denied := &apiError{"UnauthorizedOperation"}
	seq := func(errs ...error) func(context.Context) (bool, string, error) {
		i := -1
		return func(context.Context) (bool, string, error) {
			if i++; i < len(errs) {
				return false, "pending", errs[i]
			}
			return true, "", nil
		}
	}
	noGrace := fast
	noGrace.Grace = 0
	short := fast
	short.Timeout = 20 * time.Millisecond
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, tc := range map[string]struct {
		ctx  context.Context
		w    Wait
		look func(context.Context) (bool, string, error)
		want string
	}{
		"at once":           {t.Context(), Wait{Pace: fast, First: -1}, seq(), ""},
		"unknown at first":  {t.Context(), Wait{Pace: fast}, seq(missing, nil, missing), ""},
		"unknown for good":  {t.Context(), Wait{Pace: noGrace}, seq(missing), "InvalidInstanceID.NotFound"},
		"throttled":         {t.Context(), Wait{Pace: noGrace}, seq(throttled, throttled), ""},
		"denied":            {t.Context(), Wait{Pace: fast}, seq(denied), "UnauthorizedOperation"},
		"over":              {t.Context(), Wait{Pace: short, First: -1, What: "the end"}, func(context.Context) (bool, string, error) { return false, "pending", nil }, `waited 20ms for the end, and the last that was seen is "pending"; to wait longer, raise aws_polling`},
		"over by an option": {t.Context(), Wait{Pace: fast, What: "x", Timeout: 10 * time.Millisecond, Option: "windows_password_timeout"}, func(context.Context) (bool, string, error) { return false, "", nil }, "raise windows_password_timeout"},
		"cancelled":         {cancelled, Wait{Pace: fast}, seq(nil, nil), context.Canceled.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.Wait(tc.ctx, tc.w, tc.look)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%v, want %q", err, tc.want)
			}
		})
	}
}

type apiError struct{ code string }

func (e *apiError) Error() string                 { return e.code }
func (e *apiError) ErrorCode() string             { return e.code }
func (e *apiError) ErrorMessage() string          { return "" }
func (e *apiError) ErrorFault() smithy.ErrorFault { return smithy.FaultClient }

func TestWaitInstanceFails(t *testing.T) {
	newAPI(t, func(c call) (int, string) {
		if c.action == "DescribeInstances" {
			return 200, instances(map[string]string{"i-1": "terminated"})
		}
		return 0, ""
	})
	s := connect(t, &Access{Region: "us-east-1"})
	_, err := s.WaitInstance(t.Context(), "", "i-1", types.InstanceStateNameRunning, time.Time{})
	var failed *FailedError
	if !errors.As(err, &failed) || failed.Code != "Server.Gone" || !strings.Contains(err.Error(), "the host is gone") {
		t.Errorf("%v", err)
	}
}

func TestPolling(t *testing.T) {
	for name, tc := range map[string]struct {
		option  *Polling
		env     map[string]string
		timeout time.Duration
		cap     time.Duration
		bad     bool
	}{
		"nothing":         {nil, nil, ImagePace.Timeout, ImagePace.Cap, false},
		"attempts":        {nil, map[string]string{"AWS_MAX_ATTEMPTS": "240"}, time.Hour, ImagePace.Cap, false},
		"with a delay":    {nil, map[string]string{"AWS_MAX_ATTEMPTS": "10", "AWS_POLL_DELAY_SECONDS": "30"}, 5 * time.Minute, 30 * time.Second, false},
		"timeout":         {nil, map[string]string{"AWS_TIMEOUT_SECONDS": "90"}, 90 * time.Second, ImagePace.Cap, false},
		"timeout loses":   {nil, map[string]string{"AWS_TIMEOUT_SECONDS": "90", "AWS_MAX_ATTEMPTS": "4"}, time.Minute, ImagePace.Cap, false},
		"the option wins": {&Polling{DelaySeconds: 2, MaxAttempts: 50}, map[string]string{"AWS_MAX_ATTEMPTS": "1", "AWS_POLL_DELAY_SECONDS": "9"}, 100 * time.Second, 2 * time.Second, false},
		"no number":       {nil, map[string]string{"AWS_MAX_ATTEMPTS": "many"}, 0, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := readPolling(tc.option, func(n string) string { return tc.env[n] })
			if tc.bad {
				if err == nil {
					t.Error("it is accepted")
				}
				return
			}
			if p, _ := q.apply(ImagePace); err != nil || p.Timeout != tc.timeout || p.Cap != tc.cap || p.First > p.Cap {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
}

// The time between looks grows, and stays in its bounds.
func TestPace(t *testing.T) {
	for waited := time.Duration(0); waited < time.Hour; waited += 7 * time.Second {
		d := ImagePace.next(waited)
		if d < ImagePace.Min*9/10 || d > ImagePace.Cap*11/10 {
			t.Fatalf("after %v the next look is in %v", waited, d)
		}
	}
	if ImagePace.next(time.Hour) < ImagePace.Cap*9/10 {
		t.Error("it does not grow to the cap")
	}
}

// What goes into the ledger reaches the account again, and has no secret.
func TestPublic(t *testing.T) {
	a := &Access{AccessKey: "AKIDSECRET", SecretKey: "s3cr3t", Token: "t0ken", MFACode: "123456", Profile: "p", Region: "eu-west-1", CustomEndpointEC2: "http://127.0.0.1:1",
		AssumeRole: &AssumeRole{RoleARN: "arn:r"}, MaxRetries: 3}
	text := a.Public()
	for _, s := range []string{"AKIDSECRET", "s3cr3t", "t0ken", "123456"} {
		if strings.Contains(text, s) {
			t.Errorf("%s is in %s", s, text)
		}
	}
	b, err := ReadPublic(text)
	if err != nil || b.Profile != "p" || b.Region != "eu-west-1" || b.AssumeRole == nil || b.AssumeRole.RoleARN != "arn:r" || b.CustomEndpointEC2 != a.CustomEndpointEC2 {
		t.Errorf("%+v, %v", b, err)
	}
	if a.SecretKey != "s3cr3t" {
		t.Error("Public has changed the options")
	}
}

func TestAccessCheck(t *testing.T) {
	for option, a := range map[string]Access{
		"":                             {AccessKey: "a", SecretKey: "s", Token: "t", CustomEndpointEC2: "https://x", AssumeRole: &AssumeRole{RoleARN: "r", DurationSeconds: 900}},
		"access_key":                   {AccessKey: "a"},
		"secret_key":                   {SecretKey: "a"},
		"token":                        {Token: "a"},
		"assume_role.role_arn":         {AssumeRole: &AssumeRole{}},
		"assume_role.duration_seconds": {AssumeRole: &AssumeRole{RoleARN: "r", DurationSeconds: 1}},
		"vault_aws_engine":             {Profile: "p", VaultAWSEngine: &VaultEngine{Name: "n"}},
		"vault_aws_engine.ttl":         {VaultAWSEngine: &VaultEngine{Name: "n", TTL: "soon"}},
		"custom_endpoint_ec2":          {CustomEndpointEC2: "ec2"},
		"max_retries":                  {MaxRetries: -1},
		"aws_polling.max_attempts":     {AWSPolling: &Polling{MaxAttempts: -1}},
		"insecure_skip_tls_verify":     {InsecureSkipTLSVerify: true},
	} {
		ps := a.Check()
		if option == "" && len(ps) > 0 || option != "" && !slices.ContainsFunc(ps, func(p config.Problem) bool { return p.Option == option }) {
			t.Errorf("%q: %+v", option, ps)
		}
	}
}

// Sessions are shared, and who leaves first does not take the others along.
func TestConnectIsShared(t *testing.T) {
	release := make(chan struct{})
	first := make(chan struct{}, 10)
	a := newAPI(t, func(call) (int, string) { first <- struct{}{}; <-release; return 0, "" })
	shared := NewShared(Options{})
	gone, leave := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() { _, err := shared.Connect(gone, &Access{Region: "us-east-1"}); errs <- err }()
	<-first
	var wg sync.WaitGroup
	var got [5]*Session
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = shared.Connect(t.Context(), &Access{Region: "us-east-1"}); err != nil {
				t.Error(err)
			}
		})
	}
	leave()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Errorf("who left: %v", err)
	}
	close(release)
	wg.Wait()
	for _, s := range got {
		if s != got[0] {
			t.Error("there are several sessions")
		}
	}
	if n := a.count("GetCallerIdentity"); n > 2 {
		t.Errorf("asked %d times", n)
	}
}

// Where it is known how long something takes, it is looked at around that time,
// and neither never before nor often for ever after.
func TestNextLook(t *testing.T) {
	known := timing{10 * time.Second, time.Second}
	for _, tc := range []struct {
		known    timing
		waited   time.Duration
		from, to time.Duration
	}{
		{known, 0, 9 * time.Second, 9 * time.Second},
		{known, 4 * time.Second, 5 * time.Second, 5 * time.Second}, // looked at along with another
		{known, 9 * time.Second, 450 * time.Millisecond, 550 * time.Millisecond},
		{timing{10 * time.Second, time.Millisecond}, 10 * time.Second, 225 * time.Millisecond, 275 * time.Millisecond},
		{known, 19 * time.Second, 1800 * time.Millisecond, 2200 * time.Millisecond}, // much later
		{known, 80 * time.Second, 9 * time.Second, 11 * time.Second},                // what was learned does not fit
		{timing{time.Hour, time.Second}, 0, 40 * time.Second, 40 * time.Second},     // it may have become faster
	} {
		if d := tc.known.next(InstancePace, tc.waited); d < tc.from || d > tc.to {
			t.Errorf("%v, after %v: next in %v, want %v to %v", tc.known, tc.waited, d, tc.from, tc.to)
		}
	}
}

// How long things take is learned, also for the next process, and a file that
// is broken is no matter.
func TestTimings(t *testing.T) {
	newAPI(t, nil)
	file := filepath.Join(t.TempDir(), "timings")
	access := &Access{Region: "us-east-1"}
	session := func() *Session {
		s, err := NewShared(Options{Guard: LoopbackOnly, TimingsFile: file}).Connect(t.Context(), access)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := session()
	looks := 0
	look := func(context.Context) (bool, string, error) { looks++; return looks >= 5, "", nil }
	if err := s.Wait(t.Context(), Wait{Pace: fast, Like: "stop"}, look); err != nil {
		t.Fatal(err)
	}
	took := s.shared.expected("stop")
	if took.Took <= 0 || took.Spread <= 0 || s.shared.expected("start") != (timing{}) || s.shared.expected("") != (timing{}) {
		t.Errorf("learned %v", took)
	}
	if again := session().shared.expected("stop"); again != took {
		t.Errorf("the next process expects %v, want %v", again, took)
	}
	// The mean follows.
	s.shared.learn("stop", 3*took.Took, 3*took.Took)
	if e, want := s.shared.expected("stop"), (timing{2 * took.Took, took.Took}); e != want {
		t.Errorf("after %v and three times that it expects %v, want %v", took, e, want)
	}
	// What was learned is no look: it only says when to look.
	s.shared.learn("slow", time.Hour, time.Hour)
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	patient := fast
	patient.Cap = time.Hour
	if err := s.Wait(ctx, Wait{Pace: patient, Like: "slow"}, func(context.Context) (bool, string, error) { t.Error("it looks at once"); return true, "", nil }); err == nil {
		t.Errorf("no error after %v", time.Since(start))
	}
	for _, broken := range []string{"{", `{"stop":-1}`, `{"stop":{"Took":-1}}`, `{"stop":{"Took":7200000000001}}`, `{"stop":{"Took":1,"Spread":-1}}`, "[]"} {
		if err := os.WriteFile(file, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if e := session().shared.expected("stop"); e != (timing{}) {
			t.Errorf("from %s it expects %v", broken, e)
		}
	}
}
