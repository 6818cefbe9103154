// Package awscloud is what everything that talks to Amazon's API shares: how an
// account is reached, the clients of each region, how long and how often to
// wait, and what the errors mean.
package awscloud

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
)

// Access are the options that say which account is used, and how it is
// reached. Components embed them. The credentials are, in this order:
// access_key and secret_key; vault_aws_engine; profile; what every AWS tool
// finds (the environment, the shared files and SSO, a web identity, the
// container's, the instance's). A role is assumed with them.
type Access struct {
	// AccessKey and SecretKey are credentials. Better leave them to the environment.
	AccessKey string `cfg:"access_key"`
	SecretKey string `cfg:"secret_key"`
	// Token is the session token that belongs to temporary credentials.
	Token string `cfg:"token"`
	// Profile of the shared files. It goes before credentials in the environment.
	Profile string `cfg:"profile"`
	// Region to work in. Default: AWS_REGION, AWS_DEFAULT_REGION, or the profile's.
	Region string `cfg:"region"`
	// SharedCredentialsFile is read in place of ~/.aws/credentials.
	SharedCredentialsFile string `cfg:"shared_credentials_file"`
	// AssumeRole is a role that is taken on with the credentials.
	AssumeRole *AssumeRole `cfg:"assume_role,block"`
	// MFACode is the code of the device that a profile names with mfa_serial. It
	// serves once: when the role's credentials end, the bake ends.
	MFACode string `cfg:"mfa_code"`
	// CustomEndpointEC2 is the URL of the EC2 API, for every region; where the
	// name of Region is in its host, that of another region takes its place.
	CustomEndpointEC2 string `cfg:"custom_endpoint_ec2"`
	// InsecureSkipTLSVerify accepts any certificate of the API. Who is in
	// between can then read and change everything.
	InsecureSkipTLSVerify bool `cfg:"insecure_skip_tls_verify"`
	// MaxRetries is how often a call is made again when the API was throttled
	// or did not answer. Default: 10.
	MaxRetries int `cfg:"max_retries"`
	// DecodeAuthorizationMessages asks STS what a denied call was denied for,
	// which needs sts:DecodeAuthorizationMessage.
	DecodeAuthorizationMessages bool `cfg:"decode_authorization_messages"`
	// SkipMetadataAPICheck does not look for credentials in the metadata of the
	// instance that this may run on.
	SkipMetadataAPICheck bool `cfg:"skip_metadata_api_check"`
	// SkipCredentialValidation does not ask STS first who the credentials are.
	SkipCredentialValidation bool `cfg:"skip_credential_validation"`
	// VaultAWSEngine has Vault make the credentials.
	VaultAWSEngine *VaultEngine `cfg:"vault_aws_engine,block"`
	// AWSPolling says how long and how often to wait for the cloud.
	AWSPolling *Polling `cfg:"aws_polling,block"`
}

// AssumeRole is the role that is taken on.
type AssumeRole struct {
	// RoleARN of the role.
	RoleARN string `cfg:"role_arn"`
	// DurationSeconds is how long its credentials hold; they are renewed in
	// time. Default: 900.
	DurationSeconds int `cfg:"duration_seconds"`
	// ExternalID that the role asks for.
	ExternalID string `cfg:"external_id"`
	// Policy, as JSON, that restricts the session further.
	Policy string `cfg:"policy"`
	// PolicyARNs of managed policies that do so.
	PolicyARNs []string `cfg:"policy_arns"`
	// SessionName in the account's records. Default: one that has the time in it.
	SessionName string `cfg:"session_name"`
	// Tags of the session.
	Tags map[string]string `cfg:"tags"`
	// TransitiveTagKeys are the tags that sessions of further roles keep.
	TransitiveTagKeys []string `cfg:"transitive_tag_keys"`
}

// VaultEngine is an AWS secrets engine of Vault, at VAULT_ADDR with
// VAULT_TOKEN; VAULT_NAMESPACE and VAULT_CACERT count too.
type VaultEngine struct {
	// Name of the role in the engine.
	Name string `cfg:"name,required"`
	// EngineName is where the engine is mounted. Default: "aws".
	EngineName string `cfg:"engine_name"`
	// RoleARN of the role to assume, where the engine's role has several.
	RoleARN string `cfg:"role_arn"`
	// TTL of the credentials, such as "3600s". They are not renewed.
	TTL string `cfg:"ttl"`
}

// Polling bounds the waits. Left out, AWS_POLL_DELAY_SECONDS, AWS_MAX_ATTEMPTS
// and AWS_TIMEOUT_SECONDS of the environment say the same; AWS_TIMEOUT_SECONDS
// bounds each wait by itself, and not where AWS_MAX_ATTEMPTS is set.
type Polling struct {
	// DelaySeconds is the longest time between two looks. Default: Ingot looks
	// early and often at first, and at last every 10 seconds, or 15 for images.
	DelaySeconds int `cfg:"delay_seconds"`
	// MaxAttempts, times DelaySeconds, is how long to wait, as before version
	// 1.8 of Packer's plugin: the delay counts as 15 seconds when it is not
	// set, so that 240 means one hour. Default: 10 minutes for instances and
	// volumes, two hours for images, copies and snapshots.
	MaxAttempts int `cfg:"max_attempts"`
}

// Check reports everything wrong with the options.
func (a *Access) Check() []config.Problem {
	var ps []config.Problem
	add := func(option, summary, detail string) {
		ps = append(ps, config.Problem{Option: option, Summary: summary, Detail: detail})
	}
	switch {
	case a.AccessKey != "" && a.SecretKey == "":
		add("access_key", "access_key is given without secret_key", "Give both, or leave both out: the environment and the profile are read too.")
	case a.AccessKey == "" && a.SecretKey != "":
		add("secret_key", "secret_key is given without access_key", "Give both, or leave both out: the environment and the profile are read too.")
	}
	if a.Token != "" && a.AccessKey == "" {
		add("token", "token is given without access_key", "A session token belongs to the keys it came with.")
	}
	if r := a.AssumeRole; r != nil {
		if r.RoleARN == "" {
			add("assume_role.role_arn", "assume_role has no role_arn", "Give the ARN of the role, arn:aws:iam::ACCOUNT:role/NAME.")
		}
		if r.DurationSeconds != 0 && (r.DurationSeconds < 900 || r.DurationSeconds > 43200) {
			add("assume_role.duration_seconds", fmt.Sprintf("duration_seconds is %d", r.DurationSeconds), "It can be 900 to 43200.")
		}
	}
	if v := a.VaultAWSEngine; v != nil {
		if a.AccessKey != "" || a.Profile != "" {
			add("vault_aws_engine", "vault_aws_engine is given beside access_key or profile", "The credentials can come from one of them only.")
		}
		if v.TTL != "" {
			if d, err := time.ParseDuration(v.TTL); err != nil || d <= 0 {
				add("vault_aws_engine.ttl", fmt.Sprintf("ttl is %q", v.TTL), `Write it as "3600s" or "1h".`)
			}
		}
	}
	if a.CustomEndpointEC2 != "" {
		if u, err := url.Parse(a.CustomEndpointEC2); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			add("custom_endpoint_ec2", "custom_endpoint_ec2 is no URL", "Write it as https://ec2.example.com.")
		}
	}
	if a.MaxRetries < 0 {
		add("max_retries", "max_retries is negative", "")
	}
	if p := a.AWSPolling; p != nil {
		if p.DelaySeconds < 0 {
			add("aws_polling.delay_seconds", "delay_seconds is negative", "")
		}
		if p.MaxAttempts < 0 {
			add("aws_polling.max_attempts", "max_attempts is negative", "")
		}
	}
	if a.InsecureSkipTLSVerify {
		ps = append(ps, config.Problem{Option: "insecure_skip_tls_verify", Summary: "The API's certificate is not checked", Warning: true,
			Detail: "Who is in between can read the credentials and change every answer."})
	}
	return ps
}

// Public is the account as a ledger may hold it: how to reach it, and no secret.
func (a *Access) Public() string {
	p := *a
	p.AccessKey, p.SecretKey, p.Token, p.MFACode = "", "", "", ""
	p.AWSPolling = nil
	b, err := json.Marshal(p)
	if err != nil {
		return "{}" // a struct of strings always marshals
	}
	return string(b)
}

// ReadPublic reads what Public wrote. Credentials that stood in the template
// are not in it: those of the environment take their place.
func ReadPublic(s string) (*Access, error) {
	a := &Access{}
	if s == "" {
		return a, nil
	}
	if err := json.Unmarshal([]byte(s), a); err != nil {
		return nil, fmt.Errorf("the ledger's note of how to reach the AWS account: %w", err)
	}
	return a, nil
}

// RegionOr is the region of the options, or else another.
func (a *Access) RegionOr(other string) string { return cmp.Or(a.Region, other) }
