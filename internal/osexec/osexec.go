// SPDX-License-Identifier: Apache-2.0

// Package osexec runs programs whose output others can make long.
package osexec

import (
	"bytes"
	"errors"
	"os/exec"
	"time"
)

// ErrTooLong is the error if a program writes more than it may. The program does not finish then.
var ErrTooLong = errors.New("the output is too long")

// waitDelay is how long a program may keep its standard output open after its context ended it.
const waitDelay = time.Second

// Output runs a command and returns its standard output, at most limit bytes. It sets the Stdout and the
// WaitDelay of cmd.
func Output(cmd *exec.Cmd, limit int) (string, error) {
	out := &limitedBuffer{left: limit}
	cmd.Stdout, cmd.WaitDelay = out, waitDelay
	if err := cmd.Run(); err != nil {
		return "", err
	}
	return out.String(), nil
}

// A limitedBuffer refuses what is beyond its limit.
type limitedBuffer struct {
	bytes.Buffer
	left int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if len(p) > b.left {
		return 0, ErrTooLong
	}
	b.left -= len(p)
	return b.Buffer.Write(p)
}
