package docker

import (
	"fmt"
	"net/url"
	"os"

	"github.com/docker/cli/cli/config"
	endpoint "github.com/docker/cli/cli/context/docker"
	"github.com/docker/cli/cli/context/store"
	"github.com/moby/moby/client"
)

// connect finds the engine as the docker command does, and says its address.
func connect(host string) (*client.Client, string, error) {
	opts, err := options(host)
	if err != nil {
		return nil, "", err
	}
	cli, err := client.New(opts...)
	if err != nil {
		return nil, "", fmt.Errorf("address of the Docker engine: %w", err)
	}
	address := cli.DaemonHost()
	if host == "" {
		host = os.Getenv(client.EnvOverrideHost)
	}
	if host != "" {
		address = host
	}
	if u, err := url.Parse(address); err == nil {
		address = u.Redacted()
	}
	return cli, address, nil
}

func options(host string) ([]client.Opt, error) {
	if host == "" {
		host = os.Getenv(client.EnvOverrideHost)
	}
	if host != "" {
		e := endpoint.Endpoint{EndpointMeta: endpoint.EndpointMeta{Host: host}}
		opts, err := e.ClientOpts() // knows ssh://
		if err != nil {
			return nil, fmt.Errorf("address of the Docker engine: %w", err)
		}
		if u, err := url.Parse(host); err == nil && u.Scheme == "tcp" {
			opts = append([]client.Opt{client.WithTLSClientConfigFromEnv()}, opts...)
		}
		return opts, nil
	}
	name := os.Getenv("DOCKER_CONTEXT")
	if name == "" {
		cfg, err := config.Load(config.Dir())
		if err != nil {
			return nil, fmt.Errorf("docker's configuration: %w", err)
		}
		name = cfg.CurrentContext
	}
	if name == "" || name == "default" {
		return []client.Opt{client.FromEnv}, nil
	}
	wrong := func(err error) error {
		return fmt.Errorf("docker context %q: %w: look with docker context ls, or set DOCKER_HOST", name, err)
	}
	s := store.New(config.ContextStoreDir(), store.NewConfig(func() any { return &map[string]any{} },
		store.EndpointTypeGetter(endpoint.DockerEndpoint, func() any { return &endpoint.EndpointMeta{} })))
	meta, err := s.GetMetadata(name)
	if err != nil {
		return nil, wrong(err)
	}
	em, err := endpoint.EndpointFromContext(meta)
	if err != nil {
		return nil, wrong(err)
	}
	e, err := endpoint.WithTLSData(s, name, em)
	if err != nil {
		return nil, wrong(err)
	}
	opts, err := e.ClientOpts()
	if err != nil {
		return nil, wrong(err)
	}
	return opts, nil
}
