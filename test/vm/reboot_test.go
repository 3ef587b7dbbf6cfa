// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"fmt"
	"os"
	"testing"
)

// oracleBoot lets TestOracle of test/e2e go on where it was before the boot.
const oracleBoot = `
set -eu
modprobe -a virtio_blk ext4
mount -t ext4 /dev/vda /mnt
status=0
NSTRACE_BIN=%s NSTRACE_ORACLE_DIR=/mnt %s -test.v -test.run '^TestOracle$' -test.timeout 10m || status=$?
umount /mnt
exit $status
`

// TestOracleReboots reboots the machine between runs of TestOracle. nstrace blame knows what belongs to the boots
// before, whatever numbers and names come again.
func TestOracleReboots(t *testing.T) {
	t.Parallel()
	if os.Getenv("NSTRACE_TEST_ALL") != "1" {
		t.Skip("boots three guests, one after the other: make test-all")
	}
	kernel, disk := newDiskGuest(t)
	p, err := buildPayload(t, amd64, "test/e2e")
	if err != nil {
		t.Fatal(err)
	}
	for boot := range 3 {
		var out bytes.Buffer
		result, err := bootWithDisk(t, t.Context(), kernel, disk, fmt.Sprintf(oracleBoot, guestTracer, guestBinary), &out, func(root *Root) {
			root.AddProgram(p.tests, guestBinary)
			root.AddProgram(p.nstrace, guestTracer)
		})
		if err != nil || result.Code != 0 || !bytes.Contains(out.Bytes(), []byte("--- PASS: TestOracle")) {
			t.Fatalf("boot %d: %v:\n%s", boot, err, &out)
		}
	}
}
