// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"strings"
	"testing"
)

// TestMounts reads lines as show_mountinfo() of the kernel writes them: it escapes spaces, tabs, line
// feeds and backslashes in paths, but no other white space.
func TestMounts(t *testing.T) {
	text := "22 1 0:21 / /proc rw - proc proc rw\n" +
		"40 1 0:4 net:[4026532001] /run/netns/a\\040b\\012c\\134\\011d\r\u00a0\ve rw shared:5 - nsfs nsfs rw\n" +
		"41 1 0:50 / /long rw - overlay overlay rw,lowerdir=" + strings.Repeat("x - nsfs y", maxMountLine/4) + "\n" +
		"42 1 0:4 net:[4026532002] /run/netns/web rw - nsfs nsfs rw\n" +
		"43 1 0:4 net:[4026532003] /run/netns/cut rw - nsfs nsfs rw"
	var got []string
	for _, ns := range PinnedFrom(strings.NewReader(text)) {
		got = append(got, ns.Path)
	}
	want := []string{"/run/netns/a b\nc\\\td\r\u00a0\ve", "/run/netns/web", "/run/netns/cut"}
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("got %q, want %q", got[i], want[i])
		}
	}
}
