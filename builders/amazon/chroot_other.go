//go:build !linux

package amazon

import "errors"

func deviceNumber(string) (string, error) {
	return "", errors.New("amazon-chroot needs Linux")
}
