// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// Files are the files and folders that a process may use. It may execute nothing, use no TCP and UDP
// ports, and neither signal nor connect to processes outside.
//
// A process that traces cannot be restricted in this way: the kernel then lets it neither mount anything,
// which proves a hook, nor look at processes outside (hook_sb_mount() and hook_ptrace_access_check() in
// security/landlock).
type Files struct {
	Read  []string // to read, with all that is below
	Write []string // to read, change, make and remove, with all that is below
}

// Landlock restricts the process to f, as far as the kernel can: 5.13 is the first one that has Landlock.
// A path that does not exist stays out of reach.
func Landlock(f *Files) error {
	if _, err := landlockVersion(); err != nil {
		return err
	}
	var rules []landlock.Rule
	for _, set := range []struct {
		paths       []string
		dirs, files func(...string) landlock.FSRule
	}{{f.Read, landlock.RODirs, landlock.ROFiles}, {f.Write, landlock.RWDirs, landlock.RWFiles}} {
		for _, path := range set.paths {
			info, err := os.Stat(path)
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				return fmt.Errorf("restrict the process to files: %w", err)
			case info.IsDir():
				rules = append(rules, set.dirs(path))
			default:
				rules = append(rules, set.files(path))
			}
		}
	}
	if err := landlock.V11.BestEffort().Restrict(rules...); err != nil {
		return fmt.Errorf("restrict the process to files: %w", err)
	}
	return nil
}

// ReadOnly keeps the process, and all that it starts, from writing, making and removing files, except for
// /dev/null. Landlock covers truncate(2) from 6.2 on. It does not cover chmod(2), chown(2) and extended
// attributes. The process can connect to sockets in the file system, which the user database needs. The error
// wraps errors.ErrUnsupported if the kernel has no Landlock.
func ReadOnly() error {
	if _, err := landlockVersion(); err != nil {
		return err
	}
	if err := everyThread(); err != nil {
		return err
	}
	// Go opens /dev/null as the output of the programs that it starts.
	rules := []landlock.Rule{landlock.RODirs("/"), landlock.RWFiles("/dev/null").IgnoreIfMissing()}
	if dir := os.Getenv("GOCOVERDIR"); dir != "" { // where a test wants its results
		rules = append(rules, landlock.RWDirs(dir).IgnoreIfMissing())
	}
	if err := landlock.V3.BestEffort().RestrictPaths(rules...); err != nil {
		return fmt.Errorf("forbid to write files: %w", err)
	}
	return nil
}

// landlockVersion returns the version of the kernel's Landlock.
func landlockVersion() (int, error) {
	version, err := ll.LandlockGetABIVersion()
	if err != nil || version == 0 {
		return 0, fmt.Errorf("the kernel has no Landlock: %w", errors.ErrUnsupported)
	}
	return version, nil
}
