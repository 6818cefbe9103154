package registry

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// Facts say what machines made from a version are to be like, by the full name
// of the bake and the name of the part. To the registry they are bytes.
type Facts map[string]map[string][]byte

// maxFacts bounds one part, in bytes.
const maxFacts = 64 << 20

func (f Facts) check() error {
	for source, parts := range f {
		for part, data := range parts {
			if part == "" {
				return fmt.Errorf("facts of source %q: a part has no name", source)
			}
			if len(data) > maxFacts {
				return fmt.Errorf("facts of source %q: part %q has %d bytes, and more than %d are not kept", source, part, len(data), maxFacts)
			}
		}
	}
	return nil
}

func insertFacts(ctx context.Context, tx *sql.Tx, r Ref, facts Facts) error {
	for _, source := range slices.Sorted(maps.Keys(facts)) {
		for _, part := range slices.Sorted(maps.Keys(facts[source])) {
			data := facts[source][part]
			sum := sha256.Sum256(data)
			digest := hex.EncodeToString(sum[:])
			var there bool
			if err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM fact_blob WHERE digest = ?)", digest).Scan(&there); err != nil {
				return err
			}
			if !there {
				packed, err := pack(data)
				if err != nil {
					return err
				}
				if _, err := tx.ExecContext(ctx, "INSERT INTO fact_blob (digest, data) VALUES (?, ?)", digest, packed); err != nil {
					return err
				}
			}
			if _, err := tx.ExecContext(ctx, "INSERT INTO fact (image, number, source, part, digest) VALUES (?, ?, ?, ?, ?)",
				r.Image, r.Number, source, part, digest); err != nil {
				return err
			}
		}
	}
	return nil
}

// Facts implements Store.
func (s *SQLite) Facts(ctx context.Context, image string, number int) (facts Facts, err error) {
	ref := Ref{Image: image, Number: number}
	err = s.read(ctx, "read the facts of "+ref.String(), func(tx *sql.Tx) error {
		if _, err := statusOf(ctx, tx, ref); err != nil {
			return err
		}
		facts, err = loadFacts(ctx, tx, ref)
		return err
	})
	return facts, err
}

func loadFacts(ctx context.Context, tx *sql.Tx, r Ref) (Facts, error) {
	type row struct {
		source, part, digest string
		data                 []byte
	}
	rows, err := collect(ctx, tx, func(s scanner) (x row, err error) {
		return x, s.Scan(&x.source, &x.part, &x.digest, &x.data)
	}, "SELECT source, part, digest, data FROM fact JOIN fact_blob USING (digest) WHERE image = ? AND number = ?", r.Image, r.Number)
	if err != nil {
		return nil, err
	}
	var facts Facts
	for _, x := range rows {
		data, err := unpack(x.data)
		if sum := sha256.Sum256(data); err == nil && hex.EncodeToString(sum[:]) != x.digest {
			err = errors.New("they are not what was recorded")
		}
		if err != nil {
			return nil, fmt.Errorf("the facts of %s (%s, part %q) are damaged: %w", r, x.source, x.part, err)
		}
		if facts == nil {
			facts = Facts{}
		}
		if facts[x.source] == nil {
			facts[x.source] = map[string][]byte{}
		}
		facts[x.source][x.part] = data
	}
	return facts, nil
}

// dropFacts removes the parts that no version has any more.
func dropFacts(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, "DELETE FROM fact_blob WHERE digest NOT IN (SELECT digest FROM fact)")
	return err
}

func pack(data []byte) ([]byte, error) {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
	if err != nil {
		return nil, err
	}
	defer e.Close()
	return e.EncodeAll(data, nil), nil
}

func unpack(data []byte) ([]byte, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFacts))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.DecodeAll(data, nil)
}
