package registry

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// exportFormat is the version of the form that Export writes.
const exportFormat = 1

// line is one line of an export: exactly one field is set.
type line struct {
	Format  int           `json:"ingotRegistry,omitempty"` // the first line
	Image   *exportImage  `json:"image,omitempty"`
	Version *Version      `json:"version,omitempty"`
	Event   *ChannelEvent `json:"event,omitempty"`
	Channel *Channel      `json:"channel,omitempty"`
	Facts   *exportFacts  `json:"facts,omitempty"`
	// Lines is the number of lines before it. It is the last line, so that an
	// export that was cut short is known as one.
	Lines int `json:"lines,omitempty"`
}

type exportImage struct {
	Name    string    `json:"name"`
	Last    int       `json:"last"` // the highest number ever given
	Created time.Time `json:"created"`
}

// exportFacts is one part of the facts of a version, which stands before it.
type exportFacts struct {
	Image  string `json:"image"`
	Number int    `json:"number"`
	Source string `json:"source"`
	Part   string `json:"part"`
	Data   []byte `json:"data"` // compressed, as it is kept
}

// Export implements Store.
func (s *SQLite) Export(ctx context.Context, w io.Writer) error {
	lines := []line{{Format: exportFormat}}
	// A slow w must not keep the transaction open, so all is read first.
	err := s.read(ctx, "export", func(tx *sql.Tx) error {
		scan := func(row scanner) (i exportImage, err error) {
			return i, row.Scan(&i.Name, &i.Last, (*stamp)(&i.Created))
		}
		images, err := collect(ctx, tx, scan, "SELECT name, last, created FROM image ORDER BY name")
		if err != nil {
			return err
		}
		for _, image := range images {
			of, err := linesOf(ctx, tx, image)
			if err != nil {
				return err
			}
			lines = append(lines, of...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	encoder := json.NewEncoder(out)
	for _, l := range append(lines, line{Lines: len(lines)}) {
		if err := encoder.Encode(l); err != nil {
			return fmt.Errorf("write the export: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write the export: %w", err)
	}
	return nil
}

func linesOf(ctx context.Context, tx *sql.Tx, image exportImage) ([]line, error) {
	versions, err := loadVersions(ctx, tx, Ref{Image: image.Name})
	if err != nil {
		return nil, err
	}
	events, err := loadHistory(ctx, tx, image.Name)
	if err != nil {
		return nil, err
	}
	channels, err := loadChannels(ctx, tx, image.Name)
	if err != nil {
		return nil, err
	}
	lines := []line{{Image: &image}}
	for i := range versions {
		lines = append(lines, line{Version: &versions[i]})
		facts, err := loadFacts(ctx, tx, versions[i].Ref())
		if err != nil {
			return nil, err
		}
		for _, source := range slices.Sorted(maps.Keys(facts)) {
			for _, part := range slices.Sorted(maps.Keys(facts[source])) {
				packed, err := pack(facts[source][part])
				if err != nil {
					return nil, err
				}
				lines = append(lines, line{Facts: &exportFacts{image.Name, versions[i].Number, source, part, packed}})
			}
		}
	}
	for i := range events {
		lines = append(lines, line{Event: &events[i]})
	}
	for i := range channels {
		lines = append(lines, line{Channel: &channels[i]})
	}
	return lines, nil
}

// Import implements Store.
func (s *SQLite) Import(ctx context.Context, r io.Reader) error {
	// A slow r must not keep the registry locked, so all is read first.
	lines, err := readExport(r)
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	return s.write(ctx, "import", func(tx *sql.Tx) error {
		for i, l := range lines {
			if err := insertLine(ctx, tx, l); err != nil {
				return fmt.Errorf("line %d: %w", i+2, err)
			}
		}
		for _, l := range lines {
			if l.Image == nil {
				continue
			}
			if err := verifyHistory(ctx, tx, l.Image.Name); err != nil {
				return err
			}
		}
		return nil
	})
}

// maxLine bounds the memory that one line of an import can take.
const maxLine = 16 << 20

// readExport reads and checks the lines between the first and the last.
func readExport(r io.Reader) ([]line, error) {
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, maxLine)
	var lines []line
	last := map[string]int{} // per image
	ended := false
	n := 0
	for scan.Scan() {
		n++
		var l line
		decoder := json.NewDecoder(bytes.NewReader(scan.Bytes()))
		decoder.DisallowUnknownFields() // to drop what we don't know would be to lose it
		err := decoder.Decode(&l)
		switch {
		case err != nil:
		case n == 1 && l.Format != exportFormat, n > 1 && l.Format != 0, ended:
			err = fmt.Errorf("not a registry's export of format %d", exportFormat)
		case l.Lines != 0 && l.Lines != n-1:
			err = fmt.Errorf("%d lines were expected before this", l.Lines)
		case l.Lines != 0:
			ended = true
		case n > 1:
			err = l.check(last)
			lines = append(lines, l)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("after line %d: %w", n, err)
	}
	if !ended {
		return nil, errors.New("the last line is missing: the export was cut short")
	}
	return lines, nil
}

// check says what is wrong with a line, which may hold anything. last has the
// highest number of each image so far.
func (l line) check(last map[string]int) error {
	known := func(image string, number int) error {
		if highest, ok := last[image]; !ok || number < 1 || number > highest {
			return fmt.Errorf("no line before it has an image %.80q with a version %d", image, number)
		}
		return nil
	}
	switch {
	case l.Image != nil:
		if l.Image.Last < 0 {
			return fmt.Errorf("image %.80q has %d versions", l.Image.Name, l.Image.Last)
		}
		last[l.Image.Name] = l.Image.Last
		return CheckImage(l.Image.Name)
	case l.Version != nil:
		return errors.Join(l.Version.check(), known(l.Version.Image, l.Version.Number))
	case l.Facts != nil:
		if _, err := unpack(l.Facts.Data); err != nil || l.Facts.Part == "" {
			return fmt.Errorf("facts of %.80q that cannot be read (%v)", l.Facts.Image, err)
		}
		return known(l.Facts.Image, l.Facts.Number)
	case l.Event != nil:
		return errors.Join(CheckChannel(l.Event.Channel), known(l.Event.Image, l.Event.To))
	case l.Channel != nil:
		return errors.Join(CheckChannel(l.Channel.Name), known(l.Channel.Image, l.Channel.Version))
	}
	return errors.New("nothing that an export holds")
}

func insertLine(ctx context.Context, tx *sql.Tx, l line) error {
	switch {
	case l.Image != nil:
		isNew, err := changed(ctx, tx, "INSERT INTO image (name, last, created) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
			l.Image.Name, l.Image.Last, stamp(l.Image.Created))
		if err == nil && !isNew {
			return refuse(ErrConflict, "image %s is in the registry already: import into one that has no such image", l.Image.Name)
		}
		return err
	case l.Version != nil:
		return insertVersion(ctx, tx, *l.Version)
	case l.Facts != nil:
		data, err := unpack(l.Facts.Data)
		if err != nil {
			return err
		}
		return insertFacts(ctx, tx, Ref{Image: l.Facts.Image, Number: l.Facts.Number}, Facts{l.Facts.Source: {l.Facts.Part: data}})
	case l.Event != nil:
		return insertEvent(ctx, tx, *l.Event)
	}
	c := l.Channel
	_, err := tx.ExecContext(ctx, "INSERT INTO channel ("+channelColumns+") VALUES (?, ?, ?, ?, ?)",
		c.Image, c.Name, c.Version, c.Rev, stamp(c.Since))
	return err
}
