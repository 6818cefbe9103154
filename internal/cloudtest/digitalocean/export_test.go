//go:build linux

package digitalocean

// BreakAnswers makes answers wrong, so that a test sees that this is found.
func (c *Cloud) BreakAnswers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.accountStatus = "asleep"
}
