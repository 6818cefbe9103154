//go:build linux

package digitalocean

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/ingotbuild/ingot/internal/cloudtest/machines"
)

// imported is what came of an import; trouble says why nothing did.
type imported struct {
	trouble string
	content *machines.Content
	minDisk int
	sizeGB  float64
}

// maxImport is how large a custom image may be, unpacked.
const maxImport = 100 << 30

// fetch downloads a custom image and makes a machine's content of it: raw,
// qcow2, vhdx, vdi or vmdk, also with gzip or bzip2. It connects to loopback only.
func (c *Cloud) fetch(ctx context.Context, id int, from string) imported {
	dir := filepath.Join(c.o.Dir, "imports")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return imported{trouble: err.Error()}
	}
	got := filepath.Join(dir, strconv.Itoa(id)+".img")
	if err := download(ctx, from, got); err != nil {
		return imported{trouble: "The image could not be downloaded: " + err.Error()}
	}
	defer os.Remove(got)
	raw := filepath.Join(dir, strconv.Itoa(id)+".raw")
	size, err := toRaw(ctx, got, raw)
	if err != nil {
		_ = os.Remove(raw) // there may be none
		return imported{trouble: "The image could not be read: " + err.Error()}
	}
	return imported{content: c.host.RawContent(raw), minDisk: int((size + 1<<30 - 1) >> 30), sizeGB: float64(size) / (1 << 30)}
}

func download(ctx context.Context, from, to string) error {
	u, err := url.Parse(from)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return errors.New("its URL is not an http or https one")
	}
	loopback := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		at, err := netip.ParseAddrPort(address)
		if err != nil || !at.Addr().IsLoopback() {
			return nil, fmt.Errorf("%s is not a loopback address, and the emulator goes to no other", address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	defer loopback.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return errors.New("its URL is malformed")
	}
	resp, err := (&http.Client{Transport: loopback}).Do(r)
	if err != nil {
		var in *url.Error // which tells the whole URL, and that is a secret
		if errors.As(err, &in) {
			err = in.Err
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s", resp.Status)
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 3)
	n, err := io.ReadFull(resp.Body, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
		return err
	}
	body := io.MultiReader(bytes.NewReader(head[:n]), resp.Body)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		if body, err = gzip.NewReader(body); err != nil {
			return err
		}
	case bytes.Equal(head, []byte("BZh")):
		body = bzip2.NewReader(body)
	}
	size, err := io.Copy(f, io.LimitReader(body, maxImport+1))
	if err == nil && size > maxImport {
		err = errors.New("it is larger than 100 GB")
	}
	return errors.Join(err, f.Close())
}

// toRaw makes a raw image of whatever format it is, and returns its size.
func toRaw(ctx context.Context, from, to string) (int64, error) {
	out, err := exec.CommandContext(ctx, "qemu-img", "info", "--output=json", from).Output()
	if err != nil {
		return 0, fmt.Errorf("qemu-img info: %w", err)
	}
	var info struct {
		Format  string
		Size    int64  `json:"virtual-size"`
		Backing string `json:"backing-filename"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return 0, fmt.Errorf("qemu-img info: %w", err)
	}
	switch {
	case info.Backing != "":
		return 0, errors.New("it stands on another file")
	case info.Size == 0 || info.Size > maxImport:
		return 0, fmt.Errorf("its size of %d bytes is not up to 100 GB", info.Size)
	}
	switch info.Format {
	case "raw":
		return info.Size, os.Rename(from, to)
	case "qcow2", "vhdx", "vpc", "vdi", "vmdk":
		if out, err := exec.CommandContext(ctx, "qemu-img", "convert", "-f", info.Format, "-O", "raw", from, to).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("qemu-img convert: %w: %s", err, bytes.TrimSpace(out))
		}
		return info.Size, nil
	}
	return 0, fmt.Errorf("its format %s is not one of raw, qcow2, vhdx, vdi and vmdk", info.Format)
}
