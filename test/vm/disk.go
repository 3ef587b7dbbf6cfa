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

// A Disk is a guest's /dev/vda. QEMU logs each write to it and each flush, so the content after a
// power cut is known.
type Disk struct {
	Image string // a file as large as the disk
	log   string
}

// logRoom is the maximum size of a disk's log. The file is sparse.
const logRoom = 8 << 30

// NewDisk makes a disk with an empty ext4 in a folder.
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

// args returns QEMU's arguments for the disk.
func (d *Disk) args() []string {
	return []string{
		"-blockdev", "driver=file,node-name=image,filename=" + d.Image,
		"-blockdev", "driver=file,node-name=notes,filename=" + d.log,
		"-blockdev", "driver=blklogwrites,node-name=disk,file=image,log=notes,log-sector-size=512",
		"-device", "virtio-blk-pci,drive=disk",
	}
}

// The log has the format of the kernel's dm-log-writes: a sector with the number of entries, and
// for each entry a sector with its head and the data that was written.
const (
	logMagic  = 0x6a736677736872
	logSector = 512

	logFlush   = 1 << 0
	logFUA     = 1 << 1
	logDiscard = 1 << 2
)

type logEntry struct{ Sector, Sectors, Flags, DataLen uint64 }

// CutPower gives the disk the content that it has after a power cut at the worst time. before is a
// copy of the image from before the guest. CutPower applies all writes up to the last flush that
// the guest knows of, and nothing later. It returns how many writes that are, and how many are
// lost.
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
		return 0, 0, fmt.Errorf("this is not the log of a disk: %+v", super)
	}
	type write struct{ at, from, n int64 } // on the disk, in the log, bytes
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
		// QEMU writes the number of entries at each flush, before it completes the flush to the
		// guest. The entries behind that were not flushed.
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
