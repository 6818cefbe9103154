package amazon

import (
	"context"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/ingotbuild/ingot/datasources"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/config"
	"github.com/zclconf/go-cty/cty"
)

// ParameterStoreOptions are the options of a `data "amazon-parameterstore"`
// block. It gives the attributes `value`, `version` and `arn`. The value of a
// SecureString is not shown in what Ingot prints.
type ParameterStoreOptions struct {
	awscloud.Access
	// Name or ARN of the parameter; ":3" or ":label" behind it means that version.
	Name string `cfg:"name,required"`
	// WithDecryption decrypts a SecureString. Without it, its value is the encrypted text.
	WithDecryption bool `cfg:"with_decryption"`
}

// ParameterStore is the amazon-parameterstore data source.
type ParameterStore struct {
	o       ParameterStoreOptions
	shared  *awscloud.Shared
	secrets []string
}

// NewParameterStore returns an amazon-parameterstore data source.
func NewParameterStore(shared *awscloud.Shared) *ParameterStore {
	return &ParameterStore{shared: shared}
}

var _ datasources.Secretive = (*ParameterStore)(nil)

// Options implements datasources.Source.
func (s *ParameterStore) Options() any { return &s.o }

// Type implements datasources.Source.
func (s *ParameterStore) Type() cty.Type { return stringsOf("value", "version", "arn") }

// Check implements datasources.Source.
func (s *ParameterStore) Check() []config.Problem {
	problems := s.o.Access.Check()
	if s.o.Name == "" {
		problems = append(problems, config.Problem{Option: "name", Summary: "name is empty", Detail: "Give the parameter's name, such as /golden/base."})
	}
	return problems
}

// Secrets implements datasources.Secretive.
func (s *ParameterStore) Secrets() []string { return s.secrets }

// Read implements datasources.Source.
func (s *ParameterStore) Read(ctx context.Context) (cty.Value, error) {
	session, err := s.shared.Connect(ctx, &s.o.Access)
	if err != nil {
		return cty.NilVal, err
	}
	out, err := session.SSM("").GetParameter(ctx, &ssm.GetParameterInput{Name: &s.o.Name, WithDecryption: &s.o.WithDecryption})
	if err != nil {
		return cty.NilVal, fmt.Errorf("the parameter %s in %s: %w", s.o.Name, session.Region, awscloud.Explain(err))
	}
	p := out.Parameter
	if p == nil || p.Value == nil {
		return cty.NilVal, fmt.Errorf("the parameter %s in %s has no value", s.o.Name, session.Region)
	}
	if p.Type == types.ParameterTypeSecureString {
		s.secrets = []string{aws.ToString(p.Value)}
	}
	return cty.ObjectVal(map[string]cty.Value{"value": text(p.Value), "version": cty.StringVal(fmt.Sprint(p.Version)), "arn": text(p.ARN)}), nil
}
