// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestStoreFlags checks that flags which a store cannot answer are refused, each in one line.
func TestStoreFlags(t *testing.T) {
	const at = "--store=http://127.0.0.1:1"
	for _, tt := range []struct {
		command func() *cobra.Command
		args    []string
		want    string
	}{
		{newBlame, []string{"--host", "web"}, "--host needs --store"},
		{newHistory, []string{"--host", "web"}, "--host needs --store"},
		{newBlame, []string{at, "--all"}, "--all needs the database of a host"},
		{newBlame, []string{at, "--boot"}, "--boot needs the database of a host"},
		{newBlame, []string{at, "--db", "x"}, "--db needs the database of a host"},
		{newHistory, []string{at, "-f"}, "--follow needs the database of a host"},
		{newHistory, []string{at, "--boot=-1"}, "want the id of a boot"},
		{newHistory, []string{at, "--netns", "1"}, "a process or a file of one host"},
		{newBlame, []string{at, "--netns", "/proc/1/ns/net"}, "a process or a file of one host"},
		{newBlame, []string{at, "--host", "["}, `invalid host "["`},
		{newBlame, []string{"--store", "logs"}, "want for example http://localhost:9428"},
		{newHistory, []string{"sysctl", "kernel.printk", at, "-f"}, "--follow needs the database of a host"},
	} {
		cmd := tt.command()
		cmd.SetArgs(tt.args)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		err := cmd.Execute()
		var usage usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v, want %q", tt.args, err, tt.want)
		}
	}
}
