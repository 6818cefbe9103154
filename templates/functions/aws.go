package functions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
)

// awsRaw reads a secret of AWS Secrets Manager with the credentials, the
// region and the endpoint that every AWS tool finds.
func awsRaw(ctx context.Context, args []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return "", fmt.Errorf("read the AWS configuration: %w", err)
	}
	if cfg.Region == "" {
		return "", errors.New("no AWS region is set; set AWS_REGION, or a region in the AWS profile")
	}
	out, err := secretsmanager.NewFromConfig(cfg).GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &args[0]})
	if err != nil {
		return "", err
	}
	if out.SecretString == nil {
		return "", fmt.Errorf("the secret %q holds bytes and no text", args[0])
	}
	return *out.SecretString, nil
}

// awsSecret reads one value of a secret that is an object of JSON. Without a
// key it is the only value, or the text of a secret that is no object.
func awsSecret(ctx context.Context, args []string) (string, error) {
	name, key := args[0], args[1]
	text, err := awsRaw(ctx, args[:1])
	if err != nil {
		return "", err
	}
	var values map[string]any
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if d.Decode(&values) != nil || values == nil {
		if key != "" {
			return "", fmt.Errorf("the secret %q is plain text and has no key %q; give null for the key", name, key)
		}
		return text, nil
	}
	names := slices.Sorted(maps.Keys(values))
	if key == "" {
		if len(names) != 1 {
			return "", fmt.Errorf("the secret %q has the keys %s; give one of them", name, strings.Join(names, ", "))
		}
		key = names[0]
	}
	v, ok := values[key]
	if !ok {
		return "", fmt.Errorf("the secret %q has no key %q, only %s", name, key, strings.Join(names, ", "))
	}
	return plain(v)
}
