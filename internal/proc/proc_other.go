//go:build !linux

package proc

func bootID() (string, error) { return "", nil }

func sameBoot(a, b string) bool { return a == b }

func startTicks(int) (uint64, error) { return 0, nil }

func running(o Owner) (alive, known bool) { return exists(o.PID) }
