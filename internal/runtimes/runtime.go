// SPDX-License-Identifier: Apache-2.0

package runtimes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Info describes a container, as its runtime does.
type Info struct {
	ID      string
	Name    string // "" for the sandbox of a pod, the container that holds its namespaces
	Image   string // as the user named it, such as nginx:1.29
	Runtime string // docker, podman, containerd, cri-o

	PodName, PodNamespace, PodUID string
}

// size returns how many bytes the texts of i have.
func (i *Info) size() int {
	return len(i.ID) + len(i.Name) + len(i.Image) + len(i.Runtime) + len(i.PodName) + len(i.PodNamespace) + len(i.PodUID)
}

// ErrNotFound is the error for a container that a runtime does not know.
var ErrNotFound = errors.New("no such container")

// A Source is the API of a container runtime. Its methods can be called concurrently. They connect
// on demand, so they survive a restart of the runtime. They give up after answerTime, or earlier
// if the context ends.
//
// An error that wraps [errors.ErrUnsupported] is permanent: another service listens at the socket,
// or an older version.
type Source interface {
	// String returns the kind of API and the socket, as Open takes them.
	String() string

	// Owner returns the user id of the owner of the socket, see Candidate.
	Owner() uint32

	// Inspect describes the container whose id is or starts with id.
	Inspect(ctx context.Context, id string) (*Info, error)

	// List describes all containers, including stopped ones.
	List(ctx context.Context) ([]*Info, error)

	// Watch calls changed for each container that is created, started, renamed or stopped,
	// until ctx ends or the connection breaks, and returns the reason. The first call has nil
	// and means that no later change will be missed: call List then to know all containers.
	Watch(ctx context.Context, changed func(*Info)) error

	Close() error
}

// The kinds of API.
const (
	Docker = "docker"
	Podman = "podman" // through its Docker-compatible API
	CRI    = "cri"    // of containerd, CRI-O and cri-dockerd
)

const (
	// answerTime is the maximum time for one answer.
	answerTime = 5 * time.Second

	// answerSize is the maximum size of one answer, userAnswerSize that of a user's runtime, which can
	// be any program of that user. A list has some 2 KiB for each container.
	answerSize, userAnswerSize = 16 << 20, 4 << 20
)

// A Candidate is a socket at which a runtime may listen. Nothing was sent to it yet.
type Candidate struct {
	Kind string // Docker, Podman or CRI
	Path string

	// UID is the user who can listen at the socket. Any program of this user can, so its answers
	// count only for containers of this user.
	UID uint32
	// Given says that whoever called nstrace named the socket.
	Given bool `json:"given,omitempty"`
}

// String returns what Open takes.
func (c Candidate) String() string { return c.Kind + ":" + c.Path }

// Owner returns c.UID.
func (c Candidate) Owner() uint32 { return c.UID }

// answerSize returns the maximum size of one answer.
func (c Candidate) answerSize() int {
	if c.UID != 0 {
		return userAnswerSize
	}
	return answerSize
}

// A Dialer connects to the socket at a path.
type Dialer func(ctx context.Context, path string) (net.Conn, error)

// Open returns the API at the socket. It does not connect yet.
func (c Candidate) Open() (Source, error) { return c.OpenBy(dialSocket) }

// OpenBy is Open with connections that dial makes.
func (c Candidate) OpenBy(dial Dialer) (Source, error) {
	if c.Kind == CRI {
		return newCRI(c, dial), nil
	}
	return newDocker(c, dial), nil
}

// An Opener opens runtimes.
type Opener interface {
	// Open returns the API at a socket. It does not connect yet.
	Open(c Candidate) (Source, error)
	// Detect returns which kind of API the socket at a path has.
	Detect(ctx context.Context, path string) (string, error)
}

// here is the Opener that connects from this process.
type here struct{}

func (here) Open(c Candidate) (Source, error) { return c.Open() }

func (here) Detect(ctx context.Context, path string) (string, error) {
	return Detect(ctx, path, dialSocket)
}

// wellKnown are the default sockets of runtimes. The star stands for the id of a user.
var wellKnown = []Candidate{
	{Kind: Docker, Path: "/run/docker.sock"},
	{Kind: Docker, Path: "/var/run/docker.sock"}, // where /var/run is not a link to /run
	{Kind: Podman, Path: "/run/podman/podman.sock"},
	{Kind: CRI, Path: "/run/containerd/containerd.sock"},
	{Kind: CRI, Path: "/run/crio/crio.sock"},
	{Kind: CRI, Path: "/run/cri-dockerd.sock"},
	{Kind: CRI, Path: "/run/k3s/containerd/containerd.sock"}, // and RKE2
	{Kind: CRI, Path: "/run/k3s/cri-dockerd/cri-dockerd.sock"},
	{Kind: CRI, Path: "/run/k0s/containerd.sock"},
	{Kind: CRI, Path: "/var/snap/microk8s/common/run/containerd.sock"},
	{Kind: Docker, Path: "/run/user/*/docker.sock"},
	{Kind: Podman, Path: "/run/user/*/podman/podman.sock"},
}

// WellKnown returns the existing sockets at which runtimes listen by default, those of the host
// before those of its users.
func WellKnown() []Candidate { return wellKnownIn("/") }

func wellKnownIn(root string) []Candidate {
	var found []Candidate
	var files []fs.FileInfo
	for _, c := range wellKnown {
		paths := []string{filepath.Join(root, c.Path)}
		// A pattern would look into directories of users, who choose what is there.
		if dir, rest, ok := strings.Cut(paths[0], "/*/"); ok {
			users, _ := os.ReadDir(dir) // without it, there are none
			paths = nil
			for _, user := range users {
				paths = append(paths, filepath.Join(dir, user.Name(), rest))
			}
		}
	next:
		for _, path := range paths {
			c.Path, c.UID = path, 0
			if _, user, ok := strings.Cut(path, "/run/user/"); ok {
				user, _, _ = strings.Cut(user, "/")
				// Not the owner of the file, which another user can own.
				uid, err := strconv.ParseUint(user, 10, 32)
				if err != nil {
					continue
				}
				c.UID = uint32(uid)
			}
			file, err := c.stat()
			if err != nil || file.Mode().Type() != fs.ModeSocket {
				continue
			}
			// Skip links, such as /var/run and the /run/docker.sock of podman-docker. The
			// answers of Docker and Podman tell which one it is.
			for _, f := range files {
				if os.SameFile(f, file) {
					continue next
				}
			}
			found, files = append(found, c), append(files, file)
		}
	}
	return found
}

// Open returns the API at a socket: docker:PATH, podman:PATH or cri:PATH, where unix:// can
// precede PATH. The runtime can be started later. For PATH alone, Open detects the API.
func Open(ctx context.Context, spec string) (Source, error) { return openSpec(ctx, spec, here{}) }

func openSpec(ctx context.Context, spec string, by Opener) (Source, error) {
	kind, path := "", spec
	if before, after, ok := strings.Cut(spec, ":"); ok && !strings.HasPrefix(spec, "/") && before != "unix" {
		kind, path = before, after
	}
	path = strings.TrimPrefix(path, "unix://")
	switch kind {
	case "", Docker, Podman, CRI:
	default:
		path = ""
	}
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("runtime socket %q: want docker:PATH, podman:PATH, cri:PATH (containerd, CRI-O) or PATH, where PATH starts with /", spec)
	}
	file, err := os.Stat(path)
	switch {
	case err == nil && file.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("runtime socket %q: %s is not a socket", spec, path)
	case err == nil, kind != "" && errors.Is(err, fs.ErrNotExist):
	default:
		return nil, fmt.Errorf("runtime socket %q: %w", spec, err)
	}
	if kind == "" {
		if kind, err = by.Detect(ctx, path); err != nil {
			return nil, fmt.Errorf("runtime socket %q: %w", spec, err)
		}
	}
	return by.Open(Candidate{Kind: kind, Path: path, UID: ownerOf(path), Given: true})
}

// ownerOf returns the first owner other than root of a socket and the directories that it is in, 0 if there is
// none: who can put another socket there. The socket need not exist yet.
func ownerOf(path string) uint32 {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	for at := "/"; ; {
		var st unix.Stat_t
		if unix.Lstat(at, &st) != nil {
			return 0
		}
		if st.Uid != 0 {
			return st.Uid
		}
		rest := strings.TrimPrefix(strings.TrimPrefix(path, at), "/")
		if rest == "" {
			return 0
		}
		name, _, _ := strings.Cut(rest, "/")
		at = filepath.Join(at, name)
	}
}

// Detect returns which kind of API the socket at a path has.
func Detect(ctx context.Context, path string, dial Dialer) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	conn, err := dial(ctx, path)
	if err != nil {
		return "", err
	}
	conn.Close()

	d := newDocker(Candidate{Kind: Docker, Path: path}, dial)
	defer d.Close()
	if e, err := d.ping(ctx); err == nil {
		return e.runtime, nil
	}
	c := newCRI(Candidate{Kind: CRI, Path: path}, dial)
	defer c.Close()
	_, err = c.name(ctx)
	switch {
	case err == nil:
		return CRI, nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("no answer: %w", ctx.Err())
	}
	return "", errors.New("the server speaks neither the Docker API nor CRI v1")
}

func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// pod sets the fields that the kubelet writes into the labels of a container.
func (i *Info) pod(labels map[string]string) {
	i.PodName = labels["io.kubernetes.pod.name"]
	i.PodNamespace = labels["io.kubernetes.pod.namespace"]
	i.PodUID = labels["io.kubernetes.pod.uid"]
}

// mayBeID reports whether s can be the start of a container's id. Runtimes also accept names, and
// a container can have the id of another one as its name.
func mayBeID(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// A sourceError is an error of a runtime. Its message is one line.
type sourceError struct {
	source Source
	err    error
}

func (e *sourceError) Error() string {
	text, _, _ := strings.Cut(e.err.Error(), "\n")
	return e.source.String() + ": " + text
}

func (e *sourceError) Unwrap() error { return e.err }
