// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nstrace/nstrace/event"
)

// A Kind says what an argument can be, by its form alone.
type Kind uint8

// Kinds of arguments.
const (
	KindName  Kind = iota // a name of ip netns, or the name or id of a container
	KindInode             // the inode number of a namespace
	KindPID               // the pid of a process
	KindPath              // the path of a file
	KindPod               // NAMESPACE/POD
	KindUnit              // a unit of systemd
)

// An Arg is a parsed argument.
type Arg struct {
	Kind Kind
	Text string
	Type event.NSType // of KindInode, "" if the text does not say it
	ID   uint32       // of KindInode
	PID  uint32       // of KindPID
}

// FirstInode is the lowest inode number of a namespace. Namespaces get numbers from
// PROC_DYNAMIC_FIRST (fs/proc/generic.c) on, and those of the host are a little below. No pid
// is that high.
const FirstInode = 0xf0000000 - 64

// Forms says in a message what an argument can be.
const Forms = "an inode number, TYPE:[NUMBER], a pid, a path, a name of ip netns, a container's name or id, NAMESPACE/POD, or a systemd unit"

// ErrSyntax is wrapped by the error for an argument of none of the forms.
var ErrSyntax = errors.New("want " + Forms)

// maxText is the maximum length of an argument in bytes. No name or path is longer.
const maxText = unix.PathMax

// unitSuffixes are those of units that can have processes, see systemd.unit(5).
var unitSuffixes = []string{".service", ".scope", ".slice", ".socket", ".mount", ".swap"}

// Parse returns what an argument can be. It looks nothing up.
//
//	text                          is
//	4026531840                    an inode number: no pid is that high
//	net:[4026531840], net:4026…   an inode number, as readlink /proc/PID/ns/net prints it
//	1234                          a pid
//	/run/netns/blue, ./blue       a path
//	default/web                   a pod
//	nginx.service                 a unit
//	blue                          a name
//
// A number with a sign or leading zeros is a name.
func Parse(text string) (Arg, error) {
	a := Arg{Text: text}
	switch {
	case text == "" || len(text) >= maxText || strings.Contains(text, "\x00"):
		return a, syntaxError(text)
	case strings.HasPrefix(text, "/") || strings.HasPrefix(text, "./") || strings.HasPrefix(text, "../"):
		a.Kind = KindPath
		return a, nil
	}
	if typ, rest, ok := strings.Cut(text, ":"); ok && slices.Contains(event.NSTypes(), event.NSType(typ)) {
		number, opened := strings.CutPrefix(rest, "[")
		number, closed := strings.CutSuffix(number, "]")
		if id, ok := parseNumber(number); ok && opened == closed {
			a.Kind, a.Type, a.ID = KindInode, event.NSType(typ), id
			return a, nil
		}
		if opened {
			return a, syntaxError(text)
		}
	}
	if n, ok := parseNumber(text); ok {
		if n >= FirstInode {
			a.Kind, a.ID = KindInode, n
		} else {
			a.Kind, a.PID = KindPID, n
		}
		return a, nil
	}
	if namespace, pod, ok := strings.Cut(text, "/"); ok {
		if namespace == "" || pod == "" || strings.Contains(pod, "/") {
			return a, syntaxError(text)
		}
		a.Kind = KindPod
		return a, nil
	}
	for _, suffix := range unitSuffixes {
		if base, ok := strings.CutSuffix(text, suffix); ok && base != "" {
			a.Kind = KindUnit
			return a, nil
		}
	}
	return a, nil
}

// parseNumber parses a positive number in its shortest form.
func parseNumber(text string) (uint32, bool) {
	n, err := strconv.ParseUint(text, 10, 32)
	return uint32(n), err == nil && n > 0 && text[0] != '0'
}

func syntaxError(text string) error {
	if len(text) > 100 {
		text = text[:100] + "..."
	}
	return fmt.Errorf("invalid namespace %q: %w", text, ErrSyntax)
}
