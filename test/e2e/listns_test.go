// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestListUnseen has a namespace whose only holder is a descriptor on its way through a Unix socket.
// From 6.19 on the kernel lists it (listns(2)); before that nothing shows it.
func TestListUnseen(t *testing.T) {
	const sysListns = 470
	_, _, errno := unix.Syscall6(sysListns, 0, 0, 0, 0, 0, 0)
	known := errno != unix.ENOSYS
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	made := make(chan uint32)
	go func() {
		defer close(made)
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
			t.Error(err)
			return
		}
		f, err := os.Open("/proc/thread-self/ns/uts")
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
			t.Error(err)
			return
		}
		made <- uint32(st.Ino)
	}()
	id := <-made
	<-made
	if id == 0 {
		return
	}
	// The thread leaves the namespace when it ends, which is after its goroutine did.
	find := func() *listed {
		for _, n := range list(t, "-t", "uts") {
			if n.Namespace.ID == id {
				return &n
			}
		}
		return nil
	}
	var n *listed
	for end := time.Now().Add(patience); ; {
		if n = find(); n == nil || n.Unseen {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the thread does not leave the namespace: %+v", n)
		}
	}
	if (n != nil) != known {
		t.Errorf("listns(2) is there: %v; listed: %+v", known, n)
	}
	if known {
		text := output(t, nstraceBin, "list", "-t", "uts", "--filter", fmt.Sprintf("namespace.id == %d", id))
		if !strings.Contains(text, "something that cannot be seen") {
			t.Errorf("%s", text)
		}
	}
}
