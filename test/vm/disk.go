// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// A Disk is what a guest has as /dev/vda. QEMU notes each write to it and each flush, so
// that it can be said what is on it once the power goes.
type Disk struct {
	Image string // a file as large as the disk
	log   string
}

// logRoom is how large the notes of a disk may get. The file has holes.
const logRoom = 8 << 30

// NewDisk makes a disk with an empty ext4 on it, in a folder.
func NewDisk(ctx context.Context, dir string, size int64) (*Disk, error) {
	d := &Disk{Image: dir + "/disk", log: dir + "/disk.log"}
	for file, n := range map[string]int64{d.Image: size, d.log: logRoom} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return nil, err
		}
		if err := os.Truncate(file, n); err != nil {
			return nil, err
		}
	}
	_, err := run(ctx, "", "mke2fs", "-q", "-t", "ext4", d.Image)
	return d, err
}

// args are QEMU's for the disk.
func (d *Disk) args() []string {
	return []string{
		"-blockdev", "driver=file,node-name=image,filename=" + d.Image,
		"-blockdev", "driver=file,node-name=notes,filename=" + d.log,
		"-blockdev", "driver=blklogwrites,node-name=disk,file=image,log=notes,log-sector-size=512",
		"-device", "virtio-blk-pci,drive=disk",
	}
}

// The notes are in the format of the kernel's dm-log-writes: a sector that says how many
// entries there are, and for each a sector with its head, and what was written.
const (
	logMagic  = 0x6a736677736872
	logSector = 512

	logFlush   = 1 << 0
	logFUA     = 1 << 1
	logDiscard = 1 << 2
)

type logEntry struct{ Sector, Sectors, Flags, DataLen uint64 }

// CutPower makes the disk what it is after a power cut at the worst time, of before, a copy
// of the image from before the guest: all that was written until the guest was told last
// that the disk is flushed, and nothing of what came later. It returns how many writes
// that are, and how many are lost.
func (d *Disk) CutPower(before string) (kept, lost int, err error) {
	log, err := os.Open(d.log)
	if err != nil {
		return 0, 0, err
	}
	defer log.Close()
	image, err := os.OpenFile(before, os.O_RDWR, 0)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	var super struct {
		Magic, Version, Entries uint64
		SectorSize              uint32
	}
	if err := binary.Read(io.NewSectionReader(log, 0, logSector), binary.LittleEndian, &super); err != nil {
		return 0, 0, err
	}
	if super.Magic != logMagic || super.SectorSize != logSector {
		return 0, 0, fmt.Errorf("these are no notes of a disk: %+v", super)
	}
	type write struct{ at, from, n int64 } // on the disk, in the notes, bytes
	var since []write                      // the last flush
	at := int64(logSector)
	for i := uint64(0); ; i++ {
		var e logEntry
		if err := binary.Read(io.NewSectionReader(log, at, logSector), binary.LittleEndian, &e); err != nil {
			return kept, 0, err
		}
		if e == (logEntry{}) {
			break
		}
		at += logSector
		// QEMU says how many entries there are with each flush, before the guest is told
		// of it. What is behind that was not flushed.
		flushed := i < super.Entries
		if e.Flags&logFlush != 0 && flushed {
			for _, w := range since {
				if _, err := io.Copy(io.NewOffsetWriter(image, w.at), io.NewSectionReader(log, w.from, w.n)); err != nil {
					return kept, 0, err
				}
			}
			kept += len(since)
			since = since[:0]
		}
		if n := int64(e.Sectors) * logSector; e.Flags&logDiscard == 0 && n > 0 {
			w := write{int64(e.Sector) * logSector, at, n}
			at += n
			if e.Flags&logFUA != 0 && flushed {
				if _, err := io.Copy(io.NewOffsetWriter(image, w.at), io.NewSectionReader(log, w.from, w.n)); err != nil {
					return kept, 0, err
				}
				kept++
			} else {
				since = append(since, w)
			}
		}
	}
	return kept, len(since), os.Rename(before, d.Image)
}
