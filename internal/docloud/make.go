package docloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/digitalocean/godo"
)

// transferTries is how often a transfer that DigitalOcean gives up is begun.
const transferTries = 3

// busyTime is how long a resource that is to be destroyed may be busy.
const busyTime = 10 * time.Minute

// Once makes something that the API makes anew with every call. When it isn't
// known whether a call has had its effect, it looks for it, as long as it may
// not be visible, before it calls again.
func Once[T any](ctx context.Context, s *Session, make func(context.Context) (T, error), find func(context.Context) (T, bool, error)) (T, error) {
	var none T
	for try := 0; ; try++ {
		it, err := make(ctx)
		if err == nil {
			return it, nil
		}
		if ctx.Err() != nil {
			return none, context.Cause(ctx)
		}
		if _, over := errors.AsType[*TimeoutError](err); over || Refused(err) && try == 0 {
			return none, err
		}
		it, found, ferr := Search(ctx, s, find)
		switch {
		case found:
			return it, nil
		case ferr != nil:
			return none, &uncertainError{errors.Join(err, ferr)}
		case Refused(err) || try == 2:
			return none, &uncertainError{err}
		}
	}
}

// uncertainError is of a call after one that may have had its effect.
type uncertainError struct{ error }

func (e *uncertainError) Unwrap() error { return e.error }

// Nothing says that err, of Once, is a refusal by which nothing has been made,
// not even by a call before it.
func Nothing(err error) bool {
	_, uncertain := errors.AsType[*uncertainError](err)
	return Refused(err) && !uncertain
}

// Search looks for what may just have been made, as long as it may be invisible.
func Search[T any](ctx context.Context, s *Session, find func(context.Context) (T, bool, error)) (it T, found bool, err error) {
	for end := time.Now().Add(s.Settle()); ; {
		if it, found, err = find(ctx); found || err != nil || !time.Now().Before(end) {
			return it, found, err
		}
		if err := s.Pause(ctx, s.Settle()/5); err != nil {
			return it, false, err
		}
	}
}

// Transfer brings an image to a region, if it isn't there. A transfer that
// DigitalOcean gives up is begun anew. option is what sets the timeout. look says that one may be under way, or
// be done.
func (s *Session) Transfer(ctx context.Context, id int, region string, timeout time.Duration, option string, wait, look bool) error {
	w := Wait{
		What: fmt.Sprintf("the transfer of image %d to %s", id, region), Option: option, Timeout: timeout, First: 3 * time.Second,
	}
	end := time.Now().Add(timeout)
	find := func(ctx context.Context) (*godo.Action, bool, error) { return s.transferring(ctx, id, region) }
	for try := 1; ; try++ {
		var action *godo.Action
		found := false
		var err error
		if look || try > 1 {
			if action, found, err = find(ctx); err != nil {
				return err
			}
		}
		if !found {
			action, err = Once(ctx, s, func(ctx context.Context) (a *godo.Action, err error) {
				err = s.Patiently(ctx, w, func(ctx context.Context) (err error) {
					a, _, err = s.API.ImageActions.Transfer(ctx, id, &godo.ActionRequest{"type": "transfer", "region": region})
					return err
				})
				return a, err
			}, find)
			// One that a process which has died began may have come to its end since.
			if err != nil && ctx.Err() == nil {
				if begun, found, ferr := find(ctx); ferr == nil && found {
					action, err = begun, nil
				}
			}
		}
		if err == nil && wait && action.ID > 0 {
			w.Timeout = max(time.Until(end), time.Nanosecond)
			err = s.Completed(ctx, action.ID, w)
			if over, ok := errors.AsType[*TimeoutError](err); ok {
				over.Timeout = timeout
			}
		}
		if _, given := errors.AsType[*ActionError](err); !given || try == transferTries {
			return err
		}
	}
}

// transferring finds the action by which the image gets to the region. One
// without an id says that it is there.
func (s *Session) transferring(ctx context.Context, id int, region string) (*godo.Action, bool, error) {
	i, _, err := s.API.Images.GetByID(ctx, id)
	if err != nil {
		return nil, false, err
	}
	if slices.Contains(i.Regions, region) {
		return &godo.Action{}, true, nil
	}
	var all struct {
		Actions []godo.Action `json:"actions"`
	}
	if err := s.Do(ctx, http.MethodGet, fmt.Sprintf("v2/images/%d/actions?per_page=200", id), nil, &all); err != nil {
		return nil, false, err
	}
	for _, a := range all.Actions {
		if a.Type == "transfer" && a.Status == "in-progress" && a.RegionSlug == region {
			return &a, true, nil
		}
	}
	return nil, false, nil
}

// DeleteDroplet destroys a droplet, as soon as it isn't busy any more, and says
// whether there was one.
func (s *Session) DeleteDroplet(ctx context.Context, id int) (found bool, err error) {
	return s.whenFree(ctx, fmt.Sprintf("droplet %d", id), func(ctx context.Context) error {
		_, err := s.API.Droplets.Delete(ctx, id)
		return err
	})
}

// DeleteImage removes an image, as soon as it isn't busy any more, and says
// whether there was one.
func (s *Session) DeleteImage(ctx context.Context, id int) (found bool, err error) {
	return s.whenFree(ctx, fmt.Sprintf("image %d", id), func(ctx context.Context) error {
		_, err := s.API.Images.Delete(ctx, id)
		return err
	})
}

// whenFree removes something, as soon as it isn't busy any more.
func (s *Session) whenFree(ctx context.Context, what string, remove func(context.Context) error) (found bool, err error) {
	w := Wait{What: what + " to be free, to destroy it", Timeout: busyTime}
	err = s.Until(ctx, w, func(ctx context.Context, wait time.Duration) (bool, error) {
		switch err := remove(ctx); {
		case err == nil:
			found = true
			return true, nil
		case NotFound(err):
			return true, nil
		case Pending(err):
			_ = s.Pause(ctx, wait) // Until sees it when ctx ends
			return false, Later(err)
		default:
			return false, err
		}
	})
	return found, err
}
