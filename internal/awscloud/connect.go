package awscloud

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go/logging"
	"golang.org/x/sync/singleflight"
)

// Shared is what the bakes of one process share, so that fifty of them ask the
// cloud no more than they must: connections, credentials, looks at many
// resources in one call, and the pace that throttling asks for.
type Shared struct {
	o Options

	flight   singleflight.Group
	mu       sync.Mutex
	sessions map[string]*Session
	timings  map[string]timing // nil: not read yet
}

// Options of what one process shares.
type Options struct {
	// Guard may refuse an address before it is connected to. Nil refuses none.
	Guard func(netip.AddrPort) error
	// AnswerTimeout is how long one try of a call waits for its answer to
	// begin. Default: one minute.
	AnswerTimeout time.Duration
	// Speed is how much faster than Amazon's the cloud is, for one that is
	// emulated: looks come so much sooner. Default: 1.
	Speed float64
	// TimingsFile remembers how long the cloud takes for what, for the next
	// process: it then looks when something is about to be done. "": nothing is
	// remembered.
	TimingsFile string
}

// NewShared makes what one process shares.
func NewShared(o Options) *Shared {
	if o.AnswerTimeout == 0 {
		o.AnswerTimeout = time.Minute
	}
	return &Shared{o: o, sessions: map[string]*Session{}}
}

// Admit says whether the guard lets the address be connected to.
func (s *Shared) Admit(a netip.AddrPort) error {
	if s.o.Guard == nil {
		return nil
	}
	return s.o.Guard(a)
}

// LoopbackOnly is a guard for tests: nothing but this host is connected to.
func LoopbackOnly(a netip.AddrPort) error {
	if !a.Addr().Unmap().IsLoopback() {
		return fmt.Errorf("a test may connect to loopback addresses only, not to %s", a)
	}
	return nil
}

// Session is one account, reached in one way.
type Session struct {
	// Region is the region of the options, or the default one.
	Region string
	// Account and ARN are who the credentials are; empty with
	// skip_credential_validation.
	Account, ARN string
	// Notes are what the user should know of how the account is reached.
	Notes []string

	shared  *Shared
	access  Access
	cfg     aws.Config
	polling polling

	mu      sync.Mutex
	configs map[string]aws.Config // by region
	clients map[string]any        // by service and region
	batches map[string]any        // by kind and region
}

// Connect finds the credentials and the region, and asks who they are. The same
// options give the same session.
func (s *Shared) Connect(ctx context.Context, a *Access) (*Session, error) {
	text, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	key := hex.EncodeToString(sum[:])
	for {
		s.mu.Lock()
		have := s.sessions[key]
		s.mu.Unlock()
		if have != nil {
			return have, nil
		}
		done := s.flight.DoChan(key, func() (any, error) {
			made, err := s.connect(ctx, *a)
			if err == nil {
				s.mu.Lock()
				s.sessions[key] = made
				s.mu.Unlock()
			}
			return made, err
		})
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case r := <-done:
			if r.Err == nil {
				return r.Val.(*Session), nil
			}
			// Another bake began it, and was cancelled.
			if errors.Is(r.Err, context.Canceled) && ctx.Err() == nil {
				continue
			}
			return nil, r.Err
		}
	}
}

const defaultRetries = 10

func (s *Shared) connect(ctx context.Context, a Access) (*Session, error) {
	polling, err := readPolling(a.AWSPolling, os.Getenv)
	if err != nil {
		return nil, err
	}
	attempts := a.MaxRetries + 1
	if a.MaxRetries == 0 {
		attempts = defaultRetries + 1
	}
	standard := func(o *retry.StandardOptions) {
		o.MaxAttempts, o.MaxBackoff = attempts, 20*time.Second
		// The attempts are the bound; a budget for all would make fifty bakes fail for one.
		o.RateLimiter = ratelimit.None
	}
	// One retryer for each session and region: when one bake is throttled, all slow down.
	retryer := func() aws.Retryer {
		return retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) { o.StandardOptions = append(o.StandardOptions, standard) })
	}
	if s.o.Speed > 1 { // how slowly adaptive calls come does not follow the speed of an emulated cloud
		retryer = func() aws.Retryer {
			return retry.NewStandard(standard, func(o *retry.StandardOptions) { o.MaxBackoff = time.Duration(float64(o.MaxBackoff) / s.o.Speed) })
		}
	}
	client := awshttp.NewBuildableClient().WithDialerOptions(func(d *net.Dialer) {
		d.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return s.Admit(ap)
		}
	}).WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConnsPerHost = 32
		t.ResponseHeaderTimeout = s.o.AnswerTimeout
		if a.InsecureSkipTLSVerify {
			if t.TLSClientConfig == nil {
				t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
			}
			t.TLSClientConfig.InsecureSkipVerify = true
		}
	})
	session := &Session{
		shared: s, access: a, polling: polling,
		configs: map[string]aws.Config{}, clients: map[string]any{}, batches: map[string]any{},
	}
	options := []func(*awsconfig.LoadOptions) error{
		awsconfig.WithHTTPClient(client),
		awsconfig.WithRetryer(retryer),
		// AWS_MAX_ATTEMPTS bounds our waits, and not the tries of the SDK, which would read it too.
		awsconfig.WithRetryMaxAttempts(attempts),
		awsconfig.WithAppID("ingot"),
		awsconfig.WithLogger(logging.Nop{}), // it writes to the terminal that a report is drawn on
		awsconfig.WithAssumeRoleCredentialOptions(func(o *stscreds.AssumeRoleOptions) {
			o.TokenProvider = func() (string, error) {
				if a.MFACode == "" {
					return "", errors.New("the profile asks for the code of an MFA device: give it as mfa_code, as a variable")
				}
				return a.MFACode, nil
			}
		}),
	}
	if a.Region != "" {
		options = append(options, awsconfig.WithRegion(a.Region))
	}
	if a.SharedCredentialsFile != "" {
		options = append(options, awsconfig.WithSharedCredentialsFiles([]string{a.SharedCredentialsFile}))
	}
	if a.SkipMetadataAPICheck {
		options = append(options, awsconfig.WithEC2IMDSClientEnableState(imds.ClientDisabled))
	}
	switch {
	case a.AccessKey != "":
		options = append(options, awsconfig.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(a.AccessKey, a.SecretKey, a.Token)))
	case a.VaultAWSEngine != nil:
		keys, err := askVault(ctx, a.VaultAWSEngine, os.Getenv, s.Admit)
		if err != nil {
			return nil, fmt.Errorf("vault_aws_engine: %w", err)
		}
		options = append(options, awsconfig.WithCredentialsProvider(keys))
	case a.Profile != "":
		options = append(options, awsconfig.WithSharedConfigProfile(a.Profile))
		if os.Getenv("AWS_ACCESS_KEY_ID") != "" {
			session.Notes = append(session.Notes, fmt.Sprintf("The profile %q is used, and not the credentials in the environment.", a.Profile))
		}
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx, options...)
	if err != nil {
		var missing awsconfig.SharedConfigProfileNotExistError
		if errors.As(err, &missing) {
			return nil, fmt.Errorf("there is no AWS profile %q in the shared files: %w", missing.Profile, err)
		}
		return nil, fmt.Errorf("read the AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		return nil, errors.New("no AWS region is known: give region, set AWS_REGION, or give the profile one")
	}
	session.Region, session.cfg = cfg.Region, cfg
	if r := a.AssumeRole; r != nil {
		session.cfg.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), r.RoleARN, r.options))
	}
	if a.DecodeAuthorizationMessages {
		session.cfg.APIOptions = append(session.cfg.APIOptions, decoder(sts.NewFromConfig(session.cfg)))
	}
	if a.SkipCredentialValidation {
		return session, nil
	}
	return session, session.identify(ctx)
}

// identify asks who the credentials are.
func (s *Session) identify(ctx context.Context) error {
	// Keys that Vault has just made take a while until all of AWS knows them.
	patience := time.Duration(0)
	if s.access.VaultAWSEngine != nil {
		patience = 2 * time.Minute
	}
	var who *sts.GetCallerIdentityOutput
	err := s.Wait(ctx, Wait{What: "the credentials that Vault made to be known", Timeout: patience, First: -1}, func(ctx context.Context) (bool, string, error) {
		var err error
		who, err = s.STS().GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
		if code := Code(err); patience > 0 && (code == "InvalidClientTokenId" || code == "AuthFailure") {
			return false, code, nil
		}
		return err == nil, "", err
	})
	if err != nil {
		return fmt.Errorf("the AWS credentials cannot be used in region %s: %w", s.Region, Explain(err))
	}
	s.Account, s.ARN = aws.ToString(who.Account), aws.ToString(who.Arn)
	return nil
}

func (r *AssumeRole) options(o *stscreds.AssumeRoleOptions) {
	o.Duration = time.Duration(r.DurationSeconds) * time.Second
	o.RoleSessionName = r.SessionName
	if o.RoleSessionName == "" {
		o.RoleSessionName = fmt.Sprintf("ingot-%d", time.Now().Unix())
	}
	if r.ExternalID != "" {
		o.ExternalID = &r.ExternalID
	}
	if r.Policy != "" {
		o.Policy = &r.Policy
	}
	for _, arn := range r.PolicyARNs {
		o.PolicyARNs = append(o.PolicyARNs, ststypes.PolicyDescriptorType{Arn: aws.String(arn)})
	}
	for k, v := range r.Tags {
		o.Tags = append(o.Tags, ststypes.Tag{Key: aws.String(k), Value: aws.String(v)})
	}
	o.TransitiveTagKeys = r.TransitiveTagKeys
}

// Admit says whether the guard lets the address be connected to.
func (s *Session) Admit(a netip.AddrPort) error { return s.shared.Admit(a) }

// Endpoint is the URL that the EC2 API of the session's region is reached at
// where it is not Amazon's own, and otherwise empty.
func (s *Session) Endpoint() string {
	if s.access.CustomEndpointEC2 != "" {
		return s.access.CustomEndpointEC2
	}
	return aws.ToString(s.EC2("").Options().BaseEndpoint)
}

// config is the configuration for a region; "" is the session's.
func (s *Session) config(region string) aws.Config {
	c, ok := s.configs[region]
	if !ok {
		c = s.cfg.Copy()
		c.Region = region
		r := c.Retryer()
		c.Retryer = func() aws.Retryer { return r }
		s.configs[region] = c
	}
	return c
}

// client makes the client of a service in a region once.
func client[T any](s *Session, service, region string, make func(aws.Config) T) T {
	if region == "" {
		region = s.Region
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := service + " " + region
	if c, ok := s.clients[key].(T); ok {
		return c
	}
	c := make(s.config(region))
	s.clients[key] = c
	return c
}

// EC2 is the client of a region; "" is the session's own.
func (s *Session) EC2(region string) *ec2.Client {
	return client(s, "ec2", region, func(c aws.Config) *ec2.Client {
		return ec2.NewFromConfig(c, func(o *ec2.Options) {
			if e := s.access.CustomEndpointEC2; e != "" {
				if u := strings.Replace(e, s.Region, c.Region, 1); c.Region != s.Region {
					e = u
				}
				o.BaseEndpoint = &e
			}
		})
	})
}

// IMDS is the metadata service of the instance that this host is, if it is one.
// AWS_EC2_METADATA_SERVICE_ENDPOINT and AWS_EC2_METADATA_DISABLED count.
func (s *Session) IMDS() *imds.Client {
	return client(s, "imds", "", func(c aws.Config) *imds.Client {
		// On an instance it answers at once; elsewhere it never does.
		return imds.NewFromConfig(c, func(o *imds.Options) {
			o.Retryer = retry.NewStandard(func(so *retry.StandardOptions) { so.MaxAttempts = 3 })
		})
	})
}

// STS is the client of the session's region.
func (s *Session) STS() *sts.Client {
	return client(s, "sts", "", func(c aws.Config) *sts.Client { return sts.NewFromConfig(c) })
}

// IAM is the client of the service, which has no regions.
func (s *Session) IAM() *iam.Client {
	return client(s, "iam", "", func(c aws.Config) *iam.Client { return iam.NewFromConfig(c) })
}

// SSM is the client of a region.
func (s *Session) SSM(region string) *ssm.Client {
	return client(s, "ssm", region, func(c aws.Config) *ssm.Client { return ssm.NewFromConfig(c) })
}

// KMS is the client of a region.
func (s *Session) KMS(region string) *kms.Client {
	return client(s, "kms", region, func(c aws.Config) *kms.Client { return kms.NewFromConfig(c) })
}

// S3 is the client of a region. An endpoint that is not Amazon's is addressed by path.
func (s *Session) S3(region string) *s3.Client {
	return client(s, "s3", region, func(c aws.Config) *s3.Client {
		return s3.NewFromConfig(c, func(o *s3.Options) { o.UsePathStyle = o.BaseEndpoint != nil || c.BaseEndpoint != nil })
	})
}

// SecretsManager is the client of a region.
func (s *Session) SecretsManager(region string) *secretsmanager.Client {
	return client(s, "secretsmanager", region, func(c aws.Config) *secretsmanager.Client { return secretsmanager.NewFromConfig(c) })
}

// ServiceQuotas is the client of a region. It has a pace of its own: the service
// takes few calls a second, and what it throttles is to slow nothing else.
func (s *Session) ServiceQuotas(region string) *servicequotas.Client {
	return client(s, "servicequotas", region, func(c aws.Config) *servicequotas.Client {
		return servicequotas.NewFromConfig(c, func(o *servicequotas.Options) {
			o.Retryer = retry.NewStandard(func(so *retry.StandardOptions) { so.MaxAttempts, so.MaxBackoff = 3, 2*time.Second })
		})
	})
}
