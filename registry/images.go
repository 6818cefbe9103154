package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// check says what is wrong with a version before it is recorded.
func (v NewVersion) check() error {
	if err := CheckImage(v.Image); err != nil {
		return err
	}
	if v.Status != StatusReady && v.Status != StatusIncomplete {
		return fmt.Errorf("status %q of a version of %s: it is %s or %s", v.Status, v.Image, StatusReady, StatusIncomplete)
	}
	for _, a := range v.Artifacts {
		if err := a.check(); err != nil {
			return fmt.Errorf("version of %s: %w", v.Image, err)
		}
	}
	if err := v.Facts.check(); err != nil {
		return fmt.Errorf("version of %s: %w", v.Image, err)
	}
	return nil
}

func (a Artifact) check() error {
	if a.Platform == "" || a.ExternalID == "" {
		return fmt.Errorf("artifact %q on platform %q: both must be given", a.ExternalID, a.Platform)
	}
	return nil
}

// Record implements Store.
func (s *SQLite) Record(ctx context.Context, v NewVersion) (Version, error) {
	if err := v.check(); err != nil {
		return Version{}, err
	}
	out := Version{NewVersion: v, Created: now()}
	err := s.write(ctx, "record a version of "+v.Image, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, `INSERT INTO image (name, last, created) VALUES (?, 1, ?)
			ON CONFLICT (name) DO UPDATE SET last = last + 1 RETURNING last`, v.Image, stamp(out.Created)).Scan(&out.Number)
		if err != nil {
			return err
		}
		if err := insertVersion(ctx, tx, out); err != nil {
			return err
		}
		versions, err := loadVersions(ctx, tx, out.Ref())
		if err == nil {
			out = versions[0]
		}
		return err
	})
	if err != nil {
		return Version{}, err
	}
	return out, nil
}

func insertVersion(ctx context.Context, tx *sql.Tx, v Version) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO version
		(image, number, fingerprint, template, labels, status, rollout, parent_version, spec_summary, created)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		v.Image, v.Number, v.Fingerprint, v.Template, stringMap(v.Labels), v.Status,
		document(v.Rollout), v.ParentVersion, document(v.SpecSummary), stamp(v.Created))
	if err != nil {
		return err
	}
	for _, a := range v.Artifacts {
		if err := insertArtifact(ctx, tx, v.Image, v.Number, a); err != nil {
			return err
		}
	}
	return insertFacts(ctx, tx, v.Ref(), v.Facts)
}

func insertArtifact(ctx context.Context, tx *sql.Tx, image string, number int, a Artifact) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO artifact
		(image, number, platform, region, external_id, source, digest, location, builder_id, bake)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		image, number, a.Platform, a.Region, a.ExternalID, a.Source, a.Digest, a.Location, a.BuilderID, a.BakeID)
	return err
}

// AddArtifact implements Store.
func (s *SQLite) AddArtifact(ctx context.Context, image string, number int, a Artifact) error {
	if err := a.check(); err != nil {
		return err
	}
	ref := Ref{Image: image, Number: number}
	return s.write(ctx, "add an artifact to "+ref.String(), func(tx *sql.Tx) error {
		if _, err := statusOf(ctx, tx, ref); err != nil {
			return err
		}
		return insertArtifact(ctx, tx, image, number, a)
	})
}

// Images implements Store.
func (s *SQLite) Images(ctx context.Context) (images []ImageSummary, err error) {
	scan := func(row scanner) (i ImageSummary, err error) { return i, row.Scan(&i.Name, &i.Latest, &i.Versions) }
	err = s.read(ctx, "read the images", func(tx *sql.Tx) error {
		images, err = collect(ctx, tx, scan, `SELECT name, coalesce(max(number), 0), count(number)
			FROM image LEFT JOIN version ON image = name GROUP BY name ORDER BY name`)
		if err != nil {
			return err
		}
		channels, err := collect(ctx, tx, scanChannel, "SELECT "+channelColumns+" FROM channel ORDER BY image, name")
		if err != nil {
			return err
		}
		for i := range images {
			for len(channels) > 0 && channels[0].Image == images[i].Name {
				images[i].Channels = append(images[i].Channels, channels[0])
				channels = channels[1:]
			}
		}
		return nil
	})
	return images, err
}

// Versions implements Store.
func (s *SQLite) Versions(ctx context.Context, image string) (versions []Version, err error) {
	err = s.read(ctx, "read the versions of "+image, func(tx *sql.Tx) error {
		if err := needImage(ctx, tx, image); err != nil {
			return err
		}
		versions, err = loadVersions(ctx, tx, Ref{Image: image})
		return err
	})
	return versions, err
}

// loadVersions returns one version or, without a number, all of an image.
func loadVersions(ctx context.Context, tx *sql.Tx, r Ref) ([]Version, error) {
	scanVersion := func(row scanner) (v Version, err error) {
		return v, row.Scan(&v.Image, &v.Number, &v.Fingerprint, &v.Template, (*stringMap)(&v.Labels), &v.Status,
			(*document)(&v.Rollout), &v.ParentVersion, (*document)(&v.SpecSummary), (*stamp)(&v.Created))
	}
	versions, err := collect(ctx, tx, scanVersion, `SELECT
		image, number, fingerprint, template, labels, status, rollout, parent_version, spec_summary, created
		FROM version WHERE image = ?1 AND (?2 = 0 OR number = ?2) ORDER BY number`, r.Image, r.Number)
	if err != nil {
		return nil, err
	}
	type placed struct {
		number int
		Artifact
	}
	scanArtifact := func(row scanner) (a placed, err error) {
		return a, row.Scan(&a.number, &a.Platform, &a.Region, &a.ExternalID, &a.Source, &a.Digest, &a.Location, &a.BuilderID, &a.BakeID)
	}
	artifacts, err := collect(ctx, tx, scanArtifact, `SELECT
		number, platform, region, external_id, source, digest, location, builder_id, bake
		FROM artifact WHERE image = ?1 AND (?2 = 0 OR number = ?2)
		ORDER BY number, platform, region, external_id, source`, r.Image, r.Number)
	if err != nil {
		return nil, err
	}
	for i := range versions {
		for len(artifacts) > 0 && artifacts[0].number == versions[i].Number {
			versions[i].Artifacts = append(versions[i].Artifacts, artifacts[0].Artifact)
			artifacts = artifacts[1:]
		}
	}
	return versions, nil
}

// DeleteVersion implements Store.
func (s *SQLite) DeleteVersion(ctx context.Context, image string, number int) error {
	ref := Ref{Image: image, Number: number}
	return s.write(ctx, "delete "+ref.String(), func(tx *sql.Tx) error {
		if _, err := statusOf(ctx, tx, ref); err != nil {
			return err
		}
		channels, err := collect(ctx, tx, scanString, "SELECT name FROM channel WHERE image = ? AND version = ? ORDER BY name", image, number)
		if err != nil {
			return err
		}
		if len(channels) > 0 {
			return refuse(ErrInUse, "%s can't be deleted: it is in %s; promote another version there first", ref, strings.Join(channels, ", "))
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM version WHERE image = ? AND number = ?", image, number); err != nil {
			return err
		}
		return dropFacts(ctx, tx)
	})
}

// Resolve implements Store.
func (s *SQLite) Resolve(ctx context.Context, r Ref) (v Version, err error) {
	err = s.read(ctx, "look up "+r.String(), func(tx *sql.Tx) error {
		if err := needImage(ctx, tx, r.Image); err != nil {
			return err
		}
		if r.Number, err = numberOf(ctx, tx, r); err != nil {
			return err
		}
		versions, err := loadVersions(ctx, tx, r)
		if err == nil {
			v = versions[0]
		}
		return err
	})
	return v, err
}

// numberOf returns the number of the version that r names; the image exists.
func numberOf(ctx context.Context, tx *sql.Tx, r Ref) (number int, err error) {
	switch {
	case r.Number != 0:
		_, err = statusOf(ctx, tx, r)
		return r.Number, err
	case r.Channel != "":
		err = tx.QueryRowContext(ctx, "SELECT version FROM channel WHERE image = ? AND name = ?", r.Image, r.Channel).Scan(&number)
		if errors.Is(err, sql.ErrNoRows) {
			channels, err := collect(ctx, tx, scanString, "SELECT name FROM channel WHERE image = ? ORDER BY name", r.Image)
			if err != nil {
				return 0, err
			}
			return 0, notFound("channel of "+r.Image, r.Channel, channels)
		}
		return number, err
	}
	err = tx.QueryRowContext(ctx, "SELECT coalesce(max(number), 0) FROM version WHERE image = ? AND status = ?",
		r.Image, StatusReady).Scan(&number)
	if err == nil && number == 0 {
		err = refuse(ErrNotFound, "no version of %s is ready", r.Image)
	}
	return number, err
}

// needImage gives a helpful error when there is no such image.
func needImage(ctx context.Context, tx *sql.Tx, name string) error {
	var there bool
	if err := tx.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM image WHERE name = ?)", name).Scan(&there); err != nil || there {
		return err
	}
	names, err := collect(ctx, tx, scanString, "SELECT name FROM image ORDER BY name")
	if err != nil {
		return err
	}
	return notFound("image", name, names)
}

// statusOf returns a version's status, and a helpful error when there is no
// such version.
func statusOf(ctx context.Context, tx *sql.Tx, r Ref) (status string, err error) {
	err = tx.QueryRowContext(ctx, "SELECT status FROM version WHERE image = ? AND number = ?", r.Image, r.Number).Scan(&status)
	if !errors.Is(err, sql.ErrNoRows) {
		return status, err
	}
	if err := needImage(ctx, tx, r.Image); err != nil {
		return "", err
	}
	numbers, err := collect(ctx, tx, scanString, "SELECT 'v' || number FROM version WHERE image = ? ORDER BY number DESC", r.Image)
	if err != nil {
		return "", err
	}
	return "", notFound("version of "+r.Image, fmt.Sprintf("v%d", r.Number), numbers)
}
