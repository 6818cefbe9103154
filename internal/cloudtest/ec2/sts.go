//go:build linux

package ec2

import (
	"regexp"
	"strings"
	"time"
)

func stsOperations() map[string]operation {
	return map[string]operation{"GetCallerIdentity": op((*call).getCallerIdentity), "AssumeRole": op((*call).assumeRole), "DecodeAuthorizationMessage": op((*call).decodeAuthorizationMessage),
		"GetSessionToken": op((*call).getSessionToken)}
}

type callerIdentity struct {
	Arn     string
	UserID  string `xml:"UserId"`
	Account string
}

func (k *call) getCallerIdentity(*none) (*callerIdentity, error) {
	return &callerIdentity{k.caller, "AIDAINGOTEMULATOR000", k.account}, nil
}

type assumeRoleRequest struct {
	RoleArn, RoleSessionName, ExternalId, Policy, SerialNumber, TokenCode, SourceIdentity string //nolint:revive // as the parameter is called
	DurationSeconds                                                                       *int64
	PolicyArns                                                                            []struct {
		Arn string `json:"arn"`
	}
	Tags              []tag
	TransitiveTagKeys []string
	ProvidedContexts  []struct{ ProviderArn, ContextAssertion string }
}

type credentials struct {
	AccessKeyID     string `xml:"AccessKeyId"`
	SecretAccessKey string
	SessionToken    string
	Expiration      string
}

type assumeRoleResponse struct {
	Credentials     credentials
	AssumedRoleUser struct {
		AssumedRoleID string `xml:"AssumedRoleId"`
		Arn           string
	}
}

var roleARN = regexp.MustCompile(`^arn:aws:iam::([0-9]{12}):role/(.+)$`)

// assumeRole gives out keys of any role of any account: the emulator reads no policies.
func (k *call) assumeRole(in *assumeRoleRequest) (*assumeRoleResponse, error) {
	m := roleARN.FindStringSubmatch(in.RoleArn)
	switch {
	case m == nil:
		return nil, fail("ValidationError", "%s is invalid", in.RoleArn)
	case !iamName.MatchString(in.RoleSessionName) || len(in.RoleSessionName) > 64 || len(in.RoleSessionName) < 2:
		return nil, fail("ValidationError", "1 validation error detected: Value '%s' at 'roleSessionName' failed to satisfy constraint", in.RoleSessionName)
	}
	seconds := intOr(in.DurationSeconds, 3600)
	if seconds < 900 || seconds > 43200 {
		return nil, fail("ValidationError", "The requested DurationSeconds %d is not between 900 and 43200", seconds)
	}
	name := m[2][strings.LastIndex(m[2], "/")+1:]
	out := &assumeRoleResponse{Credentials: k.issue(m[1], "arn:aws:sts::"+m[1]+":assumed-role/"+name+"/"+in.RoleSessionName, time.Duration(seconds)*time.Second)}
	out.AssumedRoleUser.Arn = k.keys[out.Credentials.AccessKeyID].arn
	out.AssumedRoleUser.AssumedRoleID = "AROA" + strings.ToUpper(randomHex(17)) + ":" + in.RoleSessionName
	return out, nil
}

func (c *Cloud) issue(account, arn string, d time.Duration) credentials {
	k := credentials{"ASIA" + strings.ToUpper(randomHex(16)), randomHex(40), randomHex(64), c.now().Add(d).UTC().Format(time.RFC3339)}
	c.keys[k.AccessKeyID] = identity{account, arn, k.SecretAccessKey}
	return k
}

type sessionTokenRequest struct {
	DurationSeconds         *int64
	SerialNumber, TokenCode string
}

type sessionTokenResponse struct{ Credentials credentials }

func (k *call) getSessionToken(*sessionTokenRequest) (*sessionTokenResponse, error) {
	return &sessionTokenResponse{k.issue(k.account, k.caller, 12*time.Hour)}, nil
}

type decodeRequest struct{ EncodedMessage string }

type decodeResponse struct{ DecodedMessage string }

func (k *call) decodeAuthorizationMessage(in *decodeRequest) (*decodeResponse, error) {
	m, ok := k.messages[in.EncodedMessage]
	if !ok {
		return nil, fail("InvalidAuthorizationMessageException", "The message is invalid")
	}
	return &decodeResponse{m}, nil
}
