package registry

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

const channelColumns = "image, name, version, rev, since"

func scanChannel(row scanner) (c Channel, err error) {
	return c, row.Scan(&c.Image, &c.Name, &c.Version, &c.Rev, (*stamp)(&c.Since))
}

// Channels implements Store.
func (s *SQLite) Channels(ctx context.Context, image string) (channels []Channel, err error) {
	err = s.read(ctx, "read the channels of "+image, func(tx *sql.Tx) error {
		if err := needImage(ctx, tx, image); err != nil {
			return err
		}
		channels, err = loadChannels(ctx, tx, image)
		return err
	})
	return channels, err
}

func loadChannels(ctx context.Context, tx *sql.Tx, image string) ([]Channel, error) {
	return collect(ctx, tx, scanChannel, "SELECT "+channelColumns+" FROM channel WHERE image = ? ORDER BY name", image)
}

// Promote implements Store.
func (s *SQLite) Promote(ctx context.Context, p Promotion) (ChannelEvent, error) {
	target := Ref{Image: p.Image, Number: p.Version}
	if err := errors.Join(CheckImage(p.Image), CheckChannel(p.Channel)); err != nil {
		return ChannelEvent{}, err
	}
	if strings.TrimSpace(p.Actor) == "" {
		return ChannelEvent{}, fmt.Errorf("promote %s to %s: say who does it", target, p.Channel)
	}
	var e ChannelEvent
	err := s.write(ctx, fmt.Sprintf("promote %s to %s", target, p.Channel), func(tx *sql.Tx) error {
		status, err := statusOf(ctx, tx, target)
		if err != nil {
			return err
		}
		at := Channel{Image: p.Image, Name: p.Channel}
		err = tx.QueryRowContext(ctx, "SELECT version, rev FROM channel WHERE image = ? AND name = ?", p.Image, p.Channel).
			Scan(&at.Version, &at.Rev)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		where := "is not there yet"
		if at.Rev > 0 {
			where = fmt.Sprintf("is at v%d, revision %d", at.Version, at.Rev)
		}
		switch {
		case at.Version == p.Version:
			return refuse(ErrAlreadyThere, "%s is in %s already", target, p.Channel)
		case at.Rev != p.Rev:
			return refuse(ErrConflict, "channel %s of %s %s, and not at revision %d as it was when you read it: look at its history and decide again",
				p.Channel, p.Image, where, p.Rev)
		case status != StatusReady && !p.Force:
			return refuse(ErrNotReady, "%s is %s: finish it or bake again, or force it", target, status)
		}
		e = ChannelEvent{
			Image: p.Image, Channel: p.Channel, Rev: at.Rev + 1, From: at.Version, To: p.Version,
			Forced: status != StatusReady, At: now(),
			Actor: strings.ToValidUTF8(p.Actor, "?"), Reason: strings.ToValidUTF8(p.Reason, "?"),
		}
		err = tx.QueryRowContext(ctx, "SELECT seq, hash FROM channel_event WHERE image = ? ORDER BY seq DESC LIMIT 1", p.Image).
			Scan(&e.Seq, &e.PrevHash)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		e.Seq++
		e.Hash = e.hash()
		if err := insertEvent(ctx, tx, e); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO channel (`+channelColumns+`) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (image, name) DO UPDATE SET version = excluded.version, rev = excluded.rev, since = excluded.since`,
			e.Image, e.Channel, e.To, e.Rev, stamp(e.At))
		return err
	})
	if err != nil {
		return ChannelEvent{}, err
	}
	return e, nil
}

// hash is over the event and, by the hash of the one before, over all of the
// history up to it. A change of its form would make every history look forged.
func (e ChannelEvent) hash() string {
	// Strings, numbers and a bool: Marshal can't fail.
	text, _ := json.Marshal([]any{"ingot channel event 1", e.PrevHash, e.Image, e.Seq, e.Channel, e.Rev,
		e.From, e.To, e.Forced, e.Actor, e.Reason, e.At.UTC().Format(stampLayout)})
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

const eventColumns = "image, seq, channel, rev, from_version, to_version, forced, actor, reason, at, prev_hash, hash"

func insertEvent(ctx context.Context, tx *sql.Tx, e ChannelEvent) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO channel_event ("+eventColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		e.Image, e.Seq, e.Channel, e.Rev, e.From, e.To, e.Forced, e.Actor, e.Reason, stamp(e.At), e.PrevHash, e.Hash)
	return err
}

func loadHistory(ctx context.Context, tx *sql.Tx, image string) ([]ChannelEvent, error) {
	scan := func(row scanner) (e ChannelEvent, err error) {
		return e, row.Scan(&e.Image, &e.Seq, &e.Channel, &e.Rev, &e.From, &e.To, &e.Forced, &e.Actor, &e.Reason,
			(*stamp)(&e.At), &e.PrevHash, &e.Hash)
	}
	return collect(ctx, tx, scan, "SELECT "+eventColumns+" FROM channel_event WHERE image = ? ORDER BY seq", image)
}

// History implements Store.
func (s *SQLite) History(ctx context.Context, image string) (events []ChannelEvent, err error) {
	err = s.read(ctx, "read the history of "+image, func(tx *sql.Tx) error {
		if err := needImage(ctx, tx, image); err != nil {
			return err
		}
		events, err = loadHistory(ctx, tx, image)
		return err
	})
	return events, err
}

// VerifyHistory implements Store.
func (s *SQLite) VerifyHistory(ctx context.Context, image string) error {
	return s.read(ctx, "verify the history of "+image, func(tx *sql.Tx) error {
		if err := needImage(ctx, tx, image); err != nil {
			return err
		}
		return verifyHistory(ctx, tx, image)
	})
}

func verifyHistory(ctx context.Context, tx *sql.Tx, image string) error {
	events, err := loadHistory(ctx, tx, image)
	if err != nil {
		return err
	}
	channels, err := loadChannels(ctx, tx, image)
	if err != nil {
		return err
	}
	prevHash := ""
	at := map[string]Channel{}
	for i, e := range events {
		before := at[e.Channel]
		switch {
		case e.Seq != int64(i)+1:
			return fmt.Errorf("event %d of %s is missing", i+1, image)
		case e.PrevHash != prevHash || e.Hash != e.hash():
			return fmt.Errorf("event %d of %s (%s to v%d, %s) was changed", e.Seq, image, e.Channel, e.To, e.At.Format(time.RFC3339))
		case e.Rev != before.Rev+1 || e.From != before.Version:
			return fmt.Errorf("event %d of %s does not follow from those before: %s was at v%d, revision %d", e.Seq, image, e.Channel, before.Version, before.Rev)
		}
		prevHash = e.Hash
		at[e.Channel] = Channel{Image: image, Name: e.Channel, Version: e.To, Rev: e.Rev, Since: e.At}
	}
	for _, c := range channels {
		if want := at[c.Name]; c != want {
			return fmt.Errorf("channel %s of %s is at v%d, revision %d; its history says v%d, revision %d", c.Name, image, c.Version, c.Rev, want.Version, want.Rev)
		}
		delete(at, c.Name)
	}
	for name := range at {
		return fmt.Errorf("channel %s of %s is in the history but not there", name, image)
	}
	return nil
}
