// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"fmt"
	"strings"
	"testing"
)

// FuzzMounts reads a mount with any mount point between any other text. Only a whole line is a mount, and its path
// is what the kernel's mangle() made the line of.
func FuzzMounts(f *testing.F) {
	f.Add("/run/netns/a b", "22 1 0:21 / /proc rw - proc proc rw", "")
	f.Add("/run/netns/\\040", "41 1 0:50 / /long rw - overlay overlay rw,lowerdir=x - nsfs y", "0")
	f.Add("/ - nsfs nsfs", "\n\n - nsfs \n", "43 1 0:4 net:[4026532003] /cut rw - nsfs")
	mangle := strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`)
	f.Fuzz(func(t *testing.T, point, before, after string) {
		point = "/" + point // as all paths of the kernel
		text := fmt.Sprintf("%s\n42 1 0:4 net:[4026532002] %s rw - nsfs nsfs rw\n%s", before, mangle.Replace(point), after)
		mounts, found := 0, false
		eachMount(strings.NewReader(text), "nsfs", func(m Mountpoint) {
			mounts++
			found = found || m == Mountpoint{42, "net:[4026532002]", point}
		})
		if !found && 4*len(point) < maxMountLine/2 {
			t.Errorf("%q is not found", point)
		}
		if lines := strings.Count(text, "\n") + 1; mounts > lines {
			t.Errorf("%d mounts in %d lines", mounts, lines)
		}
		for _, ns := range PinnedFrom(strings.NewReader(text)) {
			if ns.ID == 0 {
				t.Errorf("%+v has no ID", ns)
			}
		}
	})
}
