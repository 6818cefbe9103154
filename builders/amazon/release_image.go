package amazon

import (
	"context"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
)

// ReleaseImage gives back what MakeImage has leased as an image, for callers
// other than this package's builders. l.BakeID is the BakeID that MakeImage's run had.
func ReleaseImage(ctx context.Context, env *Env, s *awscloud.Session, l builders.Lease) error {
	return remover{s, env.Settle}.releaseImage(ctx, l)
}
