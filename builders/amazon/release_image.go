package amazon

import (
	"context"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/awscloud"
)

// ReleaseImage gives back what MakeImage has leased as an image, for callers
// whose leases are in no ledger.
func ReleaseImage(ctx context.Context, env *Env, s *awscloud.Session, l builders.Lease) error {
	return remover{s, env.Settle}.releaseImage(ctx, l)
}
