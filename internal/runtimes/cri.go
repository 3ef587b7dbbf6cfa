// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A criSource uses the Container Runtime Interface of Kubernetes.
type criSource struct {
	Candidate
	conn    *grpc.ClientConn
	service cri.RuntimeServiceClient
	runtime atomic.Value // string, set by the first answer
}

func newCRI(at Candidate, dial Dialer) (*criSource, error) {
	c := &criSource{Candidate: at}
	retry := backoff.DefaultConfig
	// With the default, a restarted runtime would not be found for up to two minutes.
	retry.BaseDelay, retry.MaxDelay = 100*time.Millisecond, time.Second
	var err error
	// The caller times out before the connection does, with a clearer error.
	c.conn, err = grpc.NewClient("passthrough:///localhost",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx, at.Path) }),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: retry, MinConnectTimeout: 2 * answerTime}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(at.answerSize())))
	if err != nil {
		return nil, c.fail(err)
	}
	c.service = cri.NewRuntimeServiceClient(c.conn)
	return c, nil
}

func (c *criSource) Close() error { return c.conn.Close() }

func (c *criSource) fail(err error) error {
	if s, ok := status.FromError(err); ok {
		switch s.Code() {
		case codes.NotFound:
			err = ErrNotFound
		case codes.Unimplemented:
			err = fmt.Errorf("%w: %s", errors.ErrUnsupported, s.Message())
		case codes.DeadlineExceeded:
			err = context.DeadlineExceeded
		case codes.Canceled:
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
	v, err := c.service.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		return "", c.fail(err)
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
	all, err := c.service.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{Id: id}})
	if err != nil {
		return nil, c.fail(err)
	}
	for _, found := range all.Containers {
		if strings.HasPrefix(found.Id, id) {
			return c.container(ctx, name, found)
		}
	}
	pods, err := c.service.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{Id: id}})
	if err != nil {
		return nil, c.fail(err)
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
	r, err := c.service.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: found.Id, Verbose: true})
	if err != nil {
		return nil, c.fail(err)
	}
	s := r.GetStatus()
	i := &Info{ID: found.Id, Name: found.GetMetadata().GetName(), Runtime: runtime}
	info := verbose(r.GetInfo())
	i.Image = firstOf(s.GetImage().GetUserSpecifiedImage(), info.Config.Image.UserSpecified, s.GetImage().GetImage())
	i.pod(s.GetLabels())
	pod, err := c.service.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: found.PodSandboxId})
	if err != nil {
		return nil, c.fail(err)
	}
	i.ofSandbox(pod.GetStatus())
	return i, nil
}

// sandbox describes the sandbox of a pod itself.
func (c *criSource) sandbox(ctx context.Context, runtime, id string) (*Info, error) {
	r, err := c.service.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		return nil, c.fail(err)
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
	all, err := c.service.ListContainers(few, &cri.ListContainersRequest{})
	if err != nil {
		return nil, c.fail(err)
	}
	pods, err := c.service.ListPodSandbox(few, &cri.ListPodSandboxRequest{})
	if err != nil {
		return nil, c.fail(err)
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
	_, err := c.service.Version(few, &cri.VersionRequest{})
	cancel()
	if err != nil {
		return c.fail(err)
	}
	stream, err := c.service.GetContainerEvents(ctx, &cri.GetEventsRequest{})
	if err != nil {
		return c.fail(err)
	}
	begun := time.Now()
	changed(nil)
	for {
		e, err := stream.Recv()
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
