// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Kernel is a Debian kernel, unpacked.
type Kernel struct {
	Series  string // major and minor version, and the flavour if it is not that of the cloud: 6.1, 6.12-rt
	Release string // as uname -r prints it: 6.1.0-50-cloud-amd64
	Version string // version of the Debian package
	Image   string // path of the bzImage
	Modules string // path of the folder named Release below lib/modules; empty if the archive has none

	arch   *arch
	system string // folder with the programs of guests; empty: those of the host
}

// Newest stands for the newest kernel that Debian has packaged for its stable release. Get accepts
// it as a series.
const Newest = "newest"

// archive is a Debian release with kernels. Each has its own package index, so that each series
// comes from its own release: the security suite of bullseye also has 6.1, built for another
// userland.
type archive struct {
	name   string
	suites []string
}

// A suite whose name ends in -security comes from the mirror of the security
// archive, every other from the main one.
var (
	archives = map[string]archive{
		"5.10": {"bullseye", []string{"bullseye", "bullseye-security"}},
		"6.1":  {"bookworm", []string{"bookworm", "bookworm-updates", "bookworm-security"}},
		"6.12": {"trixie", []string{"trixie", "trixie-updates", "trixie-security"}},
	}
	backports = archive{"trixie-backports", []string{"trixie-backports"}}
	// userland is the release whose programs the guests of another architecture have.
	userland = archives["6.1"]
)

// listsMaxAge is the maximum age of a package index. If an index names packages that the mirror no
// longer has, it is fetched again at once.
const listsMaxAge = 24 * time.Hour

// Kernels finds and unpacks kernels. The zero value is ready for use.
type Kernels struct {
	Dir string                           // the cache; CacheDir() if empty
	Log func(format string, args ...any) // reports slow steps; may be nil
}

// CacheDir returns the folder that keeps kernels between runs: $NSTRACE_CACHE, or nstrace in the
// user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("NSTRACE_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("set NSTRACE_CACHE to a folder for kernels: %w", err)
	}
	return filepath.Join(dir, "nstrace"), nil
}

// Flavours of a series. Without one it is the kernel for clouds, which boots fastest.
const (
	flavourRT   = "-rt"   // PREEMPT_RT
	flavourFull = "-full" // for real machines
)

// splitFlavour splits a series into the version and the flavour.
func splitFlavour(series string) (version, flavour string) {
	for _, f := range []string{flavourRT, flavourFull} {
		if v, ok := strings.CutSuffix(series, f); ok {
			return v, f
		}
	}
	return series, ""
}

// Get returns the newest kernel of a series, such as "6.12", "6.12-rt" or "6.12-full", or of Newest.
// Before it can be an architecture: "arm64-6.12". Get downloads the kernel if necessary.
func (k *Kernels) Get(ctx context.Context, series string) (*Kernel, error) {
	kernel, err := k.get(ctx, series)
	if err != nil {
		return nil, fmt.Errorf("getting kernel %s: %w", series, err)
	}
	return kernel, nil
}

func (k *Kernels) get(ctx context.Context, series string) (*Kernel, error) {
	arch, series := splitSeries(series)
	if err := arch.check(); err != nil {
		return nil, err
	}
	kernel, err := k.getFor(ctx, arch, series)
	if err == nil && arch != amd64 {
		kernel.system, err = k.programs(ctx, arch)
	}
	return kernel, err
}

func (k *Kernels) getFor(ctx context.Context, arch *arch, series string) (*Kernel, error) {
	version, flavour := splitFlavour(series)
	from, ok := archives[version]
	if !ok {
		from = backports
	}
	a, err := k.open(ctx, arch, from)
	if err != nil {
		return nil, err
	}
	defer a.close()
	a.flavour = flavour

	for {
		p, err := a.find(ctx, series)
		if err != nil {
			return nil, err
		}
		kernel, err := a.unpack(ctx, p)
		switch {
		case err == nil || ctx.Err() != nil:
			return kernel, err
		case !a.updated:
			// The index is probably older than the mirror's last update.
			if uerr := a.update(ctx); uerr != nil {
				return nil, errors.Join(err, uerr)
			}
		case strings.Contains(err.Error(), "404  Not Found"):
			// When Debian ends the support of a release, the index of its security suite outlasts
			// some of the packages. The release itself has an older one.
			if err := os.WriteFile(a.gone(p), nil, 0o644); err != nil {
				return nil, err
			}
		default:
			return nil, err
		}
	}
}

// gone returns the file that says that the mirror has the package in its index only.
func (a *apt) gone(p kernelPackage) string {
	return filepath.Join(a.dir, "gone", p.names[0]+"_"+p.version)
}

// Backports returns the series that trixie-backports has now, oldest first, and the one that Newest
// stands for.
func (k *Kernels) Backports(ctx context.Context) (series []string, newest string, err error) {
	a, err := k.open(ctx, amd64, backports)
	if err != nil {
		return nil, "", err
	}
	defer a.close()
	packages, err := a.packages(ctx)
	if err != nil {
		return nil, "", err
	}
	for _, p := range slices.Backward(packages) {
		series = append(series, p.series)
	}
	p, err := a.find(ctx, Newest)
	return slices.Compact(series), p.series, err
}

// apt is a private configuration of apt with its own package lists and state. So it needs neither
// root nor a change to the host's sources. Everything else (proxies, credentials) is the host's.
type apt struct {
	archive
	arch    *arch
	cache   string // the whole cache
	dir     string // this archive's part of it
	lock    *os.File
	log     func(format string, args ...any)
	updated bool   // this apt has fetched the index
	flavour string // of the kernels to find
}

// open takes the archive's lock and makes sure that there is an index. It waits for other processes
// that use the same cache.
func (k *Kernels) open(ctx context.Context, arch *arch, from archive) (_ *apt, err error) {
	if err := CheckHost(); err != nil {
		return nil, err
	}
	cache := k.Dir
	if cache == "" {
		if cache, err = CacheDir(); err != nil {
			return nil, err
		}
	}
	a := &apt{archive: from, arch: arch, cache: cache, dir: filepath.Join(cache, "apt", arch.prefix()+from.name), log: k.Log}
	if a.log == nil {
		a.log = func(string, ...any) {}
	}
	for _, dir := range []string{
		filepath.Join(a.dir, "lists", "partial"),
		filepath.Join(a.dir, "archives", "partial"),
		filepath.Join(a.dir, "gone"),
		filepath.Join(cache, "kernels"),
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if a.lock, err = os.OpenFile(filepath.Join(a.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644); err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(a.lock.Fd()), syscall.LOCK_EX); err != nil {
		a.lock.Close()
		return nil, fmt.Errorf("locking %s: %w", a.lock.Name(), err)
	}
	if err := a.configure(ctx); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// close releases the lock.
func (a *apt) close() { a.lock.Close() }

// CheckHost returns an error of one line if this host cannot run guests.
func CheckHost() error {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return fmt.Errorf("the test machines are made of the host's own programs and Debian's amd64 kernels: run this on Linux amd64, not %s %s", runtime.GOOS, runtime.GOARCH)
	}
	if _, err := os.Stat(keyring); err != nil {
		return fmt.Errorf("no %s: run this on Debian (or in a Debian container) with the package debian-archive-keyring", keyring)
	}
	return needPrograms(hostPrograms, guestPrograms)
}

// hostPrograms are the programs that this package runs, by the Debian package that has them.
var hostPrograms = map[string][]string{
	"apt":             {"apt-get", "apt-cache"},
	"dpkg":            {"dpkg-deb"},
	"e2fsprogs":       {"mke2fs"},
	"kmod":            {"depmod"},
	"qemu-system-x86": {"qemu-system-x86_64"},
	"xz-utils":        {"xz"},
}

// needPrograms returns an error of one line that says what to install.
func needPrograms(needed ...map[string][]string) error {
	var missing, packages []string
	for _, byPackage := range needed {
		for pkg, programs := range byPackage {
			for _, p := range programs {
				if _, err := lookProgram(p); err != nil {
					missing = append(missing, p)
					packages = append(packages, pkg)
				}
			}
		}
	}
	if missing == nil {
		return nil
	}
	slices.Sort(missing)
	slices.Sort(packages)
	return fmt.Errorf("this host has no %s, which test guests need: apt-get install %s",
		strings.Join(slices.Compact(missing), ", "), strings.Join(slices.Compact(packages), " "))
}

// lookProgram is exec.LookPath, and also searches the folders that Debian leaves out of an
// unprivileged user's PATH.
func lookProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		path := filepath.Join(dir, name)
		if _, err := exec.LookPath(path); err == nil {
			return path, nil
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// configure writes the private configuration and updates the index.
func (a *apt) configure(ctx context.Context) error {
	mirror, security, err := mirrors(ctx)
	if err != nil {
		return err
	}
	var sources strings.Builder
	for _, suite := range a.suites {
		uri := mirror
		if strings.HasSuffix(suite, "-security") {
			uri = security
		}
		fmt.Fprintf(&sources, "deb [arch=%s signed-by=%s] %s %s main\n", a.arch.name, keyring, uri, suite)
	}
	// Hooks in the host's configuration are for the host's own packages, and some fail without
	// root. If Debian no longer updates a release, the validity of its index has ended. apt still
	// checks its signature.
	conf := fmt.Sprintf(`#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "%[2]s";
APT::Architectures { "%[2]s"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Check-Valid-Until "false";
Acquire::Retries "3";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Dir::Etc::SourceList "%[1]s/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "%[1]s";
Dir::State::Lists "%[1]s/lists";
Dir::State::Status "%[1]s/status";
Dir::Cache "%[1]s";
Dir::Cache::PkgCache "pkgcache.bin";
Dir::Cache::SrcPkgCache "";
Dir::Cache::Archives "%[1]s/archives";
`, a.dir, a.arch.name)
	for name, content := range map[string]string{"sources.list": sources.String(), "apt.conf": conf, "status": ""} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}

	stamp, err := os.Stat(a.stamp(sources.String()))
	if err == nil && time.Since(stamp.ModTime()) < listsMaxAge {
		return nil
	}
	if err := a.update(ctx); err != nil {
		// Yesterday's index is good enough if the mirror is not reachable, or no longer has all
		// suites of the release.
		if packages, perr := a.packages(ctx); perr != nil || len(packages) == 0 {
			return err
		}
		a.log("using the existing index: %v", err)
	}
	return nil
}

// stamp returns the file whose age is that of the index. Its name depends on the sources, so
// another mirror has another index.
func (a *apt) stamp(sources string) string {
	sum := sha256.Sum256([]byte(sources))
	return filepath.Join(a.dir, "updated-"+hex.EncodeToString(sum[:8]))
}

func (a *apt) update(ctx context.Context) error {
	a.log("updating the package index of %s", a.name)
	a.updated = true
	if err := os.RemoveAll(filepath.Join(a.dir, "gone")); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(a.dir, "gone"), 0o755); err != nil {
		return err
	}
	if _, err := a.run(ctx, "apt-get", "-q", "--error-on=any", "update"); err != nil {
		return err
	}
	sources, err := os.ReadFile(filepath.Join(a.dir, "sources.list"))
	if err != nil {
		return err
	}
	return os.WriteFile(a.stamp(string(sources)), nil, 0o644)
}

// run runs apt-get or apt-cache with the private configuration.
func (a *apt) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	return run(ctx, "", program, append([]string{"-c", filepath.Join(a.dir, "apt.conf")}, args...)...)
}

// run runs a program and returns its output. The error contains its standard error.
func run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	path, err := lookProgram(program)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// mirrors returns where this host gets Debian from. It asks apt what it would fetch, because only
// apt knows all forms of its sources.
func mirrors(ctx context.Context) (mirror, security string, err error) {
	// With an empty folder for lists, apt needs neither its lock nor the network.
	lists, err := os.MkdirTemp("", "nstrace-lists-")
	if err != nil {
		return "", "", err
	}
	defer os.RemoveAll(lists)
	if err := os.Mkdir(filepath.Join(lists, "partial"), 0o755); err != nil {
		return "", "", err
	}
	out, err := run(ctx, "", "apt-get", "-o", "Dir::State::Lists="+lists, "update", "--print-uris")
	if err != nil {
		return "", "", err
	}
	mirror, security = parseMirrors(string(out))
	if mirror == "" {
		return "", "", errors.New("no Debian mirror found in the host's apt sources: run this on Debian, with its sources in /etc/apt")
	}
	return mirror, security, nil
}

// inRelease matches the lines of apt-get update --print-uris that are about a suite.
var inRelease = regexp.MustCompile(`(?m)^'(\S+?)/dists/(\S+?)/InRelease' `)

// parseMirrors finds the main and the security archive in the output of apt-get update
// --print-uris. The main archive has a suite NAME-updates, or a path that ends in /debian. Other
// archives also use a release's name for a suite.
func parseMirrors(printURIs string) (mirror, security string) {
	for _, m := range inRelease.FindAllStringSubmatch(printURIs, -1) {
		uri, suite := m[1], m[2]
		switch {
		case strings.HasSuffix(suite, "-security"):
			if security == "" {
				security = uri
			}
		case strings.HasSuffix(suite, "-updates"), strings.HasSuffix(uri, "/debian"):
			if mirror == "" {
				mirror = uri
			}
		}
	}
	if security == "" && mirror != "" {
		security = mirror + "-security" // as on mirrors of both
	}
	return mirror, security
}

// kernelPackage is a package linux-image-ABI.
type kernelPackage struct {
	abi     string
	series  string // with the flavour
	version string
	names   []string // the package and those of the same ABI that it depends on
	modules bool     // they have the modules, not only the image
}

// imageName matches the images of an architecture and a flavour. It leaves out meta packages and debug
// symbols.
func imageName(arch, flavour string) *regexp.Regexp {
	end := map[string]string{"": "-cloud-", flavourRT: "-rt-", flavourFull: "-"}[flavour] + arch
	return regexp.MustCompile(`^linux-image-(([0-9]+\.[0-9]+)\.[0-9][^-]*(?:-[0-9][0-9a-z.]*)?` + end + `)(-unsigned)?$`)
}

// packages returns the kernels of the archive that are of the flavour, newest first.
//
// Debian's archive keeps the signed half of a superseded backport for longer than the rest. Before
// 6.19, that half is the whole kernel. From 6.19 on, it is the image without modules. That image
// boots, so it counts, but behind the complete kernels of its series.
func (a *apt) packages(ctx context.Context) ([]kernelPackage, error) {
	out, err := a.run(ctx, "apt-cache", "pkgnames", "linux-")
	if err != nil {
		return nil, err
	}
	show := []string{"show", "--no-all-versions"}
	for name := range strings.FieldsSeq(string(out)) {
		if kernelParts.MatchString(name) && strings.Contains(name, "-"+a.arch.name) {
			show = append(show, name)
		}
	}
	if len(show) == 2 {
		return nil, nil
	}
	if out, err = a.run(ctx, "apt-cache", show...); err != nil {
		return nil, err
	}
	all := parsePackages(string(out))
	image := imageName(a.arch.name, a.flavour)
	var packages []kernelPackage
	for name, p := range all {
		m := image.FindStringSubmatch(name)
		if m == nil {
			continue
		}
		k := kernelPackage{abi: m[1], series: m[2] + a.flavour, version: p.version, names: []string{name}, modules: true}
		for i := 0; i < len(k.names); i++ {
			for _, d := range all[k.names[i]].depends {
				if !strings.HasSuffix(d, "-"+k.abi) || slices.Contains(k.names, d) {
					continue
				}
				if _, ok := all[d]; ok {
					k.names = append(k.names, d)
				} else if strings.HasPrefix(d, "linux-modules-") {
					k.modules = false
				}
			}
		}
		packages = append(packages, k)
	}
	slices.SortFunc(packages, func(a, b kernelPackage) int {
		if c := compareVersions(b.series, a.series); c != 0 {
			return c
		}
		if a.modules != b.modules {
			if a.modules {
				return -1
			}
			return 1
		}
		if c := compareVersions(b.abi, a.abi); c != 0 {
			return c
		}
		// Signed and unsigned packages have the same image. The signed one has the shorter name.
		return len(a.names[0]) - len(b.names[0])
	})
	return packages, nil
}

// kernelParts matches the packages that a kernel is made of: linux-image-*, linux-modules-* and so on.
var kernelParts = regexp.MustCompile(`-(?:amd64|arm64)(-unsigned)?$`)

type aptPackage struct {
	version string
	depends []string
}

// parsePackages reads the output of apt-cache show.
func parsePackages(show string) map[string]aptPackage {
	all := make(map[string]aptPackage)
	for stanza := range strings.SplitSeq(show, "\n\n") {
		var name string
		var p aptPackage
		for line := range strings.Lines(stanza) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			switch key {
			case "Package":
				name = value
			case "Version":
				p.version = value
			case "Depends", "Pre-Depends":
				for d := range strings.SplitSeq(value, ",") {
					if f := strings.Fields(d); len(f) > 0 {
						p.depends = append(p.depends, f[0])
					}
				}
			}
		}
		if name != "" {
			all[name] = p
		}
	}
	return all
}

// compareVersions compares two versions, or parts of versions, by the rules of deb-version(7):
// digits as numbers; in everything else, letters before other characters, and a tilde before
// everything, even the end.
func compareVersions(a, b string) int {
	order := func(s string) int {
		switch {
		case s == "" || s[0] >= '0' && s[0] <= '9':
			return 0
		case s[0] == '~':
			return -1
		case s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z':
			return int(s[0])
		default:
			return int(s[0]) + 256
		}
	}
	digits := func(s string) (number, rest string) {
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		return strings.TrimLeft(s[:n], "0"), s[n:]
	}
	for a != "" || b != "" {
		for order(a) != 0 || order(b) != 0 {
			if c := order(a) - order(b); c != 0 {
				return c
			}
			a, b = a[1:], b[1:]
		}
		var x, y string
		x, a = digits(a)
		y, b = digits(b)
		if c := len(x) - len(y); c != 0 {
			return c
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// find returns the newest package of a series.
func (a *apt) find(ctx context.Context, series string) (kernelPackage, error) {
	packages, err := a.packages(ctx)
	if err != nil {
		return kernelPackage{}, err
	}
	for _, p := range packages {
		if p.series != series && (series != Newest+a.flavour || !p.modules) {
			continue
		}
		if _, err := os.Stat(a.gone(p)); err != nil {
			return p, nil
		}
	}
	return kernelPackage{}, fmt.Errorf("the mirror's %s has no kernel %s for %s", strings.Join(a.suites, ", "), series, a.arch.name)
}

// unpack downloads and unpacks a kernel, unless that was done before. It gives the kernel its final
// name only at the end, so an interrupted run leaves nothing that looks complete.
func (a *apt) unpack(ctx context.Context, p kernelPackage) (*Kernel, error) {
	dir := filepath.Join(a.cache, "kernels", p.names[0]+"_"+strings.ReplaceAll(p.version, ":", "%3a"))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := a.download(ctx, p.names, dir); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	kernel, err := openKernel(dir, p)
	if err == nil {
		kernel.Series, kernel.arch = a.arch.prefix()+kernel.Series, a.arch
	}
	return kernel, err
}

// download downloads packages and unpacks them into dir.
func (a *apt) download(ctx context.Context, names []string, dir string) error {
	a.log("downloading %s", strings.Join(names, " "))
	tmp := filepath.Join(a.dir, "unpack")
	if err := os.RemoveAll(tmp); err != nil { // of a run that was interrupted
		return err
	}
	defer os.RemoveAll(tmp)
	debs := filepath.Join(tmp, "debs")
	root := filepath.Join(tmp, "root")
	for _, d := range []string{debs, root} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	args := append([]string{"-q", "-c", filepath.Join(a.dir, "apt.conf"), "download"}, names...)
	if _, err := run(ctx, debs, "apt-get", args...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	if len(files) != len(names) {
		return fmt.Errorf("apt-get download left %d packages of %d", len(files), len(names))
	}
	for _, deb := range files {
		if _, err := run(ctx, "", "dpkg-deb", "-x", deb, root); err != nil {
			return err
		}
	}
	syscall.Sync() // a crash of the host must not leave the name without the content
	return os.Rename(root, dir)
}

// openKernel finds the parts of an unpacked kernel.
func openKernel(dir string, p kernelPackage) (*Kernel, error) {
	kernel := &Kernel{Series: p.series, Release: p.abi, Version: p.version}
	for _, lib := range []string{"usr/lib/modules/", "lib/modules/"} {
		modules := filepath.Join(dir, lib+p.abi)
		// The image's package can also contain an empty folder.
		if _, err := os.Stat(filepath.Join(modules, "kernel")); err == nil {
			kernel.Modules = modules
		}
	}
	if p.modules && kernel.Modules == "" {
		return nil, fmt.Errorf("packages %s have no modules", strings.Join(p.names, " "))
	}
	for _, name := range []string{"boot/vmlinuz-" + p.abi, "usr/lib/modules/" + p.abi + "/vmlinuz"} {
		image := filepath.Join(dir, name)
		if _, err := os.Stat(image); err == nil {
			kernel.Image = image
			return kernel, nil
		}
	}
	return nil, fmt.Errorf("packages %s have no kernel image", strings.Join(p.names, " "))
}
