// SPDX-License-Identifier: Apache-2.0

package show

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nstrace/nstrace/event"
	"github.com/nstrace/nstrace/internal/inventory"
	"github.com/nstrace/nstrace/internal/osexec"
	"github.com/nstrace/nstrace/internal/procfs"
	"github.com/nstrace/nstrace/output"
)

// systemctlTime bounds the question to the service manager.
const systemctlTime = 5 * time.Second

// private are the settings of a unit that promise it a namespace of its own, see systemd.exec(5). A
// setting that a version of systemd does not know is not in the answer of systemctl.
var private = []struct {
	setting string
	typ     event.NSType
	values  []string // that promise it
}{
	{"PrivateNetwork", event.NSTypeNet, []string{"yes"}},
	{"PrivateUsers", event.NSTypeUser, []string{"yes", "self", "identity", "full", "managed"}},
	{"PrivateIPC", event.NSTypeIPC, []string{"yes"}},
	{"PrivateMounts", event.NSTypeMnt, []string{"yes"}},
	{"PrivatePIDs", event.NSTypePID, []string{"yes"}},
	{"ProtectHostname", event.NSTypeUTS, []string{"yes", "private"}},
	{"ProtectControlGroupsEx", event.NSTypeCgroup, []string{"private", "strict"}},
}

// paths are the settings that name the file of a namespace.
var paths = []struct {
	setting string
	typ     event.NSType
}{
	{"NetworkNamespacePath", event.NSTypeNet},
	{"IPCNamespacePath", event.NSTypeIPC},
	{"UserNamespacePath", event.NSTypeUser},
}

// isolation compares what a unit declares with the namespaces that its main process is in.
func isolation(ctx context.Context, page *output.Page, unit string, inv *inventory.Inventory) {
	declared, err := systemctl(ctx, unit)
	if err != nil {
		page.Incomplete = append(page.Incomplete, fmt.Sprintf("what %q declares: %v", unit, err))
		return
	}
	pid, _ := strconv.ParseUint(declared["MainPID"], 10, 32)
	p := inv.Process(uint32(pid))
	if pid == 0 || p == nil {
		page.Incomplete = append(page.Incomplete, fmt.Sprintf("whether %q has what it declares: it has no main process", unit))
		return
	}
	add := func(setting, value string, typ event.NSType, holds bool, why string) {
		page.Isolation = append(page.Isolation, output.Isolation{Setting: setting, Value: value, Type: typ, Actual: p.In(typ), Holds: holds, Why: why})
	}
	given := map[event.NSType]bool{} // by the path of a namespace
	for _, s := range paths {
		value := declared[s.setting]
		if value == "" {
			continue
		}
		given[s.typ] = true
		id, err := procfs.NamespaceInode(value)
		switch {
		case err != nil:
			page.Incomplete = append(page.Incomplete, fmt.Sprintf("whether %s holds: %v", s.setting, err))
		case p.In(s.typ) != 0:
			add(s.setting, value, s.typ, p.In(s.typ) == id, fmt.Sprintf("the file leads to %d", id))
		}
	}
	joined := joins(ctx, declared["JoinsNamespaceOf"], inv)
	for _, s := range private {
		value := declared[s.setting]
		own := p.In(s.typ)
		host := inv.Host[s.typ]
		if !slices.Contains(s.values, value) || given[s.typ] || own == 0 || host == 0 {
			continue
		}
		if own == host {
			add(s.setting, value, s.typ, false, "it is in the host's")
		} else {
			add(s.setting, value, s.typ, true, "it is not in the host's")
		}
		// systemd.unit(5): the network, IPC and /tmp namespaces can be joined, if both units have
		// the setting.
		if s.typ == event.NSTypeNet || s.typ == event.NSTypeIPC {
			for _, j := range joined {
				if other := j.p.In(s.typ); other != 0 && slices.Contains(s.values, j.declared[s.setting]) {
					add("JoinsNamespaceOf", j.unit, s.typ, own == other, fmt.Sprintf("%s is in %d", output.Escape(j.unit), other))
				}
			}
		}
	}
}

// A joinedUnit is a unit whose namespaces another one joins.
type joinedUnit struct {
	unit     string
	declared map[string]string
	p        *inventory.Process
}

// joins returns the units of JoinsNamespaceOf that run.
func joins(ctx context.Context, units string, inv *inventory.Inventory) (all []joinedUnit) {
	for _, unit := range strings.Fields(units) {
		declared, err := systemctl(ctx, unit)
		if err != nil {
			continue
		}
		pid, _ := strconv.ParseUint(declared["MainPID"], 10, 32)
		if p := inv.Process(uint32(pid)); pid != 0 && p != nil {
			all = append(all, joinedUnit{unit, declared, p})
		}
	}
	return all
}

// maxSystemctl bounds the answer of systemctl.
const maxSystemctl = 1 << 20

// systemctl returns the properties of a unit of the system manager.
func systemctl(ctx context.Context, unit string) (map[string]string, error) {
	names := []string{"MainPID", "JoinsNamespaceOf"}
	for _, s := range private {
		names = append(names, s.setting)
	}
	for _, s := range paths {
		names = append(names, s.setting)
	}
	program, err := osexec.Program("systemctl")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, systemctlTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "show", "--property="+strings.Join(names, ","), "--", unit)
	out, err := osexec.Output(cmd, maxSystemctl)
	if err != nil {
		return nil, fmt.Errorf("systemctl show: %w", err)
	}
	properties := map[string]string{}
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			properties[name] = value
		}
	}
	return properties, nil
}
