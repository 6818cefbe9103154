//go:build linux

package digitalocean

import (
	"time"
)

type balancer struct {
	id, Name, region string
	vpc              *vpc
	created          time.Time
	droplets         []int
}

func (b *balancer) stop() {}
