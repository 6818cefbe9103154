//go:build linux

package ec2

import "time"

// Durations are how long the cloud takes, in its own time (see Options.Speed).
// 0: at once, or as long as the real work behind it takes.
type Durations struct {
	Running    time.Duration // RunInstances, StartInstances until "running"
	SSH        time.Duration // from "running" until the machine's ports answer; less than 0: before it
	Console    time.Duration // from "running" until GetConsoleOutput has something
	Stopped    time.Duration // StopInstances until "stopped"
	Terminated time.Duration // TerminateInstances until "terminated"
	Detached   time.Duration // from "terminated" until its groups may be deleted
	Image      time.Duration // CreateImage, RegisterImage until "available"
	Copy       time.Duration // CopyImage, CopySnapshot
	Snapshot   time.Duration // CreateSnapshot until "completed"
	Volume     time.Duration // CreateVolume until "available"
	Attach     time.Duration // AttachVolume, DetachVolume
	Import     time.Duration // ImportImage until "completed"
	FastLaunch time.Duration // EnableFastLaunch until "enabled"
	Profile    time.Duration // a new instance profile or role until EC2 accepts it
	SSMAgent   time.Duration // from "running" until StartSession finds its target
}

// Consistency is how long what has been made is not found yet.
type Consistency struct {
	Delay  time.Duration // in the cloud's time
	Misses int           // so many looks at it do not find it, even after Delay
}

// change is a state that begins at a time.
type change struct {
	at    time.Time
	state string
}

// timeline is the states of one thing in their order. What state it is in
// follows from the time, so that nothing has to run for it to change.
type timeline []change

func (l timeline) at(now time.Time) string {
	s := ""
	for _, c := range l {
		if c.at.After(now) {
			break
		}
		s = c.state
	}
	return s
}

// end is when the last state begins.
func (l timeline) end() time.Time { return l[len(l)-1].at }

// finish lets states that have not begun yet begin now.
func (l timeline) finish(now time.Time) {
	for i := range l {
		if l[i].at.After(now) {
			l[i].at = now
		}
	}
}

func (c *Cloud) now() time.Time { return time.Now() }

// real is how long a duration of the cloud is on this machine's clock.
func (c *Cloud) real(d time.Duration) time.Duration {
	return time.Duration(float64(d) / c.o.Speed)
}

// after is a timeline that is in state first now and in state then after d.
func (c *Cloud) after(first string, d time.Duration, then string) timeline {
	now := c.now()
	return timeline{{now, first}, {now.Add(c.real(d)), then}}
}

// Realistic are durations as they are often seen in the real cloud.
func Realistic() Durations {
	const s = time.Second
	return Durations{Running: 8 * s, SSH: 3 * s, Console: 30 * s, Stopped: 20 * s, Terminated: 30 * s, Detached: s, Image: 45 * s, Copy: 60 * s, Snapshot: 40 * s, Volume: 2 * s,
		Attach: 3 * s, Import: 600 * s, FastLaunch: 300 * s, Profile: 10 * s, SSMAgent: 8 * s}
}
