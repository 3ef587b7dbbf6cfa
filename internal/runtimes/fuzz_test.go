// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nstrace/nstrace/internal/runtimes/cri"
)

// FuzzDocker has answers of a hostile runtime with the API of Docker, or of Podman. A container has the id that was
// asked for.
func FuzzDocker(f *testing.F) {
	const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	f.Add(200, `[{"Id":"`+id+`","Names":["/a/b","/web"],"Image":"nginx","Labels":{"io.kubernetes.pod.name":"web-0"}}]`, `[{"Id":"p","Name":"pod","Containers":[{"Id":"`+id+`"}]}]`)
	f.Add(200, `[null,{}]`, `[{"Containers":null},null]`)
	f.Add(500, `{"message":"the disk is full"}`, `{`)
	f.Add(200, `{"Type":"container","Action":"start","Actor":{"ID":"`+id+`","Attributes":{"name":"x"}}}`, ``)
	var code atomic.Int64
	var list, pods atomic.Pointer[string]
	s := serveDocker(f, "1.50", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "keep-alive")
		w.WriteHeader(int(code.Load()))
		text := list.Load()
		if strings.Contains(r.URL.Path, "libpod") {
			text = pods.Load()
		}
		_, _ = w.Write([]byte(*text))
	})
	f.Fuzz(func(t *testing.T, status int, text, podsText string) {
		if status < 200 || status > 599 || status == 204 || status == 304 {
			status = 200
		}
		code.Store(int64(status))
		list.Store(&text)
		pods.Store(&podsText)
		if i, err := s.Inspect(t.Context(), id); err == nil && i.ID != id {
			t.Errorf("%+v", i)
		}
		all, err := s.List(t.Context())
		if err == nil && (status != 200 || len(all) > strings.Count(text, ",")+1) {
			t.Errorf("%d %q: %d containers", status, text, len(all))
		}
		// The first call has no container: it says that the runtime answers.
		calls := 0
		_ = s.Watch(t.Context(), func(i *Info) {
			if calls++; i == nil && calls > 1 {
				t.Errorf("%q: call %d has no container", text, calls)
			}
		})
	})
}

// FuzzCRI decodes answers of a hostile runtime with the messages of nstrace and with those of Kubernetes. Both find
// the same.
func FuzzCRI(f *testing.F) {
	for _, m := range []proto.Message{
		&cri.ContainerStatusResponse{Info: map[string]string{"info": `{"config":{"image":{"user_specified_image":"nginx"}}}`}},
		&cri.ContainerStatusResponse{Status: &cri.ContainerStatus{Labels: map[string]string{"io.kubernetes.pod.name": "web-0"}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		own, theirs := new(cri.ContainerStatusResponse), new(api.ContainerStatusResponse)
		if proto.Unmarshal(b, theirs) != nil {
			_ = proto.Unmarshal(b, own) // it knows fewer fields, so it can refuse less
			return
		}
		if err := proto.Unmarshal(b, own); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
		if a, b := own.GetStatus().GetImage().GetImage(), theirs.GetStatus().GetImage().GetImage(); a != b {
			t.Errorf("image %q, want %q", a, b)
		}
		if a, b := own.GetInfo()["info"], theirs.GetInfo()["info"]; a != b {
			t.Errorf("info %q, want %q", a, b)
		}
		verbose(own.GetInfo())
		i := new(Info)
		i.pod(own.GetStatus().GetLabels())
	})
}
