package winrm

import (
	"time"

	"github.com/ingotbuild/ingot/machine"
)

// SetReceive sets how long a Receive waits, SetGrace how long beyond it.
func SetReceive(m machine.Machine, d time.Duration) { m.(*Machine).receive = d }
func SetGrace(m machine.Machine, d time.Duration)   { m.(*Machine).c.grace = d }
