// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// guestPrograms are the host's programs that a guest has, by the Debian package that has them. They
// are not busybox's, because nstrace has to describe the real programs.
var guestPrograms = map[string][]string{
	"auditd":         {"auditctl"},
	"bash":           {"bash"},
	"bpftool":        {"bpftool"},
	"bsdutils":       {"script"},
	"bubblewrap":     {"bwrap"},
	"busybox-static": {"busybox"},
	"coreutils": {
		"base64", "basename", "cat", "chmod", "chown", "chroot", "cp", "cut", "date", "dd", "df",
		"dirname", "echo", "env", "expr", "false", "head", "id", "install", "link", "ln", "ls", "md5sum",
		"mkdir", "mkfifo", "mknod", "mktemp", "mv", "nice", "nohup", "nproc", "od", "paste", "printenv",
		"printf", "pwd", "readlink", "realpath", "rm", "rmdir", "seq", "sha256sum", "sleep", "sort", "stat",
		"stdbuf", "stty", "sync", "tail", "tee", "test", "timeout", "touch", "tr", "true", "truncate", "tty", "uname",
		"uniq", "wc", "whoami", "yes",
	},
	"dash":        {"sh"},
	"findutils":   {"find", "xargs"},
	"grep":        {"grep"},
	"hostname":    {"domainname", "hostname"},
	"iproute2":    {"bridge", "ip", "ss"},
	"kmod":        {"depmod", "insmod", "lsmod", "modinfo", "modprobe", "rmmod"},
	"libc-bin":    {"getent"},
	"libcap2-bin": {"capsh"},
	"mawk":        {"mawk"},
	"mount":       {"mount", "umount"},
	"procps":      {"free", "kill", "pgrep", "pkill", "ps", "sysctl"},
	"runc":        {"runc"},
	"sed":         {"sed"},
	"sqlite3":     {"sqlite3"},
	"strace":      {"strace"},
	"uidmap":      {"newgidmap", "newuidmap"},
	"util-linux":  {"dmesg", "findmnt", "flock", "lsns", "mountpoint", "nsenter", "pivot_root", "prlimit", "setpriv", "setsid", "taskset", "unshare"},
}

// guestModules are loaded in every guest before its program starts. So the time of a modprobe in a
// trace does not depend on what ran before.
var guestModules = []string{"bridge", "dummy", "fuse", "overlay", "veth", "virtio_net", "virtio_pci"}

// moreModules are available to modprobe, and to the kernel when it asks for them.
var moreModules = []string{
	"8021q", "binfmt_misc", "bonding", "br_netfilter", "ext4", "ipvlan", "loop", "macvlan", "nf_conntrack", "nf_nat",
	"nf_tables", "squashfs", "tun", "virtio_blk", "vrf", "vxlan",
}

// guestFiles are the files of a guest's /etc that do not come from the host.
var guestFiles = map[string]string{
	"/etc/passwd": "root:x:0:0:root:/root:/bin/bash\n" +
		"tester:x:1000:1000:tester:/home/tester:/bin/bash\n" +
		"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
	"/etc/group":         "root:x:0:\ntester:x:1000:\nnogroup:x:65534:\n",
	"/etc/subuid":        "tester:100000:65536\n",
	"/etc/subgid":        "tester:100000:65536\n",
	"/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
	"/etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n",
	"/etc/resolv.conf":   "nameserver 127.0.0.1\n",
	"/etc/os-release":    "ID=nstrace-guest\nNAME=\"nstrace test guest\"\n",
}

// A Root collects the content of a guest's root, and writes it as the cpio archive that the kernel
// unpacks at boot. WriteTo returns the first error of all methods. A Root needs no privileges:
// owners and devices exist only in the archive.
type Root struct {
	arch    *arch
	system  string            // folder with the guest's programs and libraries; empty: those of the host
	entries map[string]*entry // by clean absolute path in the guest
	err     error
}

type entry struct {
	mode     uint32 // as in stat(2), with the type
	uid, gid int
	dev      uint64
	from     string // a regular file's content: a file of the host, or
	data     []byte // this; the target if a symbolic link
}

// mergedUsr are the links of a system whose /bin and so on are in /usr.
var mergedUsr = []string{"bin", "lib", "lib64", "sbin"}

// NewRoot returns a root with the folders that every root has, and nothing else.
func NewRoot() *Root {
	r := &Root{arch: amd64, entries: make(map[string]*entry)}
	for _, name := range mergedUsr {
		r.Mkdir("/usr/"+name, 0o755, 0)
		r.Symlink("usr/"+name, "/"+name)
	}
	for _, dir := range []string{"/dev", "/etc", "/home", "/mnt", "/proc", "/root", "/run", "/sys", "/usr/local/bin", "/var/lib", "/var/log"} {
		r.Mkdir(dir, 0o755, 0)
	}
	r.Mkdir("/tmp", 0o1777, 0)
	r.Mkdir("/var/tmp", 0o1777, 0)
	r.Symlink("/run", "/var/run")
	r.Symlink("/proc/self/mounts", "/etc/mtab")
	r.Mkdir("/home/tester", 0o755, 1000)
	// Without these two, the kernel starts init without standard streams.
	r.add("/dev/console", &entry{mode: syscall.S_IFCHR | 0o600, dev: 5<<8 | 1})
	r.add("/dev/null", &entry{mode: syscall.S_IFCHR | 0o666, dev: 1<<8 | 3})
	return r
}

// AddSystem adds the programs, libraries and files of /etc that every guest has.
func (r *Root) AddSystem() {
	for _, programs := range guestPrograms {
		for _, name := range programs {
			from, err := r.look(name)
			if err != nil {
				r.fail(err)
				return
			}
			dir := "/usr/bin"
			if strings.HasSuffix(filepath.Dir(from), "/sbin") {
				dir = "/usr/sbin"
			}
			r.AddProgram(from, path.Join(dir, name))
		}
	}
	r.Symlink("mawk", "/usr/bin/awk")
	for name, content := range guestFiles {
		r.AddBytes([]byte(content), name, 0o644)
	}
}

// What a guest with systemd has in addition.
var (
	systemdPrograms = []string{
		"busctl", "dbus-daemon", "journalctl", "loginctl", "machinectl", "sudo", "systemctl", "systemd-nspawn", "systemd-run", "systemd-tmpfiles",
	}
	systemdTrees = []string{
		"/usr/lib/systemd", "/usr/lib/tmpfiles.d/systemd.conf", "/usr/lib/tmpfiles.d/tmp.conf", "/usr/lib/tmpfiles.d/var.conf", "/usr/share/dbus-1",
		"/usr/libexec/sudo",
	}
	systemdFiles = map[string]string{
		"/etc/nsswitch.conf":                 "passwd: files systemd\ngroup: files systemd\nshadow: files\nhosts: files\n",
		"/etc/machine-id":                    "6e73747261636567756573740000cafe\n",
		"/etc/systemd/system/default.target": "[Unit]\nRequires=basic.target\nWants=dbus.socket systemd-logind.service\nAfter=basic.target dbus.socket systemd-logind.service\n",
		"/etc/sudoers":                       "root ALL=(ALL:ALL) ALL\ntester ALL=(ALL:ALL) NOPASSWD: ALL\n",
		// No user has a password here. A login, and the start of a user's manager, sets a login uid
		// and a session, as login and sshd do.
		"/etc/pam.d/sudo":         "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\nsession sufficient pam_permit.so\n",
		"/etc/pam.d/login":        "account required pam_permit.so\nsession required pam_loginuid.so\nsession required pam_systemd.so class=user type=tty\n",
		"/etc/pam.d/systemd-user": "account required pam_permit.so\nsession required pam_loginuid.so\nsession required pam_systemd.so\n",
	}
	// Units that fail in an initramfs, which has no index of modules before the job is set up, and
	// no lock for a password file.
	systemdMasked = []string{
		"kmod-static-nodes.service", "systemd-sysusers.service",
	}
	// The units of udev, which a host can have. Only guests with AddUdev have udevd.
	udevUnits = []string{
		"systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "systemd-udev-trigger.service",
	}
)

// AddSystemd adds systemd, D-Bus and sudo.
func (r *Root) AddSystemd() {
	for _, name := range systemdPrograms {
		from, err := lookProgram(name)
		if err != nil {
			r.fail(err)
			return
		}
		r.AddProgram(from, "/usr/bin/"+name)
	}
	for _, dir := range systemdTrees {
		r.AddTree(dir, dir)
	}
	for _, plugins := range []string{"/usr/lib/*/security", "/usr/lib/*/libnss_systemd.so.2"} {
		found, err := filepath.Glob(plugins)
		if err != nil || len(found) == 0 {
			r.fail(fmt.Errorf("%s: %w", plugins, fs.ErrNotExist))
			return
		}
		r.AddTree(found[0], found[0])
	}
	for name, content := range systemdFiles {
		r.AddBytes([]byte(content), name, 0o644)
	}
	for _, unit := range slices.Concat(systemdMasked, udevUnits) {
		r.Symlink("/dev/null", "/etc/systemd/system/"+unit)
	}
	users, groups := guestFiles["/etc/passwd"], guestFiles["/etc/group"]
	for i, name := range []string{"messagebus", "systemd-network"} {
		users += fmt.Sprintf("%s:x:%d:%d::/nonexistent:/usr/sbin/nologin\n", name, 100+i, 100+i)
		groups += fmt.Sprintf("%s:x:%d:\n", name, 100+i)
	}
	r.AddBytes([]byte(users), "/etc/passwd", 0o644)
	r.AddBytes([]byte(groups), "/etc/group", 0o644)
}

// AddUdev adds udev to a guest with systemd.
func (r *Root) AddUdev() {
	from, err := lookProgram("udevadm")
	if err != nil {
		r.fail(err)
		return
	}
	r.AddProgram(from, "/usr/bin/udevadm")
	r.AddTree("/usr/lib/udev/rules.d", "/usr/lib/udev/rules.d")
	for _, unit := range udevUnits {
		delete(r.entries, "/etc/systemd/system/"+unit)
	}
}

// AddModules adds the kernel's modules for guests, the modules that they depend on, and the indexes
// that modprobe needs.
func (r *Root) AddModules(ctx context.Context, k *Kernel) error {
	if k.Modules == "" {
		return nil
	}
	tmp, err := os.MkdirTemp("", "nstrace-modules-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	dir := filepath.Join(tmp, "lib", "modules", k.Release)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	depends, err := moduleDepends(ctx, k)
	if err != nil {
		return err
	}
	todo := slices.Concat(guestModules, moreModules)
	done := make(map[string]bool)
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		m, ok := depends[name]
		if !ok || done[name] {
			continue // it is built in; otherwise modprobe reports that it is missing
		}
		done[name] = true
		todo = append(todo, m.depends...)

		to := filepath.Join(dir, strings.TrimSuffix(m.path, ".xz"))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		// Unpack it here: not every kernel can do that, and it is slow on an emulated processor.
		var data []byte
		from := filepath.Join(k.Modules, m.path)
		if strings.HasSuffix(m.path, ".xz") {
			data, err = run(ctx, "", "xz", "-dc", from)
		} else {
			data, err = os.ReadFile(from)
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, data, 0o644); err != nil {
			return err
		}
	}
	for _, name := range []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"} {
		data, err := os.ReadFile(filepath.Join(k.Modules, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	if _, err := run(ctx, "", "depmod", "-b", tmp, k.Release); err != nil {
		return err
	}
	return r.slurp(dir, "/usr/lib/modules/"+k.Release)
}

type module struct {
	path    string // below the folder of modules
	depends []string
}

// moduleDepends reads the dependencies of modules. Debian makes modules.dep only when it installs
// the package. So this runs depmod, which writes it to its standard output.
func moduleDepends(ctx context.Context, k *Kernel) (map[string]module, error) {
	// depmod needs BASE/lib/modules/RELEASE. Newer packages have it below usr.
	base := filepath.Clean(filepath.Join(k.Modules, "../../.."))
	out, err := run(ctx, "", "depmod", "-n", "-b", base, k.Release)
	if err != nil {
		return nil, err
	}
	modules := make(map[string]module)
	for line := range strings.Lines(string(out)) {
		file, rest, ok := strings.Cut(line, ":")
		if !ok || !strings.HasSuffix(strings.TrimSuffix(file, ".xz"), ".ko") {
			continue
		}
		m := module{path: file}
		for d := range strings.FieldsSeq(rest) {
			m.depends = append(m.depends, moduleName(d))
		}
		modules[moduleName(file)] = m
	}
	if len(modules) == 0 {
		return nil, fmt.Errorf("depmod finds no modules in %s", k.Modules)
	}
	return modules, nil
}

func moduleName(file string) string {
	name := strings.TrimSuffix(strings.TrimSuffix(path.Base(file), ".xz"), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// slurp adds the content of a folder's files, for a folder that will be removed.
func (r *Root) slurp(dir, to string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		r.AddBytes(data, path.Join(to, rel), 0o644)
		return nil
	})
}

// Mkdir adds a folder and its parents.
func (r *Root) Mkdir(name string, perm uint32, owner int) {
	r.add(name, &entry{mode: syscall.S_IFDIR | perm, uid: owner, gid: owner})
}

// Symlink adds a symbolic link.
func (r *Root) Symlink(target, name string) {
	r.add(name, &entry{mode: syscall.S_IFLNK | 0o777, data: []byte(target)})
}

// AddBytes adds a file that holds data.
func (r *Root) AddBytes(data []byte, name string, perm uint32) {
	r.add(name, &entry{mode: syscall.S_IFREG | perm, data: data})
}

// AddProgram adds a file of the host and, if it is a program, the shared libraries that it needs.
// It keeps the mode, including a set-user-ID bit, but everybody in the guest may use the file: no
// test should depend on the host's umask.
func (r *Root) AddProgram(from, name string) {
	if r.err != nil {
		return
	}
	real, err := r.resolve(from)
	if err != nil {
		r.fail(err)
		return
	}
	var st syscall.Stat_t
	if err := syscall.Stat(real, &st); err != nil {
		r.fail(&fs.PathError{Op: "stat", Path: real, Err: err})
		return
	}
	mode := st.Mode&0o7777 | 0o444
	if mode&0o100 != 0 {
		mode |= 0o111
	}
	r.add(name, &entry{mode: syscall.S_IFREG | mode, from: real})
	r.addLibraries(real)
}

// AddTree adds a file, or a folder with everything in it.
func (r *Root) AddTree(from, to string) {
	if r.err != nil {
		return
	}
	r.fail(filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		name := path.Join(to, filepath.ToSlash(rel))
		switch {
		case d.IsDir():
			r.Mkdir(name, 0o755, 0)
		case d.Type()&fs.ModeSymlink != 0 && p != from:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			r.Symlink(target, name)
		default:
			r.AddProgram(p, name)
		}
		return r.err
	}))
}

func (r *Root) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// clean returns the only name of a path in a root whose /bin and so on are links into /usr. The
// kernel would unpack a second folder over the link.
func clean(name string) string {
	name = path.Clean("/" + name)
	first, rest, ok := strings.Cut(name[1:], "/")
	if ok && slices.Contains(mergedUsr, first) {
		return "/usr/" + first + "/" + rest
	}
	return name
}

func (r *Root) add(name string, e *entry) {
	name = clean(name)
	r.entries[name] = e
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		if r.entries[dir] == nil {
			r.entries[dir] = &entry{mode: syscall.S_IFDIR | 0o755}
		}
	}
}

// libraryDirs are the folders that Debian's dynamic linker searches.
func (r *Root) libraryDirs() []string {
	return []string{
		"/lib/" + r.arch.triplet, "/usr/lib/" + r.arch.triplet,
		"/lib64", "/usr/lib64", "/lib", "/usr/lib",
	}
}

// addLibraries adds the dynamic linker and the libraries that an ELF file needs, directly or
// indirectly. It reads the files instead of asking ldd, which would run them.
func (r *Root) addLibraries(file string) {
	f, err := elf.Open(file)
	if err != nil {
		return // a script, or data
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		interp, err := io.ReadAll(p.Open())
		if err != nil {
			r.fail(fmt.Errorf("%s: %w", file, err))
			return
		}
		name := string(bytes.TrimRight(interp, "\x00"))
		if r.entries[clean(name)] == nil {
			r.AddProgram(r.system+name, name)
		}
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		r.fail(fmt.Errorf("%s: %w", file, err))
		return
	}
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		paths, _ := f.DynString(tag) // absent in most
		for _, p := range paths {
			for dir := range strings.SplitSeq(p, ":") {
				dirs = append(dirs, strings.ReplaceAll(dir, "$ORIGIN", strings.TrimPrefix(filepath.Dir(file), r.system)))
			}
		}
	}
	dirs = append(dirs, r.libraryDirs()...)
	dirs = append(dirs, strings.TrimPrefix(filepath.Dir(file), r.system)) // systemd's libraries find each other there once a program has loaded them
next:
	for _, lib := range libraries {
		for _, dir := range dirs {
			name := filepath.Join(dir, lib)
			if r.entries[clean(name)] != nil {
				continue next
			}
			if _, err := r.resolve(r.system + name); err == nil {
				r.AddProgram(r.system+name, name)
				continue next
			}
		}
		r.fail(fmt.Errorf("%s needs %s, which is in none of %s", file, lib, strings.Join(dirs, ", ")))
		return
	}
}

// WriteTo writes the root as an uncompressed archive in cpio's "newc" format. An emulated processor
// takes longer to unpack one than QEMU takes to load it.
func (r *Root) WriteTo(w io.Writer) (int64, error) {
	if r.err != nil {
		return 0, r.err
	}
	c := &cpio{w: bufio.NewWriterSize(w, 1<<20)}
	names := make([]string, 0, len(r.entries))
	for name := range r.entries {
		names = append(names, name)
	}
	slices.Sort(names) // folders before their content
	for _, name := range names {
		if err := c.write(name[1:], r.entries[name]); err != nil {
			return c.n, fmt.Errorf("writing %s into the guest's root: %w", name, err)
		}
	}
	if err := c.write("TRAILER!!!", &entry{}); err != nil {
		return c.n, err
	}
	return c.n, c.w.Flush()
}

type cpio struct {
	w   *bufio.Writer
	n   int64
	ino int
}

func (c *cpio) write(name string, e *entry) error {
	size := int64(len(e.data))
	var from *os.File
	if e.from != "" {
		var err error
		if from, err = os.Open(e.from); err != nil {
			return err
		}
		defer from.Close()
		info, err := from.Stat()
		if err != nil {
			return err
		}
		size = info.Size()
	}
	c.ino++
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor,
	// rdevmajor, rdevminor, namesize, check
	fmt.Fprintf(c, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.ino, e.mode, e.uid, e.gid, 1, 0, size, 0, 0, e.dev>>8, e.dev&0xff, len(name)+1, 0)
	fmt.Fprintf(c, "%s\x00", name)
	c.pad()
	if from != nil {
		n, err := io.Copy(c, from)
		if err != nil {
			return err
		}
		if n != size {
			return fmt.Errorf("%s changed while it was read", e.from)
		}
	} else if _, err := c.Write(e.data); err != nil {
		return err
	}
	return c.pad()
}

func (c *cpio) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (c *cpio) pad() error {
	for c.n%4 != 0 {
		if _, err := c.Write([]byte{0}); err != nil {
			return err
		}
	}
	return nil
}

// goBuild compiles a package of this module for a guest, statically, because a guest may not have a
// suitable libc.
func goBuild(ctx context.Context, arch *arch, dir, out, pkg string, test bool) error {
	args := []string{"build", "-o", out, pkg}
	if test {
		args = []string{"test", "-c", "-o", out, pkg}
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch.name)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return nil
}
