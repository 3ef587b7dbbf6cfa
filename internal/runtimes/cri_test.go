// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	api "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/nstrace/nstrace/internal/runtimes/cri"
)

// A fakeCRI answers with all messages of k8s.io/cri-api.
type fakeCRI struct {
	api.UnimplementedRuntimeServiceServer
	fails      error
	containers []*api.Container
	events     func(api.RuntimeService_GetContainerEventsServer) error
}

func (f *fakeCRI) Version(context.Context, *api.VersionRequest) (*api.VersionResponse, error) {
	return &api.VersionResponse{Version: "0.1.0", RuntimeName: "containerd", RuntimeVersion: "2.1.0", RuntimeApiVersion: "v1"}, f.fails
}

func (f *fakeCRI) ListContainers(_ context.Context, r *api.ListContainersRequest) (*api.ListContainersResponse, error) {
	var found []*api.Container
	for _, c := range f.containers {
		if strings.HasPrefix(c.Id, r.GetFilter().GetId()) {
			found = append(found, c)
		}
	}
	return &api.ListContainersResponse{Containers: found}, nil
}

func (f *fakeCRI) ListPodSandbox(context.Context, *api.ListPodSandboxRequest) (*api.ListPodSandboxResponse, error) {
	return &api.ListPodSandboxResponse{}, nil
}

func (f *fakeCRI) ContainerStatus(_ context.Context, r *api.ContainerStatusRequest) (*api.ContainerStatusResponse, error) {
	return &api.ContainerStatusResponse{
		Status: &api.ContainerStatus{
			Id:     r.ContainerId,
			Image:  &api.ImageSpec{Image: "sha256:0", UserSpecifiedImage: "nginx:1.29"},
			Labels: map[string]string{"io.kubernetes.pod.name": "web-0"},
			State:  api.ContainerState_CONTAINER_RUNNING,
			Mounts: []*api.Mount{{HostPath: "/etc"}},
		},
		Info: map[string]string{"info": "{}"},
	}, nil
}

func (f *fakeCRI) PodSandboxStatus(_ context.Context, r *api.PodSandboxStatusRequest) (*api.PodSandboxStatusResponse, error) {
	return &api.PodSandboxStatusResponse{Status: &api.PodSandboxStatus{
		Id:       r.PodSandboxId,
		Metadata: &api.PodSandboxMetadata{Name: "web-0", Uid: "8fbb1b12", Namespace: "shop", Attempt: 3},
	}}, nil
}

func (f *fakeCRI) GetContainerEvents(_ *api.GetEventsRequest, s api.RuntimeService_GetContainerEventsServer) error {
	return f.events(s)
}

func serveCRI(t *testing.T, f *fakeCRI) Source {
	t.Helper()
	l, s := openCRI(t)
	server := grpc.NewServer()
	api.RegisterRuntimeServiceServer(server, f)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return s
}

// openCRI listens at a socket, and returns a client of it.
func openCRI(t *testing.T) (net.Listener, Source) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cri.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), "cri:"+path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Close()
		_ = l.Close()
	})
	return l, s
}

// TestCRI reads the answers of a server with Google's gRPC and the messages of Kubernetes.
func TestCRI(t *testing.T) {
	id := unknownID
	f := &fakeCRI{containers: []*api.Container{{Id: id, PodSandboxId: "ab", Metadata: &api.ContainerMetadata{Name: "nginx", Attempt: 1}}}}
	quit := make(chan struct{})
	f.events = func(s api.RuntimeService_GetContainerEventsServer) error {
		if err := s.Send(&api.ContainerEventResponse{ContainerId: id, CreatedAt: 1, PodSandboxStatus: &api.PodSandboxStatus{Id: "ab"}}); err != nil {
			return err
		}
		<-quit
		return status.Error(codes.Unavailable, "the server stops")
	}
	s := serveCRI(t, f)
	want := Info{ID: id, Name: "nginx", Image: "nginx:1.29", Runtime: "containerd", PodName: "web-0", PodNamespace: "shop", PodUID: "8fbb1b12"}
	if got := inspect(t, s, id[:12]); *got != want {
		t.Errorf("%+v, want %+v", *got, want)
	}
	checkList(t, s, &want)
	f.containers[0].Id = "cd" // another one
	checkUnknown(t, s)
	f.containers[0].Id = id

	w := watch(t, s)
	w.sees(t, 0, "")
	w.sees(t, 0, id)
	close(quit)
	if err := w.ends(t); err == nil || !strings.HasSuffix(err.Error(), ": the server stops") {
		t.Errorf("the stream ended: %v", err)
	}
}

// TestCRIQuiet checks that a watcher begins before the first event, and ends when it is told to.
func TestCRIQuiet(t *testing.T) {
	s := serveCRI(t, &fakeCRI{events: func(s api.RuntimeService_GetContainerEventsServer) error {
		<-s.Context().Done()
		return nil
	}})
	w := watch(t, s)
	w.sees(t, 0, "")
	w.stop()
	if err := w.ends(t); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestCRIFailures checks what becomes of answers that are no list.
func TestCRIFailures(t *testing.T) {
	const grpcType = "application/grpc+proto"
	frame := func(w http.ResponseWriter, flags byte, size int, content []byte) {
		w.Header().Set("Content-Type", grpcType)
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write(append(binary.BigEndian.AppendUint32([]byte{flags}, uint32(size)), content...))
		w.Header().Set("Grpc-Status", "0")
	}
	fails := func(code codes.Code, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", grpcType)
			w.Header().Set("Grpc-Status", strconv.Itoa(int(code)))
			w.Header().Set("Grpc-Message", text)
		}
	}
	many := func(n int) []byte {
		text, err := proto.Marshal(&cri.ListContainersResponse{Containers: []*cri.Container{{Id: strings.Repeat("a", n)}}})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, tt := range []struct {
		name   string
		handle http.HandlerFunc
		is     error
		says   string
	}{
		{name: "not found", handle: fails(codes.NotFound, "x"), is: ErrNotFound},
		{name: "a message", handle: fails(codes.Internal, "the disk is full%0Aor not"), says: ": the disk is full"},
		{name: "a long message", handle: fails(codes.Internal, strings.Repeat("x", 2*maxMessage)), says: "COMPRESSION_ERROR"},
		{name: "too large", handle: func(w http.ResponseWriter, _ *http.Request) {
			text := many(answerSize)
			frame(w, 0, len(text), text)
		}, says: "larger than configured max"},
		{name: "less than said", handle: func(w http.ResponseWriter, _ *http.Request) { frame(w, 0, answerSize, many(9)) }, says: "unexpected EOF"},
		{name: "no message at all", handle: func(w http.ResponseWriter, _ *http.Request) { frame(w, 0, 3, []byte("xyz")) }, says: "unmarshal"},
		{name: "compressed", handle: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Grpc-Encoding", "gzip")
			var text strings.Builder
			z := gzip.NewWriter(&text)
			_, _ = z.Write(make([]byte, 1<<20))
			_ = z.Close()
			frame(w, 1, text.Len(), []byte(text.String()))
		}, says: "unknown encoding"},
		{name: "a redirection", handle: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, says: "307"},
		{name: "another service", handle: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }, says: "content-type"},
		{name: "not gRPC", handle: http.NotFound, is: errors.ErrUnsupported},
	} {
		l, s := openCRI(t)
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(true)
		server := &http.Server{Handler: tt.handle, Protocols: &protocols}
		go func() { _ = server.Serve(l) }()
		begun := time.Now()
		if _, err := s.List(t.Context()); err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if took := time.Since(begun); took > 2*answerTime {
			t.Errorf("%s: took %v", tt.name, took)
		}
		_ = server.Close()
	}
}
