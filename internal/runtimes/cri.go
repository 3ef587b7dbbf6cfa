// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/nstrace/nstrace/internal/runtimes/cri"
)

// A criSource uses the Container Runtime Interface of Kubernetes, by gRPC. google.golang.org/grpc would make the
// program four megabytes larger: its page of traces uses HTML templates, and with them the linker keeps every
// exported method.
type criSource struct {
	Candidate
	transport criTransport
	runtime   atomic.Value // string, set by the first answer

	version          *connect.Client[cri.VersionRequest, cri.VersionResponse]
	listContainers   *connect.Client[cri.ListContainersRequest, cri.ListContainersResponse]
	containerStatus  *connect.Client[cri.ContainerStatusRequest, cri.ContainerStatusResponse]
	listPodSandbox   *connect.Client[cri.ListPodSandboxRequest, cri.ListPodSandboxResponse]
	podSandboxStatus *connect.Client[cri.PodSandboxStatusRequest, cri.PodSandboxStatusResponse]
	containerEvents  *connect.Client[cri.GetEventsRequest, cri.ContainerEventResponse]
}

// A criTransport sends one request. It follows no redirection.
type criTransport struct{ *http.Transport }

func (t criTransport) Do(r *http.Request) (*http.Response, error) { return t.RoundTrip(r) }

func newCRI(at Candidate, dial Dialer) *criSource {
	var http2 http.Protocols
	http2.SetUnencryptedHTTP2(true)
	c := &criSource{Candidate: at, transport: criTransport{&http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, at.Path) },
		Protocols:              &http2,
		DisableCompression:     true,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: maxMessage, // the message of an error is in a header
		// A connection that takes nothing is not used again.
		HTTP2: &http.HTTP2Config{WriteByteTimeout: answerTime},
	}}}
	c.version = criMethod[cri.VersionRequest, cri.VersionResponse](c, "Version")
	c.listContainers = criMethod[cri.ListContainersRequest, cri.ListContainersResponse](c, "ListContainers")
	c.containerStatus = criMethod[cri.ContainerStatusRequest, cri.ContainerStatusResponse](c, "ContainerStatus")
	c.listPodSandbox = criMethod[cri.ListPodSandboxRequest, cri.ListPodSandboxResponse](c, "ListPodSandbox")
	c.podSandboxStatus = criMethod[cri.PodSandboxStatusRequest, cri.PodSandboxStatusResponse](c, "PodSandboxStatus")
	c.containerEvents = criMethod[cri.GetEventsRequest, cri.ContainerEventResponse](c, "GetContainerEvents")
	return c
}

// criMethod returns the client of a method of the service.
func criMethod[Request, Response any](c *criSource, name string) *connect.Client[Request, Response] {
	// The name of the host means nothing.
	return connect.NewClient[Request, Response](c.transport, "http://localhost"+cri.Service+name,
		connect.WithGRPC(),
		connect.WithReadMaxBytes(c.answerSize()),
		connect.WithAcceptCompression("gzip", nil, nil)) // none
}

// call calls a method that has one answer.
func call[Request, Response any](ctx context.Context, c *criSource, method *connect.Client[Request, Response], r *Request) (*Response, error) {
	answer, err := method.CallUnary(ctx, connect.NewRequest(r))
	if err != nil {
		return nil, c.fail(err)
	}
	return answer.Msg, nil
}

func (c *criSource) Close() error {
	c.transport.CloseIdleConnections()
	return nil
}

func (c *criSource) fail(err error) error {
	if s, ok := errors.AsType[*connect.Error](err); ok {
		switch s.Code() {
		case connect.CodeNotFound:
			err = ErrNotFound
		case connect.CodeUnimplemented:
			err = fmt.Errorf("%w: %s", errors.ErrUnsupported, s.Message())
		case connect.CodeDeadlineExceeded:
			err = context.DeadlineExceeded
		case connect.CodeCanceled:
			err = context.Canceled
		default:
			err = errors.New(s.Message())
		}
	}
	return &sourceError{c, err}
}

// name returns containerd, cri-o or, for cri-dockerd, docker.
func (c *criSource) name(ctx context.Context) (string, error) {
	if name, ok := c.runtime.Load().(string); ok {
		return name, nil
	}
	v, err := call(ctx, c, c.version, &cri.VersionRequest{})
	if err != nil {
		return "", err
	}
	c.runtime.Store(v.RuntimeName)
	return v.RuntimeName, nil
}

func (c *criSource) Inspect(ctx context.Context, id string) (*Info, error) {
	if !mayBeID(id) {
		return nil, c.fail(ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	name, err := c.name(ctx)
	if err != nil {
		return nil, err
	}
	// Not every runtime returns NotFound for the status of an unknown container, but all return
	// an empty list.
	all, err := call(ctx, c, c.listContainers, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{Id: id}})
	if err != nil {
		return nil, err
	}
	for _, found := range all.Containers {
		if strings.HasPrefix(found.Id, id) {
			return c.container(ctx, name, found)
		}
	}
	pods, err := call(ctx, c, c.listPodSandbox, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{Id: id}})
	if err != nil {
		return nil, err
	}
	for _, found := range pods.Items {
		if strings.HasPrefix(found.Id, id) {
			return c.sandbox(ctx, name, found.Id)
		}
	}
	return nil, c.fail(ErrNotFound)
}

// container describes a container that was listed.
func (c *criSource) container(ctx context.Context, runtime string, found *cri.Container) (*Info, error) {
	r, err := call(ctx, c, c.containerStatus, &cri.ContainerStatusRequest{ContainerId: found.Id, Verbose: true})
	if err != nil {
		return nil, err
	}
	s := r.GetStatus()
	i := &Info{ID: found.Id, Name: found.GetMetadata().GetName(), Runtime: runtime}
	info := verbose(r.GetInfo())
	i.Image = firstOf(s.GetImage().GetUserSpecifiedImage(), info.Config.Image.UserSpecified, s.GetImage().GetImage())
	i.pod(s.GetLabels())
	pod, err := call(ctx, c, c.podSandboxStatus, &cri.PodSandboxStatusRequest{PodSandboxId: found.PodSandboxId})
	if err != nil {
		return nil, err
	}
	i.ofSandbox(pod.GetStatus())
	return i, nil
}

// sandbox describes the sandbox of a pod itself.
func (c *criSource) sandbox(ctx context.Context, runtime, id string) (*Info, error) {
	r, err := call(ctx, c, c.podSandboxStatus, &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return nil, err
	}
	info := verbose(r.GetInfo())
	i := &Info{ID: id, Runtime: runtime, Image: info.Image}
	i.ofSandbox(r.GetStatus())
	return i, nil
}

// ofSandbox sets the fields that a container shares with the sandbox of its pod.
func (i *Info) ofSandbox(s *cri.PodSandboxStatus) {
	// The kubelet sets this metadata, with or without labels.
	m := s.GetMetadata()
	i.PodName, i.PodNamespace, i.PodUID = firstOf(i.PodName, m.GetName()), firstOf(i.PodNamespace, m.GetNamespace()), firstOf(i.PodUID, m.GetUid())
}

// verboseInfo is a part of the debugging information of a status. Its form depends on the
// runtime.
type verboseInfo struct {
	Image  string `json:"image"` // of a sandbox: containerd and CRI-O
	Config struct {
		Image struct {
			// Only for containerd 2, whose status has the resolved name.
			UserSpecified string `json:"user_specified_image"`
		} `json:"image"`
	} `json:"config"` // containerd
}

// verbose parses the debugging information. Fields in another form stay empty.
func verbose(info map[string]string) verboseInfo {
	var v verboseInfo
	_ = json.Unmarshal([]byte(info["info"]), &v)
	return v
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func (c *criSource) List(ctx context.Context) ([]*Info, error) {
	few, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	all, err := call(few, c, c.listContainers, &cri.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	pods, err := call(few, c, c.listPodSandbox, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, err
	}
	name, err := c.name(few)
	if err != nil {
		return nil, err
	}
	infos := make([]*Info, 0, len(all.Containers)+len(pods.Items))
	add := func(describe func(context.Context) (*Info, error)) error {
		ctx, cancel := context.WithTimeout(ctx, answerTime)
		defer cancel()
		i, err := describe(ctx)
		if errors.Is(err, ErrNotFound) {
			return nil // removed in between
		}
		infos = append(infos, i)
		return err
	}
	for _, p := range pods.Items {
		if err := add(func(ctx context.Context) (*Info, error) { return c.sandbox(ctx, name, p.Id) }); err != nil {
			return nil, err
		}
	}
	for _, found := range all.Containers {
		if err := add(func(ctx context.Context) (*Info, error) { return c.container(ctx, name, found) }); err != nil {
			return nil, err
		}
	}
	return infos, nil
}

// Watch needs containerd 1.7, or CRI-O with enable_pod_events.
func (c *criSource) Watch(ctx context.Context, changed func(*Info)) error {
	// A stream gives no sign of life before its first event, so test the connection first.
	few, cancel := context.WithTimeout(ctx, answerTime)
	_, err := call(few, c, c.version, &cri.VersionRequest{})
	cancel()
	if err != nil {
		return err
	}
	ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	// CallServerStream would wait for the first event.
	stream := c.containerEvents.CallBidiStream(ctx)
	defer stream.CloseResponse()
	if err := stream.Send(&cri.GetEventsRequest{}); err != nil && !errors.Is(err, io.EOF) { // Receive says why
		return c.fail(err)
	}
	if err := stream.CloseRequest(); err != nil {
		return c.fail(err)
	}
	begun := time.Now()
	changed(nil)
	for {
		e, err := stream.Receive()
		switch {
		case err == nil:
			// A removed container keeps its last description.
			if i, err := c.Inspect(ctx, e.ContainerId); err == nil {
				changed(i)
			}
		case errors.Is(err, io.EOF) && time.Since(begun) < time.Second:
			// CRI-O without enable_pod_events ends the stream at once.
			return c.fail(fmt.Errorf("sends no events of containers: %w", errors.ErrUnsupported))
		case errors.Is(err, io.EOF):
			return c.fail(errors.New("sends no more events of containers"))
		default:
			return c.fail(err)
		}
	}
}
