// SPDX-License-Identifier: Apache-2.0

package output

import "github.com/nstrace/nstrace/event"

var netdevMove = kind{
	name: "netdev", style: moved, happened: [2]string{"device moved", "devices moved"},
	target: (*Table).device, change: (*Table).deviceOrigin, who: (*Table).deviceMover,
}

// device is "veth0 → eth0 to net 4026532116 web". A device that was made in the namespace is
// "in" it.
func (t *Table) device(ev *event.Event) []word {
	d := ev.Netdev
	if d == nil {
		return nil
	}
	words := []word{newWord(escapeName(d.Name, arrow), strong)}
	if d.NewName != "" {
		words = append(words, joinedWord(arrow+" "+escapeName(d.NewName, arrow), strong))
	}
	to := "to "
	if d.Created {
		to = "in "
	}
	switch {
	case d.To == nil:
		return append(words, newWord(to+"net "+unknown, doubtful))
	case t.isHost(d.To):
		return append(words, newWord(to+"host", strong))
	}
	w := t.namespace(d.To)
	w[0].text = to + w[0].text
	return append(words, w...)
}

// deviceOrigin is the namespace that the device left, or in which its creation was
// requested.
func (t *Table) deviceOrigin(ev *event.Event) []word {
	d := ev.Netdev
	if d == nil {
		return nil
	}
	from := "from "
	if d.Created {
		from = "made from "
	}
	switch {
	case d.From == nil || d.From.ID == 0:
		return []word{newWord(from+unknown, doubtful)}
	case t.isHost(d.From):
		return []word{newWord(from+"host", normal)}
	}
	words := []word{newWord(from+number(d.From.ID), normal)}
	if d.From.Name != "" {
		words = append(words, joinedWord(escapeName(d.From.Name, `" ()`), normal))
	}
	return words
}

// deviceMover says why no process moved the device: a kernel worker moves it out of a
// namespace that ends.
func (t *Table) deviceMover(ev *event.Event) []word {
	if ev.Via != "exit" {
		return nil
	}
	return []word{newWord("its namespace ended", faint)}
}
