// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"time"

	"github.com/nstrace/nstrace/bpf"
	"github.com/nstrace/nstrace/event"
)

// detachedEvery is how often a run looks whether somebody detached a program.
const detachedEvery = time.Second

// detachedDue returns when to look next.
func (t *Tracer) detachedDue() time.Time { return t.looked.Add(detachedEvery) }

// reportDetached emits a trace.tamper for each link that somebody detached since the last time, unless a
// record said so: the programs do not see each way to call bpf(2). It then has the hooks proven, so that
// nstrace attaches again.
func (t *Tracer) reportDetached() error {
	t.looked = time.Now()
	l := t.attached.loaded
	for i := range l.picks {
		for _, name := range l.picks[i].programs {
			id, detached := l.detachedLink(name)
			key := bpf.NstraceOwnKey{Object: uint32(bpf.NstraceOwnObjectOWN_LINK), Id: id}
			if !detached || t.interpreter.tampered[key] {
				continue
			}
			t.interpreter.noteTampered(key)
			err := t.out.emit(&event.Event{
				Type: event.TraceTamper, Time: time.Now().UTC(), Via: event.ViaBPF,
				Tamper: &event.Tamper{Action: tamperActions[cmdLinkDetach], Object: name},
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
