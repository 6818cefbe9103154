package main

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ingotbuild/ingot/bake"
	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/builders/amazon"
	"github.com/ingotbuild/ingot/builders/digitalocean"
	filebuilder "github.com/ingotbuild/ingot/builders/file"
	nullbuilder "github.com/ingotbuild/ingot/builders/null"
	boxbuilder "github.com/ingotbuild/ingot/builders/sandbox"
	"github.com/ingotbuild/ingot/datasources"
	dataamazon "github.com/ingotbuild/ingot/datasources/amazon"
	datadigitalocean "github.com/ingotbuild/ingot/datasources/digitalocean"
	datahttp "github.com/ingotbuild/ingot/datasources/http"
	datanull "github.com/ingotbuild/ingot/datasources/null"
	"github.com/ingotbuild/ingot/internal/awscloud"
	"github.com/ingotbuild/ingot/internal/docloud"
	"github.com/ingotbuild/ingot/internal/sandbox"
	"github.com/ingotbuild/ingot/internal/state"
	"github.com/ingotbuild/ingot/postprocessors"
	"github.com/ingotbuild/ingot/postprocessors/amazonimport"
	"github.com/ingotbuild/ingot/postprocessors/checksum"
	"github.com/ingotbuild/ingot/postprocessors/digitaloceanimport"
	"github.com/ingotbuild/ingot/postprocessors/manifest"
	postshell "github.com/ingotbuild/ingot/postprocessors/shelllocal"
	"github.com/ingotbuild/ingot/provisioners"
	"github.com/ingotbuild/ingot/provisioners/ansible"
	"github.com/ingotbuild/ingot/provisioners/ansiblelocal"
	"github.com/ingotbuild/ingot/provisioners/breakpoint"
	"github.com/ingotbuild/ingot/provisioners/chef"
	"github.com/ingotbuild/ingot/provisioners/cloudinit"
	"github.com/ingotbuild/ingot/provisioners/file"
	"github.com/ingotbuild/ingot/provisioners/powershell"
	"github.com/ingotbuild/ingot/provisioners/puppet"
	"github.com/ingotbuild/ingot/provisioners/salt"
	"github.com/ingotbuild/ingot/provisioners/seal"
	"github.com/ingotbuild/ingot/provisioners/shell"
	provshell "github.com/ingotbuild/ingot/provisioners/shelllocal"
	"github.com/ingotbuild/ingot/provisioners/sleep"
	"github.com/ingotbuild/ingot/provisioners/windowsrestart"
	"github.com/ingotbuild/ingot/provisioners/windowsshell"
	"github.com/ingotbuild/ingot/registry"
)

// components is everything that is built in: the one table.
func components() (bake.Components, error) {
	dir, err := state.Path() // nothing is made before something is baked
	if err != nil {
		return bake.Components{}, err
	}
	env := boxbuilder.Env{
		StateDir: dir,
		Resolve:  func(ref string) (string, error) { return resolveImage(context.Background(), ref) },
		Wanted:   wanted,
	}
	versions := new(ansible.Versions)
	clouds := newClouds(filepath.Join(dir, "amazon-timings.json"))
	return bake.Components{
		Builders: map[string]func() builders.Builder{
			"amazon-chroot":       func() builders.Builder { return amazon.NewChroot(clouds.amazon) },
			"amazon-ebssurrogate": func() builders.Builder { return amazon.NewSurrogate(clouds.amazon) },
			"amazon-ebsvolume":    func() builders.Builder { return amazon.NewVolume(clouds.amazon) },
			"amazon-ebs":          func() builders.Builder { return amazon.New(clouds.amazon) },
			"digitalocean":        func() builders.Builder { return digitalocean.New(clouds.digitalocean) },
			"file":                func() builders.Builder { return filebuilder.New() },
			"null":                func() builders.Builder { return nullbuilder.New() },
			"sandbox":             func() builders.Builder { return boxbuilder.New(env) },
		},
		Provisioners: map[string]func() provisioners.Provisioner{
			"ansible":           func() provisioners.Provisioner { return ansible.New(versions) },
			"ansible-local":     func() provisioners.Provisioner { return ansiblelocal.New() },
			"breakpoint":        func() provisioners.Provisioner { return breakpoint.New() },
			"chef-client":       func() provisioners.Provisioner { return chef.NewClient() },
			"chef-solo":         func() provisioners.Provisioner { return chef.NewSolo() },
			"cloud-init":        func() provisioners.Provisioner { return cloudinit.New() },
			"file":              func() provisioners.Provisioner { return file.New() },
			"powershell":        func() provisioners.Provisioner { return powershell.New() },
			"puppet-masterless": func() provisioners.Provisioner { return puppet.NewMasterless() },
			"puppet-server":     func() provisioners.Provisioner { return puppet.NewServer() },
			"salt-masterless":   func() provisioners.Provisioner { return salt.New() },
			"seal":              func() provisioners.Provisioner { return seal.New() },
			"shell":             func() provisioners.Provisioner { return shell.New() },
			"shell-local":       func() provisioners.Provisioner { return provshell.New() },
			"sleep":             func() provisioners.Provisioner { return sleep.New() },
			"windows-restart":   func() provisioners.Provisioner { return windowsrestart.New() },
			"windows-shell":     func() provisioners.Provisioner { return windowsshell.New() },
		},
		PostProcessors: map[string]func() postprocessors.PostProcessor{
			"amazon-import":       func() postprocessors.PostProcessor { return amazonimport.New(clouds.amazon) },
			"digitalocean-import": func() postprocessors.PostProcessor { return digitaloceanimport.New(clouds.digitalocean) },
			"checksum":            func() postprocessors.PostProcessor { return checksum.New() },
			"manifest":            func() postprocessors.PostProcessor { return manifest.New() },
			"shell-local":         func() postprocessors.PostProcessor { return postshell.New() },
		},
	}, nil
}

// sharedClouds is what the components of each cloud share.
type sharedClouds struct {
	amazon       *amazon.Env
	digitalocean *docloud.Shared
}

// newClouds makes what the components of each cloud share; timings is where it
// is kept how long things take there, "" for nowhere.
//
// With INGOT_EMULATED_CLOUD=SPEED the clouds are emulated on this host: what they
// do takes so much less time than really, of Amazon nothing but loopback is
// connected to, and the devices of volumes are in INGOT_EMULATED_DEVICES.
func newClouds(timings string) sharedClouds {
	o, tempo := awscloud.Options{TimingsFile: timings}, docloud.Tempo{}
	text := os.Getenv("INGOT_EMULATED_CLOUD")
	if text == "" {
		return sharedClouds{amazon.NewEnv(awscloud.NewShared(o)), docloud.NewShared(tempo)}
	}
	speed, err := strconv.ParseFloat(text, 64)
	if err != nil || !(speed > 0) {
		speed = 1 // it is loopback that counts
	}
	o.Guard, o.Speed, tempo.Scale = awscloud.LoopbackOnly, speed, speed
	c := sharedClouds{amazon.NewEnv(awscloud.NewShared(o)), docloud.NewShared(tempo)}
	c.amazon.Settle = time.Duration(float64(c.amazon.Settle) / speed)
	c.amazon.DevDir = os.Getenv("INGOT_EMULATED_DEVICES")
	return c
}

// dataSources are the data sources that templates may read.
func dataSources() map[string]func() datasources.Source {
	clouds := newClouds("")
	aws := clouds.amazon.Shared
	return map[string]func() datasources.Source{
		"amazon-ami":            func() datasources.Source { return dataamazon.NewAMI(aws) },
		"amazon-parameterstore": func() datasources.Source { return dataamazon.NewParameterStore(aws) },
		"amazon-secretsmanager": func() datasources.Source { return dataamazon.NewSecretsManager(aws) },
		"digitalocean-image":    func() datasources.Source { return datadigitalocean.New(clouds.digitalocean) },
		"http":                  func() datasources.Source { return datahttp.New() },
		"null":                  func() datasources.Source { return datanull.New() },
	}
}

// packingTasks is what this program does when it is started to pack a merged tree.
func packingTasks() sandbox.Tasks { return boxbuilder.PackingTasks() }

// resolveImage turns "web@production" into the digest of its sandbox image.
func resolveImage(ctx context.Context, ref string) (string, error) {
	store, err := openRegistry(ctx)
	if err != nil {
		return "", err
	}
	defer store.Close()
	r, err := registry.ParseRef(ref)
	if err != nil {
		return "", err
	}
	v, err := store.Resolve(ctx, r)
	if err != nil {
		return "", err
	}
	return sandboxDigest(v)
}

// wanted says whether a version, or a bake other than the given one, names the
// sandbox image.
func wanted(ctx context.Context, digest, bakeID string) (bool, error) {
	store, err := openRegistry(ctx)
	if err != nil {
		return false, err
	}
	defer store.Close()
	leases, err := store.OpenLeases(ctx)
	if err != nil {
		return false, err
	}
	for _, l := range leases {
		if l.Builder == "sandbox" && l.ExternalID == digest && l.BakeID != bakeID {
			return true, nil
		}
	}
	images, err := store.Images(ctx)
	if err != nil {
		return false, err
	}
	for _, i := range images {
		vs, err := store.Versions(ctx, i.Name)
		if err != nil {
			return false, err
		}
		for _, v := range vs {
			for _, a := range v.Artifacts {
				if a.Platform == "sandbox" && a.ExternalID == digest {
					return true, nil
				}
			}
		}
	}
	return false, nil
}
