//go:build linux

package ec2

import (
	"crypto/sha256"
	"maps"
	"net/url"
)

// performed is a call that a ClientToken was given with.
type performed struct {
	parameters [sha256.Size]byte
	out        any
}

// refresher is an answer that is given anew when its call is repeated.
type refresher interface{ refresh(*call) }

// onlyOnce lets a call with a ClientToken have its effect once: who repeats it
// with the same parameters gets the same answer, with others an error.
func (c *Cloud) onlyOnce(k *call, run func() (any, error)) (any, error) {
	token := k.form.Get("ClientToken")
	if token == "" {
		return run()
	}
	if len(token) > 128 {
		return nil, invalid("ClientToken", "it is longer than 128 characters")
	}
	form := maps.Clone(k.form)
	delete(form, "ClientToken")
	sum := sha256.Sum256([]byte(url.Values(form).Encode()))
	key := k.account + "/" + k.regionName + "/" + k.action + "/" + token
	if p := c.tokens[key]; p != nil {
		if p.parameters != sum {
			return nil, fail("IdempotentParameterMismatch", "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).")
		}
		if r, ok := p.out.(refresher); ok {
			r.refresh(k)
		}
		return p.out, nil
	}
	out, err := run()
	if err != nil {
		return nil, err
	}
	c.tokens[key] = &performed{sum, out}
	return out, nil
}
