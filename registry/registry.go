// Package registry remembers what Ingot did and what it owes: the ledger of
// temporary resources, the images with their versions, artifacts and channels,
// and the state of rollouts.
//
// SQLite is the Store for one machine. registrytest holds the tests that every
// Store passes.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ingotbuild/ingot/builders"
	"github.com/ingotbuild/ingot/internal/proc"
)

// The reasons for which a Store refuses. Errors from a Store wrap them, and
// say in their own text what is there instead.
var (
	// ErrNotFound: no such image, version, channel, service, bake or lease.
	ErrNotFound = errors.New("not found")
	// ErrConflict: someone else has changed it since it was read.
	ErrConflict = errors.New("changed by someone else")
	// ErrAlreadyThere: the channel names that version already.
	ErrAlreadyThere = errors.New("already there")
	// ErrNotReady: the version's status is not "ready".
	ErrNotReady = errors.New("not ready")
	// ErrInUse: a channel names the version.
	ErrInUse = errors.New("in use")
)

// Store is a registry. Its methods are safe for concurrent use, by several
// processes too, and each is one transaction: what a method has
// acknowledged survives a crash of the process or the machine. Times are UTC,
// in microseconds.
type Store interface {
	// BeginBake enters a bake in the ledger. Started defaults to now. An ID
	// that is in the ledger already is ErrConflict.
	BeginBake(ctx context.Context, b Bake) error
	// EndBake records how a bake ended: "success", "failed", "cancelled" or
	// "swept". The first outcome stands: a second, different one is
	// ErrConflict, the same again is success.
	EndBake(ctx context.Context, id, outcome string) error
	// AdoptBake makes to the owner of a bake that has not ended and whose owner
	// is from; if another has it by now, it refuses with ErrConflict.
	AdoptBake(ctx context.Context, id string, from, to Owner) error
	// Intend enters a lease before its resource is created, and returns it
	// with ID (they sort in the order of their making) and Created set. The
	// bake must have begun and not ended: a process whose bake another has
	// swept may create nothing more, and gets ErrConflict.
	Intend(ctx context.Context, l builders.Lease) (builders.Lease, error)
	// Created adds the platform's id. The same id again is success, another
	// is ErrConflict: the lease would lose sight of the first.
	Created(ctx context.Context, leaseID, externalID string) error
	// Released strikes a lease. To strike it again is success.
	Released(ctx context.Context, leaseID string) error
	// OpenLeases returns the leases that are not released, oldest first.
	OpenLeases(ctx context.Context) ([]OwnedLease, error)
	// OpenBakes returns the bakes that have not ended, oldest first.
	OpenBakes(ctx context.Context) ([]Bake, error)

	// Record adds a version to an image, which it makes when it is new.
	// Numbers start at 1 and are never given twice, not even after DeleteVersion.
	Record(ctx context.Context, v NewVersion) (Version, error)
	// AddArtifact adds an artifact to a version. To add it again is success.
	AddArtifact(ctx context.Context, image string, number int, a Artifact) error
	// Images returns all images by name.
	Images(ctx context.Context) ([]ImageSummary, error)
	// Versions returns an image's versions, oldest first.
	Versions(ctx context.Context, image string) ([]Version, error)
	// Facts returns the facts that a version was recorded with; nil when there
	// were none.
	Facts(ctx context.Context, image string, number int) (Facts, error)
	// DeleteVersion forgets a version and its artifacts; the artifacts
	// themselves stay. It refuses with ErrInUse while a channel names it.
	DeleteVersion(ctx context.Context, image string, number int) error
	// Resolve returns the version that a ref names.
	Resolve(ctx context.Context, r Ref) (Version, error)

	// Channels returns an image's channels by name.
	Channels(ctx context.Context, image string) ([]Channel, error)
	// Promote moves a channel and adds that to the image's history. It
	// refuses with ErrAlreadyThere, ErrConflict or ErrNotReady.
	Promote(ctx context.Context, p Promotion) (ChannelEvent, error)
	// History returns what happened to an image's channels, oldest first.
	// Nothing is ever taken from it.
	History(ctx context.Context, image string) ([]ChannelEvent, error)
	// VerifyHistory checks that nothing in the history was changed, taken out
	// or put in by other means, and that the channels are where it says.
	VerifyHistory(ctx context.Context, image string) error

	// LoadService returns a service's document and revision, or ErrNotFound.
	LoadService(ctx context.Context, name string) (doc json.RawMessage, rev int64, err error)
	// SaveService replaces the document of a service that is still at
	// revision rev, else it refuses with ErrConflict. Revision 0 makes the
	// service. An event that is not empty goes into the service's log.
	SaveService(ctx context.Context, name string, doc json.RawMessage, rev int64, event string) (newRev int64, err error)
	// Services returns all services by name.
	Services(ctx context.Context) ([]ServiceRow, error)
	// ServiceEvents returns a service's log, oldest first.
	ServiceEvents(ctx context.Context, name string) ([]ServiceEvent, error)

	// Export writes all images with versions, artifacts, channels and history
	// as JSON lines.
	Export(ctx context.Context, w io.Writer) error
	// Import adds what Export wrote, all or nothing. It refuses an image
	// that is here already, and a history that doesn't verify.
	Import(ctx context.Context, r io.Reader) error

	Close() error
}

// Owner is the process that runs a bake. Whether it still does is for
// proc.Alive to say.
type Owner = proc.Owner

// Bake is one run of one build.
type Bake struct {
	ID       string `json:"id"`       // lower-case letters and digits
	Name     string `json:"name"`     // full build name
	Image    string `json:"image"`    // what it will be recorded as; may be empty
	Template string `json:"template"` // where the template is
	Owner    Owner  `json:"owner"`
	// Started and Ended frame the bake; Ended is zero while it runs.
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	// Outcome is empty while it runs, then success, failed, cancelled or swept.
	Outcome string `json:"outcome,omitempty"`
}

// OwnedLease is a lease with the bake that it belongs to.
type OwnedLease struct {
	builders.Lease
	Bake Bake
}

// The states of a version.
const (
	// StatusReady: baked and proved, may be promoted.
	StatusReady = "ready"
	// StatusIncomplete: some of its artifacts are missing.
	StatusIncomplete = "incomplete"
)

// NewVersion is a version to record.
type NewVersion struct {
	Image       string            `json:"image"`
	Fingerprint string            `json:"fingerprint,omitempty"` // of the inputs
	Template    string            `json:"template,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Status      string            `json:"status"` // StatusReady or StatusIncomplete
	// Rollout is the service's configuration as the template has it.
	Rollout   json.RawMessage `json:"rollout,omitempty"`
	Artifacts []Artifact      `json:"artifacts,omitempty"`
	// ParentVersion is the version baked upon, e.g. "base@v3".
	ParentVersion string          `json:"parentVersion,omitempty"`
	SpecSummary   json.RawMessage `json:"specSummary,omitempty"`
	// Facts are recorded with the version. They may be large: a Store returns
	// them by its method Facts alone.
	Facts Facts `json:"-"`
}

// Version is a recorded version.
type Version struct {
	Number int `json:"number"`
	NewVersion
	Created time.Time `json:"created"`
}

// Ref names this version.
func (v Version) Ref() Ref { return Ref{Image: v.Image, Number: v.Number} }

// Artifact is a version on one platform, in one region or format.
type Artifact struct {
	Platform   string `json:"platform"`
	Region     string `json:"region,omitempty"`
	ExternalID string `json:"id"`
	Digest     string `json:"digest,omitempty"`
	Location   string `json:"location,omitempty"`
	BuilderID  string `json:"builderId,omitempty"`
	BakeID     string `json:"bake,omitempty"`
	Source     string `json:"source,omitempty"` // the source block it came from
}

// ImageSummary is one image at a glance.
type ImageSummary struct {
	Name     string    `json:"name"`
	Latest   int       `json:"latest"` // newest version of any status; 0: none is left
	Versions int       `json:"versions"`
	Channels []Channel `json:"channels,omitempty"`
}

// Channel is a named pointer to a version.
type Channel struct {
	Image   string `json:"image"`
	Name    string `json:"name"`
	Version int    `json:"version"`
	// Rev counts the channel's moves, from 1.
	Rev   int64     `json:"rev"`
	Since time.Time `json:"since"`
}

// Promotion asks for a channel to be moved.
type Promotion struct {
	Image, Channel string
	Version        int
	// Rev is the channel's revision as the caller read it: 0 when there was
	// no such channel.
	Rev int64
	// Force promotes a version that is not ready.
	Force bool
	// Actor is who asks, and must be given; Reason is free text.
	Actor, Reason string
}

// ChannelEvent is one move of a channel.
type ChannelEvent struct {
	Image   string `json:"image"`
	Seq     int64  `json:"seq"` // position in the image's history, from 1
	Channel string `json:"channel"`
	Rev     int64  `json:"rev"`            // the channel's revision after the move
	From    int    `json:"from,omitempty"` // 0: the channel is new
	To      int    `json:"to"`
	// Forced says that the version was not ready.
	Forced bool      `json:"forced,omitempty"`
	Actor  string    `json:"actor"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
	// PrevHash is the hash of the event before; Hash covers it and all above.
	PrevHash string `json:"prevHash,omitempty"`
	Hash     string `json:"hash"`
}

// ServiceRow is one service with its document.
type ServiceRow struct {
	Name    string          `json:"name"`
	Rev     int64           `json:"rev"`
	Updated time.Time       `json:"updated"`
	Doc     json.RawMessage `json:"doc"`
}

// ServiceEvent is one entry of a service's log.
type ServiceEvent struct {
	Service string    `json:"service"`
	Rev     int64     `json:"rev"` // of the document saved with it
	Event   string    `json:"event"`
	At      time.Time `json:"at"`
}

// refusal is an error that says all there is to say, and why in code.
type refusal struct {
	why  error
	text string
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.why }

func refuse(why error, format string, args ...any) error {
	return &refusal{why: why, text: fmt.Sprintf(format, args...)}
}
