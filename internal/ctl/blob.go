package ctl

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// seals make a memfd immutable for everybody who ever gets it.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// NewBlob returns b as a sealed memory file. It can be handed to one front after the other: none can change it for the next.
func NewBlob(b []byte) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("gateway-setup", flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // Linux before 6.3
		fd, err = unix.MemfdCreate("gateway-setup", flags)
	}
	if err != nil {
		return nil, fmt.Errorf("ctl: memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "blob")
	if _, err := f.Write(b); err != nil {
		return nil, errors.Join(fmt.Errorf("ctl: blob: %w", err), f.Close())
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, errors.Join(fmt.Errorf("ctl: seal blob: %w", err), f.Close())
	}
	return f, nil
}

// ReadBlob returns what [NewBlob] was given. It refuses a file that could still change, and one of more than limit bytes.
// The file's offset, which all fronts share, is neither used nor moved.
func ReadBlob(f *os.File, limit int64) ([]byte, error) {
	fd, err := Descriptor(f)
	if err != nil {
		return nil, fmt.Errorf("ctl: blob: %w", err)
	}
	have, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	runtime.KeepAlive(f)
	if err != nil || have&seals != seals {
		return nil, errors.New("ctl: blob: not a sealed memory file")
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("ctl: blob: %w", err)
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("ctl: blob: %d bytes, at most %d", info.Size(), limit)
	}
	b := make([]byte, info.Size())
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, info.Size()), b); err != nil {
		return nil, fmt.Errorf("ctl: blob: %w", err)
	}
	return b, nil
}
