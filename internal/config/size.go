package config

import (
	"fmt"
	"math/big"
	"strings"
)

// Size is a number of bytes. A template writes it as a number, or as a string
// with a unit: "512m", "10g", "1GiB". Units are powers of 1024, in either case:
// k, m, g, t, p, each with or without "b" or "ib".
type Size int64

// ParseSize reads a size as a template writes it.
func ParseSize(s string) (Size, error) {
	number := strings.TrimSpace(s)
	end := strings.LastIndexAny(number, "0123456789") + 1
	unit := strings.ToLower(strings.TrimSpace(number[end:]))
	number = number[:end]
	shift := uint(0)
	if unit != "" && unit != "b" {
		i := strings.IndexByte("kmgtp", unit[0])
		if rest := unit[1:]; i < 0 || (rest != "" && rest != "b" && rest != "ib") {
			return 0, fmt.Errorf("%q is not a size; write a number of bytes, or one with a unit: 512m, 10g, 1GiB", s)
		}
		shift = 10 * uint(i+1)
	}
	if len(number) > 30 {
		return 0, fmt.Errorf("a size of %d digits is too large", len(number))
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok || strings.Trim(number, "0123456789.-+") != "" {
		return 0, fmt.Errorf("%q is not a size; write a number of bytes, or one with a unit: 512m, 10g, 1GiB", s)
	}
	r.Mul(r, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), shift)))
	switch {
	case r.Sign() < 0:
		return 0, fmt.Errorf("the size %q is negative", s)
	case !r.IsInt():
		return 0, fmt.Errorf("the size %q is not a whole number of bytes", s)
	case !r.Num().IsInt64():
		return 0, fmt.Errorf("the size %q is too large", s)
	}
	return Size(r.Num().Int64()), nil
}

// String writes the size with the largest unit that divides it: "512MiB".
func (s Size) String() string {
	n, unit := int64(s), ""
	for _, u := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, unit = n/1024, u
	}
	if unit == "" {
		unit = "B"
	}
	return fmt.Sprintf("%d%s", n, unit)
}
