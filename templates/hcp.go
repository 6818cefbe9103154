package templates

import (
	"regexp"

	"github.com/hashicorp/hcl/v2"
	"github.com/ingotbuild/ingot/internal/config"
)

// hcpOptions are what such a block may say.
type hcpOptions struct {
	Bucket       string            `cfg:"bucket_name"`
	Description  string            `cfg:"description"`
	Labels       map[string]string `cfg:"labels"`
	BucketLabels map[string]string `cfg:"bucket_labels"`
	BuildLabels  map[string]string `cfg:"build_labels"`
	Channels     []string          `cfg:"channels"`
}

var bucketName = regexp.MustCompile(`^[A-Za-z0-9-]{3,36}$`)

// hcpRegistry checks and explains the blocks for HashiCorp's hosted registry,
// of which there may be one in a place.
func (l *loader) hcpRegistry(blocks hcl.Blocks) {
	for i, b := range blocks {
		if i > 0 {
			l.duplicate(b.DefRange, "block", b.Type, blocks[0].DefRange)
			continue
		}
		l.add(warning(&b.DefRange, "Block without effect",
			"Nothing is sent to HCP Packer. Ingot records each image with its version in a registry of its own, which `ingot images` shows; `ingot promote` moves the channels there."))
		var o hcpOptions
		l.addKnown(config.DecodeBlock(title(b), b.Body, l.ctx, &o))
		wrong := func(option, format string, args ...any) {
			at, _ := config.Locate(b.Body, []string{option})
			l.add(failure(&at, "Invalid "+option, format, args...))
		}
		if o.Bucket != "" && !bucketName.MatchString(o.Bucket) {
			wrong("bucket_name", "%q must be 3 to 36 letters, digits and dashes.", o.Bucket)
		}
		if len(o.Description) > 255 {
			wrong("description", "The description must not be longer than 255 bytes.")
		}
	}
}

func withoutEffect(b *hcl.Block) *hcl.Diagnostic {
	return warning(&b.DefRange, "Block without effect", "Ingot accepts %q blocks, as Packer's templates may have them, and makes no use of them.", b.Type)
}
