package awscloud

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// FailedError says that the cloud has given a thing up: waiting longer is of no use.
type FailedError struct {
	What, State string
	// Code and Message are the cloud's own reason, where it has one.
	Code, Message string
}

func (e *FailedError) Error() string {
	s := fmt.Sprintf("%s is %s", e.What, e.State)
	switch {
	case e.Message == "" && e.Code == "":
		return s + ", and the cloud gives no reason"
	case e.Message == "":
		return s + ": " + e.Code
	case e.Code == "" || e.Code == e.Message:
		return s + ": " + e.Message
	}
	return s + ": " + e.Code + ": " + e.Message
}

func failed(what, state string, r *types.StateReason) error {
	e := &FailedError{What: what, State: state}
	if r != nil {
		e.Code, e.Message = aws.ToString(r.Code), aws.ToString(r.Message)
	}
	return e
}

// InstanceState is the instance's state, or "" when the cloud has told none.
func InstanceState(i types.Instance) types.InstanceStateName {
	if i.State == nil {
		return ""
	}
	return i.State.Name
}

// JudgeInstance says whether the instance is in the state, and fails when it
// cannot come to it any more.
func JudgeInstance(i types.Instance, want types.InstanceStateName) (bool, string, error) {
	state := InstanceState(i)
	ending := state == types.InstanceStateNameShuttingDown || state == types.InstanceStateNameTerminated
	stopping := state == types.InstanceStateNameStopping || state == types.InstanceStateNameStopped
	switch {
	case state == want:
		return true, string(state), nil
	case ending && want != types.InstanceStateNameTerminated, stopping && want == types.InstanceStateNameRunning:
		return false, string(state), failed("instance "+aws.ToString(i.InstanceId), string(state), i.StateReason)
	}
	return false, string(state), nil
}

// WaitInstance waits until the instance is in the state, to which it is on its
// way since then; zero: since now.
func (s *Session) WaitInstance(ctx context.Context, region, id string, want types.InstanceStateName, since time.Time) (types.Instance, error) {
	w := Wait{What: fmt.Sprintf("instance %s to be %s", id, want), Pace: InstancePace, Since: since, Like: "instance " + string(want) + " " + region}
	return Watch(ctx, s, s.Instances(region), id, w, func(i types.Instance) (bool, string, error) { return JudgeInstance(i, want) })
}

// WaitImage waits until the account's own image is available.
func (s *Session) WaitImage(ctx context.Context, region, id string) (types.Image, error) {
	return s.waitImage(ctx, region, id, "image "+region)
}

// WaitCopy is WaitImage for a copy, which takes another time.
func (s *Session) WaitCopy(ctx context.Context, region, id string) (types.Image, error) {
	return s.waitImage(ctx, region, id, "copy "+region)
}

func (s *Session) waitImage(ctx context.Context, region, id, like string) (types.Image, error) {
	w := Wait{What: fmt.Sprintf("image %s in %s to be available", id, region), Pace: ImagePace, Like: like}
	return Watch(ctx, s, s.Images(region), id, w, func(i types.Image) (bool, string, error) {
		bad := []types.ImageState{types.ImageStateFailed, types.ImageStateError, types.ImageStateInvalid, types.ImageStateDeregistered}
		if slices.Contains(bad, i.State) {
			return false, string(i.State), failed(fmt.Sprintf("image %s in %s", id, region), string(i.State), i.StateReason)
		}
		return i.State == types.ImageStateAvailable, string(i.State), nil
	})
}

// WaitSnapshot waits until the account's own snapshot is completed.
func (s *Session) WaitSnapshot(ctx context.Context, region, id string) (types.Snapshot, error) {
	w := Wait{What: fmt.Sprintf("snapshot %s in %s to be completed", id, region), Pace: SnapshotPace, Like: "snapshot " + region}
	return Watch(ctx, s, s.Snapshots(region), id, w, func(v types.Snapshot) (bool, string, error) {
		if v.State == types.SnapshotStateError {
			return false, string(v.State), &FailedError{What: fmt.Sprintf("snapshot %s in %s", id, region), State: string(v.State), Message: aws.ToString(v.StateMessage)}
		}
		return v.State == types.SnapshotStateCompleted, fmt.Sprintf("%s %s", v.State, aws.ToString(v.Progress)), nil
	})
}

// WaitVolume waits until the volume is in the state: available, or in-use and
// then attached to its instance.
func (s *Session) WaitVolume(ctx context.Context, region, id string, want types.VolumeState) (types.Volume, error) {
	w := Wait{What: fmt.Sprintf("volume %s to be %s", id, want), Pace: VolumePace, Like: "volume " + string(want) + " " + region}
	return Watch(ctx, s, s.Volumes(region), id, w, func(v types.Volume) (bool, string, error) {
		switch v.State {
		case types.VolumeStateError, types.VolumeStateDeleting, types.VolumeStateDeleted:
			if v.State != want {
				return false, string(v.State), failed("volume "+id, string(v.State), nil)
			}
		}
		done := v.State == want
		if want == types.VolumeStateInUse {
			done = done && slices.ContainsFunc(v.Attachments, func(a types.VolumeAttachment) bool { return a.State == types.VolumeAttachmentStateAttached })
		}
		return done, string(v.State), nil
	})
}
