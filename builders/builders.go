// Package builders is what a platform must do to bake on it. One package per
// platform stands below; a builder knows nothing of provisioners, the engine,
// the registry or the terminal.
package builders

import (
	"context"
	"errors"
	"time"

	"github.com/ingotbuild/ingot/internal/config"
	"github.com/ingotbuild/ingot/internal/event"
	"github.com/ingotbuild/ingot/machine"
)

// Builder boots temporary machines on one platform and makes images of them.
// One value serves one bake; the methods are called one after another.
type Builder interface {
	// Options is a pointer to the struct that the source block is decoded
	// into, before any other method but Release and Resume is called.
	Options() any
	// Check looks for everything wrong with the options that can be known
	// without creating anything, and reports all of it. env.Validate asks for
	// what holds on any machine; otherwise the bake is about to start here.
	Check(ctx context.Context, env *CheckEnv) []config.Problem
	// Boot starts the machine and returns when commands can be run on it.
	Boot(ctx context.Context, run *Run) (machine.Machine, error)
	// Snapshot stops the machine and makes the image.
	Snapshot(ctx context.Context, run *Run) (*Artifact, error)
	// Release gives one leased resource back. It is idempotent, also after a
	// crash at any point: to release what is gone, or never came to be, is success.
	Release(ctx context.Context, l Lease) error
	// Orphans finds leases by what the platform itself knows, for when the
	// ledger is lost; those created last come last. Options has been decoded: it
	// says where to look. Data[SourceKey] says which source a lease is of, where
	// the platform knows it.
	Orphans(ctx context.Context, olderThan time.Duration) ([]Lease, error)
}

// Proofer is a Builder that can boot what it has made once more, for specs
// that are to hold after a clean boot.
type Proofer interface {
	Builder
	// BootProof starts a machine from the artifact that Snapshot has just made,
	// as machines are started from it later, and returns when commands can be
	// run on it. What it creates is leased as in Boot and given back by
	// Release; nothing of it gets into the image.
	//
	// The artifact itself has leases with UntilRecorded by then, all of it: when
	// the proof fails, releasing them is what removes the image.
	BootProof(ctx context.Context, run *Run, a *Artifact) (machine.Machine, error)
}

// Publisher is a Builder that keeps an image to itself for as long as specs
// still have to pass on it.
type Publisher interface {
	Builder
	// Publish does what Snapshot has left out because of Run.Unproven: it lets
	// others see the artifact, which has been proven by now. Each step can be
	// taken again; an error that wraps ErrUnfinished means what it does of
	// Snapshot. Returned is the artifact as it is now.
	Publish(ctx context.Context, run *Run, a *Artifact) (*Artifact, error)
}

// Resumer is a Builder whose images take the platform a while to finish, and
// can be finished by another process than the one that began them.
type Resumer interface {
	Builder
	// Resume goes on where Snapshot was when its process died, lost the network
	// or gave up waiting, and returns what Snapshot would have. No option has
	// been decoded: what it needs stands in the leases with the key Resumable.
	// run has the bake's id and its ledger; open are the bake's open leases.
	// Where nothing can come of the image any more, the error wraps ErrImageLost.
	Resume(ctx context.Context, run *Run, open []Lease) (*Artifact, error)
}

// Resumable, as a key of Lease.Data beside UntilRecorded, marks an image that
// Resume can finish; its value is the builder's own, without secrets. It is no
// more taken for rubbish when its bake dies: sweep leaves it for `ingot resume`.
const Resumable = "resumable"

// ErrUnfinished is in the error of a Snapshot that has begun an image which may
// still be finished, by Resume: a wait was over, or the platform could not be
// reached. The engine gives back everything but the leases that are Resumable.
var ErrUnfinished = errors.New("the image is not finished, and not lost")

// ErrImageLost is in the error of a Resume when the platform has given the image up.
var ErrImageLost = errors.New("the image cannot be finished any more")

// CheckEnv is what Check may need to know.
type CheckEnv struct {
	// Dir is the working directory that relative paths start from.
	Dir string
	// Validate is true under `ingot validate`: do not ask what only the
	// machine that bakes can answer.
	Validate bool
	Force    bool
}

// Run is one bake, as its builder sees it.
type Run struct {
	// BakeID is unique to this bake, lower-case letters and digits: it names
	// and tags everything temporary.
	BakeID string
	// Name is the full build name; Type and Source are the two labels of the
	// source block.
	Name, Type, Source string
	// Image and Version are what the artifact will be recorded as; Version is
	// 0 when it is not yet known.
	Image   string
	Dir     string // working directory, where relative paths start
	Force   bool   // existing outputs may be replaced
	Created time.Time
	// SourceDateEpoch clamps file times in the image.
	SourceDateEpoch time.Time
	// Values are the generated values (build.Host, build.ID, …) that Boot
	// fills in for provisioners.
	Values map[string]string
	// SkipMachine is set by a Boot that returns no machine when provisioners
	// that need one are to be skipped with a warning, instead of failing.
	SkipMachine bool
	// Unproven is true in Snapshot and Resume when specs have yet to pass on a
	// machine of the image: what lets others see the image is left to Publish.
	Unproven bool
	Leases   Leases
	Events   event.Scope
}

// Lease is one temporary resource that must be given back.
type Lease struct {
	ID     string // unique in the ledger
	BakeID string
	// Builder is the type of the builder, or post-processor, that can release it.
	Builder string
	// Kind is the builder's own word: "directory", "cgroup", "instance".
	Kind string
	// Name is known before the resource is created (a path, a client token, a
	// deterministic name) and is enough to find and release it.
	Name string
	// ExternalID is the platform's id, set once the resource exists.
	ExternalID string
	// Data holds what else a release needs. No secrets.
	Data    map[string]string
	Created time.Time
}

// Leases is the ledger as a builder sees it during one bake.
type Leases interface {
	// Intend writes the lease before the call that creates the resource.
	// It fills in ID, BakeID, Builder and Created. When it fails, nothing may be created.
	Intend(ctx context.Context, kind, name string, data map[string]string) (Lease, error)
	// Created adds the platform's id.
	Created(ctx context.Context, l Lease, externalID string) error
	// Released strikes the lease: the resource is gone, or has become part of
	// the finished image.
	Released(ctx context.Context, l Lease) error
	// Open are this bake's leases that have not been released, oldest first.
	Open() []Lease
}

// Artifact is what a bake made, on one platform.
type Artifact struct {
	// BuilderID is Packer's name for the kind of artifact, e.g. "mitchellh.amazonebs".
	BuilderID string `json:"builder_id"`
	// ID is the artifact's id as Packer would print it.
	ID string `json:"id"`
	// Text is one line for people: what it is and where it is.
	Text string `json:"text"`
	// Files are local files that belong to the artifact.
	Files []string `json:"files,omitempty"`
	// Places are the ids to record, one per region or per output format.
	Places []Place `json:"places,omitempty"`
	// Parent is the external id of the base, for lineage.
	Parent string `json:"parent,omitempty"`
	// Values are the build.* values that post-processors may use.
	Values map[string]string `json:"-"`
	// Destroy removes the artifact. Nil: nothing to remove.
	Destroy func(ctx context.Context) error `json:"-"`
}

// Place is one home of an artifact.
type Place struct {
	Platform string `json:"platform"`           // amazon, digitalocean, sandbox, file
	Region   string `json:"region,omitempty"`   // or the output format of a local image
	ID       string `json:"id"`                 // ami-…, a digest, a path
	Digest   string `json:"digest,omitempty"`   // sha256:… where content is known
	Location string `json:"location,omitempty"` // path or URL where it can be looked at
}

// SourceKey, as a key of Lease.Data, is the source that the lease is of, as in
// "amazon-ebs.web".
const SourceKey = "source"

// UntilRecorded, as a key of Lease.Data, marks a lease that guards a finished
// image: it stays open until the image is in the registry, and is then struck
// without a release. When the bake fails or dies before, it is released like any other.
const UntilRecorded = "until_recorded"
