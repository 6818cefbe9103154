package amazon

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/ingotbuild/ingot/datasources"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
)

// SecretsManagerOptions are the options of a `data "amazon-secretsmanager"`
// block. It gives the attributes `value`, `secret_string`, `secret_binary` (as
// text where it is UTF-8, else in base64) and `version_id`. None of the secret
// is shown in what Ingot prints.
//
// `value` is one member of a secret that is an object of JSON: that of key; the
// only one where key is left out; null where there are several. Of a secret that
// is no such object it is the text.
type SecretsManagerOptions struct {
	awscloud.Access
	// Name or ARN of the secret.
	Name string `cfg:"name,required"`
	// Key is the member of the object that value is.
	Key string `cfg:"key"`
	// VersionID of the secret. Default: the one that VersionStage names.
	VersionID string `cfg:"version_id"`
	// VersionStage is a label of a version.
	VersionStage string `cfg:"version_stage"`
}

// SecretsManager is the amazon-secretsmanager data source.
type SecretsManager struct {
	o       SecretsManagerOptions
	shared  *awscloud.Shared
	secrets []string
}

// NewSecretsManager returns an amazon-secretsmanager data source that reads the
// current version.
func NewSecretsManager(shared *awscloud.Shared) *SecretsManager {
	return &SecretsManager{shared: shared, o: SecretsManagerOptions{VersionStage: current}}
}

const current = "AWSCURRENT"

var _ datasources.Secretive = (*SecretsManager)(nil)

// Options implements datasources.Source.
func (s *SecretsManager) Options() any { return &s.o }

// Type implements datasources.Source.
func (s *SecretsManager) Type() cty.Type {
	return stringsOf("value", "secret_string", "secret_binary", "version_id")
}

// Check implements datasources.Source.
func (s *SecretsManager) Check() []config.Problem {
	problems := s.o.Access.Check()
	if s.o.Name == "" {
		problems = append(problems, config.Problem{Option: "name", Summary: "name is empty", Detail: "Give the secret's name or ARN."})
	}
	return problems
}

// Secrets implements datasources.Secretive.
func (s *SecretsManager) Secrets() []string { return s.secrets }

// Read implements datasources.Source.
func (s *SecretsManager) Read(ctx context.Context) (cty.Value, error) {
	session, err := s.shared.Connect(ctx, &s.o.Access)
	if err != nil {
		return cty.NilVal, err
	}
	in := &secretsmanager.GetSecretValueInput{SecretId: &s.o.Name}
	if s.o.VersionID != "" {
		in.VersionId = &s.o.VersionID
	}
	// The default is not asked for beside a version, which may have another label, or none.
	if stage := cmp.Or(s.o.VersionStage, current); s.o.VersionID == "" || stage != current {
		in.VersionStage = &stage
	}
	out, err := session.SecretsManager("").GetSecretValue(ctx, in)
	if err != nil {
		return cty.NilVal, fmt.Errorf("the secret %s in %s: %w", s.o.Name, session.Region, awscloud.Explain(err))
	}
	binary := string(out.SecretBinary)
	if !utf8.ValidString(binary) {
		binary = base64.StdEncoding.EncodeToString(out.SecretBinary)
	}
	s.secrets = []string{aws.ToString(out.SecretString), binary}
	value, err := s.value(aws.ToString(out.SecretString))
	if err != nil {
		return cty.NilVal, fmt.Errorf("the secret %s in %s %w", s.o.Name, session.Region, err)
	}
	return cty.ObjectVal(map[string]cty.Value{
		"value": value, "secret_string": text(out.SecretString), "secret_binary": cty.StringVal(binary), "version_id": text(out.VersionId),
	}), nil
}

// value is the member of the secret that is asked for, and remembers what of it is secret.
func (s *SecretsManager) value(secret string) (cty.Value, error) {
	members, ok := object(secret)
	if !ok {
		if s.o.Key != "" {
			return cty.NilVal, fmt.Errorf("is no object of JSON, and so has no key %q", s.o.Key)
		}
		return cty.StringVal(secret), nil
	}
	for _, v := range members {
		s.remember(v)
	}
	names := slices.Sorted(maps.Keys(members))
	key := s.o.Key
	if key == "" {
		if len(names) != 1 {
			return cty.NullVal(cty.String), nil
		}
		key = names[0]
	}
	v, ok := members[key]
	if !ok {
		return cty.NilVal, fmt.Errorf("has no key %q, only %s", key, strings.Join(names, ", "))
	}
	t, err := plain(v)
	if err != nil {
		return cty.NilVal, fmt.Errorf("cannot be read at the key %q: %w", key, err)
	}
	return cty.StringVal(t), nil
}

// remember keeps every text and number in v as a secret.
func (s *SecretsManager) remember(v any) {
	switch v := v.(type) {
	case map[string]any:
		for _, m := range v {
			s.remember(m)
		}
	case []any:
		for _, m := range v {
			s.remember(m)
		}
	case string:
		s.secrets = append(s.secrets, v)
	case json.Number:
		s.secrets = append(s.secrets, v.String())
	}
}

// object reads an object of JSON and nothing behind it.
func object(s string) (map[string]any, bool) {
	var members map[string]any
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	if d.Decode(&members) != nil || members == nil {
		return nil, false
	}
	_, err := d.Token()
	return members, errors.Is(err, io.EOF)
}

// plain is a value of JSON as text: strings as they are, everything else as JSON.
func plain(v any) (string, error) {
	if s, ok := v.(string); ok {
		return s, nil
	}
	b, err := json.Marshal(v)
	return string(b), err
}
