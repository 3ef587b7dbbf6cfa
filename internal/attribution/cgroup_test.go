// SPDX-License-Identifier: Apache-2.0

package attribution

import (
	"strings"
	"testing"
)

// Where a source gives a form without an id, these are put in.
const (
	idA = "7951fb549ab99e0722a949b6c121634e1f3a36b5bacbe5392991e3b12251e6b8"
	idB = "0b8e3fcd2f5a4d5f2f3e6e1a4f0c9d7b6a5e4d3c2b1a09f8e7d6c5b4a3928170"
)

// cgroupTests are paths as they are found in the field. A source is a thread or
// a document of the project that is named, or its code where that makes the path.
var cgroupTests = []struct {
	source string
	path   string
	want   CgroupOwner
}{
	// Docker.
	{"docker docs, Runtime metrics: cgroup v1, cgroupfs driver", "/docker/" + idA,
		CgroupOwner{Runtime: "docker", ContainerID: idA}},
	{"docker docs, Runtime metrics: cgroup v2, systemd driver", "/system.slice/docker-" + idA + ".scope",
		CgroupOwner{Runtime: "docker", ContainerID: idA, Unit: "docker-" + idA + ".scope"}},
	{"github.com/docker/docs/issues/14545: rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-" + idA + ".scope",
		CgroupOwner{Runtime: "docker", ContainerID: idA, Unit: "user@1000.service", UserUnit: "docker-" + idA + ".scope", UserID: "1000"}},
	{"green-metrics-tool docs, cpu.stat failed to open: rootless", "/user.slice/user-1003.slice/user@1003.service/user.slice/docker-6e18a15cbc237c9ff76af70cc8ef16c3c5b9f002a989f74cf0c7a22b5c8e4c9f.scope",
		CgroupOwner{Runtime: "docker", ContainerID: "6e18a15cbc237c9ff76af70cc8ef16c3c5b9f002a989f74cf0c7a22b5c8e4c9f",
			Unit: "user@1003.service", UserUnit: "docker-6e18a15cbc237c9ff76af70cc8ef16c3c5b9f002a989f74cf0c7a22b5c8e4c9f.scope", UserID: "1003"}},
	{"github.com/moby/moby/pull/4450: in a slice of its own", "/system.slice/system-docker.slice/docker-d6b15f04feb95083acea4b9caa6e59f8ebe67e3e3cf9cb8c59fad543490ee3ef.scope",
		CgroupOwner{Runtime: "docker", ContainerID: "d6b15f04feb95083acea4b9caa6e59f8ebe67e3e3cf9cb8c59fad543490ee3ef", Unit: "docker-d6b15f04feb95083acea4b9caa6e59f8ebe67e3e3cf9cb8c59fad543490ee3ef.scope"}},
	{"github.com/moby/moby/pull/9436: --cgroup-parent", "/system.slice/system-kubernetes.slice/system-kubernetes-podX.slice/docker-d8fc58071d684677b71dd733e3eea8dac17989bd39773705bbfb96649a00e4c1.scope",
		CgroupOwner{Runtime: "docker", ContainerID: "d8fc58071d684677b71dd733e3eea8dac17989bd39773705bbfb96649a00e4c1", Unit: "docker-d8fc58071d684677b71dd733e3eea8dac17989bd39773705bbfb96649a00e4c1.scope"}},
	{"neuvector share/system/cgroup_test.go, RancherOS: docker in docker", "/docker/a9a5ad238e59234193ee7ec3fcff5e735b3708ea1068826952255b69e3cfa413/docker/ec08435e04266c5ba381fccbb829f626d11d8ddf5f8f547263c7a2d79ab4787a",
		CgroupOwner{Runtime: "docker", ContainerID: "ec08435e04266c5ba381fccbb829f626d11d8ddf5f8f547263c7a2d79ab4787a", Outer: "a9a5ad238e59234193ee7ec3fcff5e735b3708ea1068826952255b69e3cfa413"}},
	{"github.com/jpetazzo/dind/issues/87: docker in docker", "/system.slice/docker-" + idA + ".scope/docker/" + idB,
		CgroupOwner{Runtime: "docker", ContainerID: idB, Outer: idA, Unit: "docker-" + idA + ".scope"}},
	{"github.com/containers/crun/issues/703: docker in podman", "/machine.slice/libpod-4a8dd27841a96004bc286d609621c4deee11577073d999eaf81a8fc9e513a314.scope/docker/eefb2b2ee52bc02fd916e11c0d723a7b0a5af8fc05940091c91960523aaf0bad/",
		CgroupOwner{Runtime: "docker", ContainerID: "eefb2b2ee52bc02fd916e11c0d723a7b0a5af8fc05940091c91960523aaf0bad", Outer: "4a8dd27841a96004bc286d609621c4deee11577073d999eaf81a8fc9e513a314",
			Unit: "libpod-4a8dd27841a96004bc286d609621c4deee11577073d999eaf81a8fc9e513a314.scope"}},
	{"docker run of an image with systemd, cgroup v2: its own init.scope", "/system.slice/docker-" + idA + ".scope/init.scope",
		CgroupOwner{Runtime: "docker", ContainerID: idA, Unit: "docker-" + idA + ".scope"}},
	{"docker run of an image with systemd, cgroup v2: a service in it", "/system.slice/docker-" + idA + ".scope/system.slice/nginx.service",
		CgroupOwner{Runtime: "docker", ContainerID: idA, Unit: "docker-" + idA + ".scope"}},
	{"docker run of an image with systemd, cgroup v2: a person in it is not of the host", "/system.slice/docker-" + idA + ".scope/user.slice/user-1000.slice/session-4.scope",
		CgroupOwner{Runtime: "docker", ContainerID: idA, Unit: "docker-" + idA + ".scope"}},
	{"github.com/google/cadvisor/issues/1900: Amazon ECS, cgroup v1", "/ecs/407f6abe-0744-4a5e-b6e1-397b1032febc/" + idA,
		CgroupOwner{Runtime: "docker", ContainerID: idA}},
	{"amazon-ecs-agent, fullCgroupPath: cgroup v2", "/ecstasks.slice/ecstasks-529630467358463ab6bbba4e73afe704.slice/docker-" + idA + ".scope",
		CgroupOwner{Runtime: "docker", ContainerID: idA, Unit: "docker-" + idA + ".scope"}},
	{"docker build: BuildKit's steps have ids of 25 digits and are not Docker containers", "/system.slice/system.slice:docker:jvifp9a6b1lxa1kuw8bwfcovf", CgroupOwner{}},
	{"docker build: the same, cgroupfs driver", "/docker/buildkit/jvifp9a6b1lxa1kuw8bwfcovf", CgroupOwner{}},
	{"cgroup_namespaces(7): another container's, seen from a container", "/../" + idA, CgroupOwner{}},
	{"cgroup_namespaces(7): seen from a container, systemd driver", "/../docker-" + idA + ".scope", CgroupOwner{Runtime: "docker", ContainerID: idA}},

	// containerd, nerdctl, ctr.
	{"github.com/containerd/cri/pull/290", "/system.slice/system-getty.slice/cri-containerd-0e768f8db752fcd648adb264498daa1d8f31562320e881d6a9ec593d24b1f779.scope",
		CgroupOwner{Runtime: "containerd", ContainerID: "0e768f8db752fcd648adb264498daa1d8f31562320e881d6a9ec593d24b1f779", Unit: "cri-containerd-0e768f8db752fcd648adb264498daa1d8f31562320e881d6a9ec593d24b1f779.scope"}},
	{"github.com/kubernetes-sigs/cri-tools/issues/1292: crictl without a pod", "/k8s.io/31ebf25aed49dcfb889acea7a7dbfdf09b65bb8deeeb4011b9a809f92660bae8",
		CgroupOwner{Runtime: "containerd", ContainerID: "31ebf25aed49dcfb889acea7a7dbfdf09b65bb8deeeb4011b9a809f92660bae8"}},
	{"nerdctl, cgroupfs driver", "/default/" + idA, CgroupOwner{Runtime: "containerd", ContainerID: idA}},
	{"falcosecurity/plugins container/test/matchers.cpp: ctr", "/default/test_container", CgroupOwner{Runtime: "containerd", ContainerID: "test_container"}},
	{"falcosecurity/plugins container/test/matchers.cpp: ctr", "/k8s.io/my-test_container", CgroupOwner{Runtime: "containerd", ContainerID: "my-test_container"}},
	{"falcosecurity/plugins container/test/matchers.cpp: a namespace that could be anything", "/my_very_long_namespace-1.5/test_container", CgroupOwner{}},
	{"falcosecurity/plugins container/test/matchers.cpp", "/default/some_short_id.service", CgroupOwner{}},
	{"falcosecurity/plugins container/test/matchers.cpp", "/default/some_short_id.slice", CgroupOwner{}},
	{"falcosecurity/plugins container/test/matchers.cpp", "/system.slice/nerdctl-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope",
		CgroupOwner{Runtime: "containerd", ContainerID: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", Unit: "nerdctl-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope"}},
	{"chainguard osquery-defense-kit: rootless nerdctl", "/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-" + idA + ".scope",
		CgroupOwner{Runtime: "containerd", ContainerID: idA, Unit: "user@1000.service", UserUnit: "nerdctl-" + idA + ".scope", UserID: "1000"}},

	// Kubernetes.
	{"neuvector share/system/cgroup_test.go: cgroupfs driver", "/kubepods/besteffort/pod74ba62da-1a3d-11e7-bb11-080027cb0e22/cb1eadb7abe3a6545e9856411207073277838e1bdc003337c2f8685faeedc32c",
		CgroupOwner{ContainerID: "cb1eadb7abe3a6545e9856411207073277838e1bdc003337c2f8685faeedc32c", PodUID: "74ba62da-1a3d-11e7-bb11-080027cb0e22", PodQoS: "besteffort"}},
	{"github.com/containerd/containerd/issues/4857: static pod, cgroupfs driver", "/kubepods/burstable/pod89f4f2cb511c3b0b7e5272cff5ec37bf/823b5a6d9aaa8da5c0ecda3e7cbcd6729673437965dc600ffcb0a2651960f945",
		CgroupOwner{ContainerID: "823b5a6d9aaa8da5c0ecda3e7cbcd6729673437965dc600ffcb0a2651960f945", PodUID: "89f4f2cb511c3b0b7e5272cff5ec37bf", PodQoS: "burstable"}},
	{"neuvector share/system/cgroup_test.go: kube-proxy makes a cgroup of its own", "/kubepods/besteffort/podf8a694f2-7c08-11e9-98da-000c29077430/c04e0a88a1de067f25bece337d4dbb897396e0b623c2a65330850fc9823f1903/kube-proxy",
		CgroupOwner{ContainerID: "c04e0a88a1de067f25bece337d4dbb897396e0b623c2a65330850fc9823f1903", PodUID: "f8a694f2-7c08-11e9-98da-000c29077430", PodQoS: "besteffort"}},
	{"k8s cgroupfs driver, guaranteed: no class in the path (the same as kind's below, on a host)", "/kubepods/podb1c81bdc-1bc5-4d39-a173-b74598538a91/741e4d6c8494d2492df382a0c3f765c424bd784869fdf5a399cfbeba71e11854",
		CgroupOwner{ContainerID: "741e4d6c8494d2492df382a0c3f765c424bd784869fdf5a399cfbeba71e11854", PodUID: "b1c81bdc-1bc5-4d39-a173-b74598538a91", PodQoS: "guaranteed"}},
	{"neuvector share/system/cgroup_test.go: docker, systemd driver", "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod045b1e35_7f13_11e7_ac42_0050568ffca0.slice/docker-b5b6f2da8008be266864f896f93789762b2ce50792114a5c5f2cc3315af0bc70.scope",
		CgroupOwner{Runtime: "docker", ContainerID: "b5b6f2da8008be266864f896f93789762b2ce50792114a5c5f2cc3315af0bc70", PodUID: "045b1e35-7f13-11e7-ac42-0050568ffca0", PodQoS: "besteffort",
			Unit: "docker-b5b6f2da8008be266864f896f93789762b2ce50792114a5c5f2cc3315af0bc70.scope"}},
	{"github.com/lxc/lxc/issues/3890: cri-dockerd", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7d4424e6_bb13_42f4_a47a_45a4828bf54d.slice/docker-d0b3604b67ac7930dd34ba3a796627e3e4717d12309e90a4afe3f38b6816ac98.scope",
		CgroupOwner{Runtime: "docker", ContainerID: "d0b3604b67ac7930dd34ba3a796627e3e4717d12309e90a4afe3f38b6816ac98", PodUID: "7d4424e6-bb13-42f4-a47a-45a4828bf54d", PodQoS: "burstable",
			Unit: "docker-d0b3604b67ac7930dd34ba3a796627e3e4717d12309e90a4afe3f38b6816ac98.scope"}},
	{"github.com/netdata/netdata/issues/4868", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod03f3f104_3215_44f2_9686_d4dd1f05a7ed.slice/cri-containerd-09d185410c4e25236cc24717f881589bb0978b24eafd101624e627a4dd8d3439.scope",
		CgroupOwner{Runtime: "containerd", ContainerID: "09d185410c4e25236cc24717f881589bb0978b24eafd101624e627a4dd8d3439", PodUID: "03f3f104-3215-44f2-9686-d4dd1f05a7ed", PodQoS: "burstable",
			Unit: "cri-containerd-09d185410c4e25236cc24717f881589bb0978b24eafd101624e627a4dd8d3439.scope"}},
	{"github.com/netdata/netdata/issues/4868: static pod", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod187bff14cccb94f179e943eacce55bb3.slice/cri-containerd-c203a2647ef1ad78e990157c50331f3b6ef0b03336cf08535d6bf7faa5421415.scope",
		CgroupOwner{Runtime: "containerd", ContainerID: "c203a2647ef1ad78e990157c50331f3b6ef0b03336cf08535d6bf7faa5421415", PodUID: "187bff14cccb94f179e943eacce55bb3", PodQoS: "burstable",
			Unit: "cri-containerd-c203a2647ef1ad78e990157c50331f3b6ef0b03336cf08535d6bf7faa5421415.scope"}},
	{"github.com/kata-containers/kata-containers/pull/11598: guaranteed, systemd driver", "/kubepods.slice/kubepods-poddc430cd3_34b7_4ea6_be26_ddfd88d7ddff.slice/cri-containerd-8564224395a4fbf7f2792baa22ee16dfc8f8e862e20342d3b2bcc211a3939af6.scope",
		CgroupOwner{Runtime: "containerd", ContainerID: "8564224395a4fbf7f2792baa22ee16dfc8f8e862e20342d3b2bcc211a3939af6", PodUID: "dc430cd3-34b7-4ea6-be26-ddfd88d7ddff", PodQoS: "guaranteed",
			Unit: "cri-containerd-8564224395a4fbf7f2792baa22ee16dfc8f8e862e20342d3b2bcc211a3939af6.scope"}},
	{"github.com/open-telemetry/opentelemetry-java/issues/4507: kubelet with systemd, containerd without", "/kubepods-besteffort-pod0125ec2f_b64a_4868_8f5b_94b56cbab864.slice:cri-containerd:ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459",
		CgroupOwner{Runtime: "containerd", ContainerID: "ee4b20e90ac7f42a10bd004d05646b13d8ab5e2c5e7cbc01abf8006bac016459", PodUID: "0125ec2f-b64a-4868-8f5b-94b56cbab864", PodQoS: "besteffort"}},
	{"github.com/kubernetes/kubernetes/issues/106514: the same, below the service", "/system.slice/containerd.service/kubepods-burstable-pod36b6d6be73b1065af369b3985edafa09.slice:cri-containerd:79fedb3bd23ca77c9d9ccb41909038316f713df22b54b7d942b71d3812e7c74e",
		CgroupOwner{Runtime: "containerd", ContainerID: "79fedb3bd23ca77c9d9ccb41909038316f713df22b54b7d942b71d3812e7c74e", PodUID: "36b6d6be73b1065af369b3985edafa09", PodQoS: "burstable", Unit: "containerd.service"}},
	{"github.com/containerd/containerd/issues/5226: the name is no id that containerd makes", "/system.slice/containerd.service/kubepods-burstable-pod7a875b5c_4d3c_4345_ac0f_5c847d8d7129.slice:cri-containerd:webapp",
		CgroupOwner{PodUID: "7a875b5c-4d3c-4345-ac0f-5c847d8d7129", PodQoS: "burstable", Unit: "containerd.service"}},
	{"github.com/containerd/nri/pull/227: kind", "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod1e597579_417e_482f_bf65_5fe170c3aebd.slice/cri-containerd-a09bc17f5aa29b0dbdec9ede5f46cf1396d2405917ab02e6f1eb1019f388396e.scope",
		CgroupOwner{Runtime: "containerd", ContainerID: "a09bc17f5aa29b0dbdec9ede5f46cf1396d2405917ab02e6f1eb1019f388396e", PodUID: "1e597579-417e-482f-bf65-5fe170c3aebd", PodQoS: "besteffort",
			Unit: "cri-containerd-a09bc17f5aa29b0dbdec9ede5f46cf1396d2405917ab02e6f1eb1019f388396e.scope"}},
	{"the same, seen from the host", "/system.slice/docker-" + idB + ".scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod1e597579_417e_482f_bf65_5fe170c3aebd.slice/cri-containerd-a09bc17f5aa29b0dbdec9ede5f46cf1396d2405917ab02e6f1eb1019f388396e.scope",
		CgroupOwner{Runtime: "containerd", ContainerID: "a09bc17f5aa29b0dbdec9ede5f46cf1396d2405917ab02e6f1eb1019f388396e", Outer: idB, PodUID: "1e597579-417e-482f-bf65-5fe170c3aebd", PodQoS: "besteffort",
			Unit: "docker-" + idB + ".scope"}},
	{"ffromani/numalign pkg/cpusetinfo/cpusetinfo_test.go: kind, cgroupfs driver", "/docker/95b99ca10ff72f086a51561b32957244ef498e88d5564a11fdbae039cc42d581/kubelet/kubepods/podb1c81bdc-1bc5-4d39-a173-b74598538a91/741e4d6c8494d2492df382a0c3f765c424bd784869fdf5a399cfbeba71e11854",
		CgroupOwner{ContainerID: "741e4d6c8494d2492df382a0c3f765c424bd784869fdf5a399cfbeba71e11854", Outer: "95b99ca10ff72f086a51561b32957244ef498e88d5564a11fdbae039cc42d581", PodUID: "b1c81bdc-1bc5-4d39-a173-b74598538a91", PodQoS: "guaranteed"}},
	{"cilium/tetragon pkg/sensors/exec/procevents/proc_reader_test.go: kind, docker with systemd", "/system.slice/docker-c1146e7ccca9ab4436abd69923c07d097b37b762ed21cc3f24584c2f84e77c57.scope/kubelet/kubepods/burstable/pod09a70ae9ccc491e651e5c773579b3490/b0e6aa50e847c3d3b1880e307ec7996040275c8063832cffc9274defce2cb655",
		CgroupOwner{ContainerID: "b0e6aa50e847c3d3b1880e307ec7996040275c8063832cffc9274defce2cb655", Outer: "c1146e7ccca9ab4436abd69923c07d097b37b762ed21cc3f24584c2f84e77c57", PodUID: "09a70ae9ccc491e651e5c773579b3490", PodQoS: "burstable",
			Unit: "docker-c1146e7ccca9ab4436abd69923c07d097b37b762ed21cc3f24584c2f84e77c57.scope"}},
	{"k3s as a service with delegation", "/system.slice/k3s.service/kubepods/burstable/pod89f4f2cb511c3b0b7e5272cff5ec37bf/" + idA,
		CgroupOwner{ContainerID: idA, PodUID: "89f4f2cb511c3b0b7e5272cff5ec37bf", PodQoS: "burstable", Unit: "k3s.service"}},
	{"docker in a pod, both with cgroupfs", "/kubepods/besteffort/pod74ba62da-1a3d-11e7-bb11-080027cb0e22/cb1eadb7abe3a6545e9856411207073277838e1bdc003337c2f8685faeedc32c/docker/" + idA,
		CgroupOwner{Runtime: "docker", ContainerID: idA, Outer: "cb1eadb7abe3a6545e9856411207073277838e1bdc003337c2f8685faeedc32c", PodUID: "74ba62da-1a3d-11e7-bb11-080027cb0e22", PodQoS: "besteffort"}},
	{"github.com/cri-o/cri-o/issues/842: a pod without a container yet", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12723d69_9268_11e7_84d0_c85b76cda386.slice",
		CgroupOwner{PodUID: "12723d69-9268-11e7-84d0-c85b76cda386", PodQoS: "burstable"}},
	{"github.com/kubernetes/kubernetes/issues/36807: other names in 2016", "/system.slice/docker.service/BestEffort.slice/BestEffort-pod0d33f94b_ab1a_11e6_9e1a_68f7281d8004.slice/0c34bcd7d02f321d0df7aa6ea703285b02abebc9096c5128c14091fc43ea1f3b",
		CgroupOwner{Unit: "docker.service"}},

	// CRI-O.
	{"github.com/opencontainers/runc/issues/4620", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda5c1f8d5_1919_434d_add7_4afaafdaef89.slice/crio-5eed917563583925ffdbd40a64efb2aaffe58638e57add8becaf460fe74f5b1c.scope",
		CgroupOwner{Runtime: "cri-o", ContainerID: "5eed917563583925ffdbd40a64efb2aaffe58638e57add8becaf460fe74f5b1c", PodUID: "a5c1f8d5-1919-434d-add7-4afaafdaef89", PodQoS: "burstable",
			Unit: "crio-5eed917563583925ffdbd40a64efb2aaffe58638e57add8becaf460fe74f5b1c.scope"}},
	{"github.com/opencontainers/runc/issues/4072: crun adds /container", "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podc8bad552_5c99_4d4f_b71c_c426c0cde014.slice/crio-15b6e0c6490cad17fcf69eb837794349b4df96f84ba96c6be9828fe281c055a9.scope/container",
		CgroupOwner{Runtime: "cri-o", ContainerID: "15b6e0c6490cad17fcf69eb837794349b4df96f84ba96c6be9828fe281c055a9", PodUID: "c8bad552-5c99-4d4f-b71c-c426c0cde014", PodQoS: "besteffort",
			Unit: "crio-15b6e0c6490cad17fcf69eb837794349b4df96f84ba96c6be9828fe281c055a9.scope"}},
	{"github.com/opencontainers/runc/issues/4620: conmon in the pod's slice", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod207aaad1_659f_4db8_88e0_46e0cdcc3004.slice/crio-conmon-32da98c8522068be05a7510a3eddb09cad6ed2f03286180d0e931d0d0b6224a6.scope",
		CgroupOwner{PodUID: "207aaad1-659f-4db8-88e0-46e0cdcc3004", PodQoS: "burstable", Unit: "crio-conmon-32da98c8522068be05a7510a3eddb09cad6ed2f03286180d0e931d0d0b6224a6.scope"}},
	{"github.com/openshift/microshift/pull/697: conmon in system.slice", "/system.slice/crio-conmon-e0c85fe7644a858988d9687c2e0736a7d31922740d0f3e001c6b2e0aa7e5f528.scope",
		CgroupOwner{Unit: "crio-conmon-e0c85fe7644a858988d9687c2e0736a7d31922740d0f3e001c6b2e0aa7e5f528.scope"}},
	{"falcosecurity/plugins container/test/matchers.cpp: cgroupfs driver", "/kubepods/besteffort/pod63b3ebfc-2890-11e9-8154-16bf8ef8d9dc/crio-73bfe475650de66df8e2affdc98d440dcbe84f8df83b6f75a68a82eb7026136a",
		CgroupOwner{Runtime: "cri-o", ContainerID: "73bfe475650de66df8e2affdc98d440dcbe84f8df83b6f75a68a82eb7026136a", PodUID: "63b3ebfc-2890-11e9-8154-16bf8ef8d9dc", PodQoS: "besteffort"}},
	{"cri-o cgroupfs manager: conmon", "/kubepods/besteffort/pod63b3ebfc-2890-11e9-8154-16bf8ef8d9dc/crio-conmon-73bfe475650de66df8e2affdc98d440dcbe84f8df83b6f75a68a82eb7026136a",
		CgroupOwner{PodUID: "63b3ebfc-2890-11e9-8154-16bf8ef8d9dc", PodQoS: "besteffort"}},
	{"github.com/kubernetes/minikube/issues/11280: minikube's node is a docker container", "/docker/d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod2ca4a155_3599_498d_bb9d_4446693fa3ea.slice/crio-0ba8ac17e4e7a31fb82279503552fe94e64bab4745bf6fd2ff231e7c8ca8bed0.scope",
		CgroupOwner{Runtime: "cri-o", ContainerID: "0ba8ac17e4e7a31fb82279503552fe94e64bab4745bf6fd2ff231e7c8ca8bed0", Outer: "d6701ec289c56e4391acb11d07474b3139466857a305490575508a8b7a9fcf22",
			PodUID: "2ca4a155-3599-498d-bb9d-4446693fa3ea", PodQoS: "besteffort"}},

	// Podman.
	{"github.com/podman-container-tools/podman/pull/507", "/machine.slice/libpod-0411a2a82311fbc65b137ca550d5f7e6b6863bc734759be2f515b0b67062d49a.scope",
		CgroupOwner{Runtime: "podman", ContainerID: "0411a2a82311fbc65b137ca550d5f7e6b6863bc734759be2f515b0b67062d49a", Unit: "libpod-0411a2a82311fbc65b137ca550d5f7e6b6863bc734759be2f515b0b67062d49a.scope"}},
	{"github.com/podman-container-tools/podman/pull/507: conmon", "/machine.slice/libpod-conmon-0411a2a82311fbc65b137ca550d5f7e6b6863bc734759be2f515b0b67062d49a.scope",
		CgroupOwner{Unit: "libpod-conmon-0411a2a82311fbc65b137ca550d5f7e6b6863bc734759be2f515b0b67062d49a.scope"}},
	{"github.com/podman-container-tools/podman/issues/13673: in a pod", "/machine.slice/machine-libpod_pod_ddf44d54b520f0b4469fcd01c3155ca49e6911dc2175471eb3a7b789187a7a89.slice/libpod-1dadda571b14eefb3158a15d0fff7e0089f9dd92f922679ed0116cccdfe8bb0f.scope/container",
		CgroupOwner{Runtime: "podman", ContainerID: "1dadda571b14eefb3158a15d0fff7e0089f9dd92f922679ed0116cccdfe8bb0f", PodUID: "ddf44d54b520f0b4469fcd01c3155ca49e6911dc2175471eb3a7b789187a7a89", Unit: "libpod-1dadda571b14eefb3158a15d0fff7e0089f9dd92f922679ed0116cccdfe8bb0f.scope"}},
	{"github.com/podman-container-tools/podman/issues/6400: rootless, in a pod", "/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_" + idB + ".slice/libpod-" + idA + ".scope/container",
		CgroupOwner{Runtime: "podman", ContainerID: idA, PodUID: idB, Unit: "user@1000.service", UserUnit: "libpod-" + idA + ".scope", UserID: "1000"}},
	{"podman 4.3, cgroupfs manager, in a pod", "/libpod_parent/" + idB + "/libpod-" + idA,
		CgroupOwner{Runtime: "podman", ContainerID: idA, PodUID: idB}},
	{"a directory like a pod of podman, but at another place", "/other/" + idB + "/libpod-" + idA,
		CgroupOwner{Runtime: "podman", ContainerID: idA}},
	{"github.com/podman-container-tools/podman/issues/13673: --cgroups=split", "/srv.slice/container-homeassistant.service/libpod-payload-c4e8e0d642078c90dde4a8a65883a7c0bee26f751d7c6a3096dc322519c658d3",
		CgroupOwner{Runtime: "podman", ContainerID: "c4e8e0d642078c90dde4a8a65883a7c0bee26f751d7c6a3096dc322519c658d3", Unit: "container-homeassistant.service"}},
	{"github.com/podman-container-tools/podman/issues/13673: --cgroups=split, conmon", "/srv.slice/container-homeassistant.service/runtime",
		CgroupOwner{Unit: "container-homeassistant.service"}},
	{"github.com/coroot/coroot-node-agent/pull/251: --cgroups=split", "/system.slice/app_name.service/libpod-payload-cc316b3065798e96c30dcfc708f7a7dda1b2d78e552364002d2e49a3100ef3ef",
		CgroupOwner{Runtime: "podman", ContainerID: "cc316b3065798e96c30dcfc708f7a7dda1b2d78e552364002d2e49a3100ef3ef", Unit: "app_name.service"}},
	{"falcosecurity/plugins container/test/matchers.cpp: cephadm",
		"/system.slice/system-ceph-f952f5be-565c-11f0-ab72-0affea283157.slice/ceph-f952f5be-565c-11f0-ab72-0affea283157@mon.ip-10-0-25-96.service/libpod-payload-9cc35a907a1e4e7ac8c021758b2bb28db60b3a787115f9114a641bf44f8ba99b",
		CgroupOwner{Runtime: "podman", ContainerID: "9cc35a907a1e4e7ac8c021758b2bb28db60b3a787115f9114a641bf44f8ba99b", Unit: "ceph-f952f5be-565c-11f0-ab72-0affea283157@mon.ip-10-0-25-96.service"}},
	{"podman's debug log, CgroupParent: cgroupfs manager", "/libpod_parent/libpod-9ce45faf7719310972823ceeb3afaa4bc6c5b86fe1d59da60946fc12f42541ca",
		CgroupOwner{Runtime: "podman", ContainerID: "9ce45faf7719310972823ceeb3afaa4bc6c5b86fe1d59da60946fc12f42541ca"}},
	{"datadog-agent pkg/util/cgroups/reader_v1_test.go: systemd in a container of podman's cgroupfs manager", "/libpod_parent/libpod-6dc3fdffbf66b1239d55e98da9aaa759ea51ed35d04eb09d19ebd78963aa26c2/system.slice/var-lib-docker-containers-1575e8b4a92a9c340a657f3df4ddc0f6a6305c200879f3898b26368ad019b503-mounts-shm.mount",
		CgroupOwner{Runtime: "podman", ContainerID: "6dc3fdffbf66b1239d55e98da9aaa759ea51ed35d04eb09d19ebd78963aa26c2"}},
	{"github.com/containers/crun/issues/376: podman itself, rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/podman-6696.scope",
		CgroupOwner{Unit: "user@1000.service", UserUnit: "podman-6696.scope", UserID: "1000"}},
	{"datadog-agent pkg/util/cgroups/reader_v1_test.go: minikube in podman", "/libpod_parent/libpod-6dc3fdffbf66b1239d55e98da9aaa759ea51ed35d04eb09d19ebd78963aa26c2/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-poda2acd1bccd50fd7790183537181f658e.slice/docker-1575e8b4a92a9c340a657f3df4ddc0f6a6305c200879f3898b26368ad019b503.scope",
		CgroupOwner{Runtime: "docker", ContainerID: "1575e8b4a92a9c340a657f3df4ddc0f6a6305c200879f3898b26368ad019b503", Outer: "6dc3fdffbf66b1239d55e98da9aaa759ea51ed35d04eb09d19ebd78963aa26c2",
			PodUID: "a2acd1bccd50fd7790183537181f658e", PodQoS: "burstable"}},
	{"podman's libpod_parent: a conmon without a container", "/libpod_parent/conmon", CgroupOwner{}},
	{"falcosecurity/plugins container/test/matchers.cpp: too long", "/user.slice/user-1000.slice/user@1000.service/libpod-" + idA + idA[:12], CgroupOwner{Unit: "user@1000.service", UserID: "1000"}},
	{"falcosecurity/plugins container/test/matchers.cpp: no digit", "/user.slice/user-1000.slice/user@1000.service/libpod-" + idA[1:] + "g", CgroupOwner{Unit: "user@1000.service", UserID: "1000"}},

	// OCI runtimes by hand.
	{"github.com/project-oak/oak/pull/4371: runc --systemd-cgroup", "/system.slice/runc-oakc.scope", CgroupOwner{Runtime: "runc", ContainerID: "oakc", Unit: "runc-oakc.scope"}},
	{"runc docs/cgroup-v2.md: rootless", "/user.slice/user-1001.slice/user@1001.service/user.slice/runc-foo.scope",
		CgroupOwner{Runtime: "runc", ContainerID: "foo", Unit: "user@1001.service", UserUnit: "runc-foo.scope", UserID: "1001"}},
	{"github.com/opencontainers/runc/issues/931: old runc, below init.scope", "/init.scope/system.slice/runc-foo.scope", CgroupOwner{Runtime: "runc", ContainerID: "foo", Unit: "init.scope"}},
	{"crun src/libcrun/cgroup-systemd.c", "/system.slice/crun-my_ctr.1.scope/container", CgroupOwner{Runtime: "crun", ContainerID: "my_ctr.1", Unit: "crun-my_ctr.1.scope"}},
	{"gvisor g3doc/user_guide/systemd.md", "/system.slice/runsc-sandbox.scope", CgroupOwner{Runtime: "runsc", ContainerID: "sandbox", Unit: "runsc-sandbox.scope"}},
	{"youki libcontainer, get_cgroup_path", "/system.slice/youki-sample.scope", CgroupOwner{Runtime: "youki", ContainerID: "sample", Unit: "youki-sample.scope"}},
	{"github.com/containers/crun/issues/1469: crun without systemd", "/fcfcc473-64a0-41bc-bb61-8ca3801c7e0f", CgroupOwner{}},
	{"github.com/containers/crun/issues/1469: runc without systemd", "/user.slice/user-0.slice/fcfcc473-64a0-41bc-bb61-8ca3801c7e0f", CgroupOwner{UserID: "0"}},
	{"github.com/opencontainers/runc/issues/2703: runc below a person's service", "/user.slice/user-1000.slice/user@1000.service/gnome-session.service/co92/init.scope",
		CgroupOwner{Unit: "user@1000.service", UserUnit: "gnome-session.service", UserID: "1000"}},
	{"neuvector share/system/cgroup_test.go, Docker in 2014: 64 digits, not below a directory of a runtime", "/4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970", CgroupOwner{}},
	{"64 digits below the service of another program", "/system.slice/buildbot.service/" + idA, CgroupOwner{Unit: "buildbot.service"}},
	{"docker run --cgroup-parent=/foo, cgroupfs driver", "/foo/" + idA, CgroupOwner{}},

	// LXC, LXD, Incus.
	{"lxc src/lxc/cgroups/cgroup.h, DEFAULT_PAYLOAD_CGROUP_PREFIX", "/lxc.payload.c1", CgroupOwner{Runtime: "lxc", ContainerID: "c1"}},
	{"the same, systemd in it", "/lxc.payload.c1/init.scope", CgroupOwner{Runtime: "lxc", ContainerID: "c1"}},
	{"the same, a service in it", "/lxc.payload.my-web.example/system.slice/nginx.service", CgroupOwner{Runtime: "lxc", ContainerID: "my-web.example"}},
	{"github.com/lxc/lxc/issues/3373: lxc-attach", "/lxc.payload.test/.lxc", CgroupOwner{Runtime: "lxc", ContainerID: "test"}},
	{"LXC allows any name", "/lxc.payload.a.service", CgroupOwner{Runtime: "lxc", ContainerID: "a.service"}},
	{"lxc src/lxc/cgroups/cgroup.h, DEFAULT_MONITOR_CGROUP_PREFIX", "/lxc.monitor.c1", CgroupOwner{}},
	{"github.com/lxc/lxc/issues/2782: LXC 3.1", "/lxc.payload/c1", CgroupOwner{Runtime: "lxc", ContainerID: "c1"}},
	{"github.com/lxc/lxc/issues/2782: LXC 3.1", "/lxc.monitor/c1", CgroupOwner{}},
	{"github.com/lxc/lxc/issues/2782: LXC 3.1", "/lxc.pivot", CgroupOwner{}},
	{"github.com/netdata/netdata/issues/3199: LXC before 3.1", "/lxc/deloittedigi/system.slice/php7.1-fpm.service", CgroupOwner{Runtime: "lxc", ContainerID: "deloittedigi"}},
	{"Proxmox VE", "/lxc/100/ns/init.scope", CgroupOwner{Runtime: "lxc", ContainerID: "100"}},
	{"lxc.system.conf(5), lxc.cgroup.pattern = lxc/%n", "/lxc/c1/payload", CgroupOwner{Runtime: "lxc", ContainerID: "c1"}},
	{"lxc.system.conf(5), lxc.cgroup.pattern = lxc/%n", "/lxc/c1/monitor", CgroupOwner{}},
	{"lxc.container.conf(5), lxc.cgroup.dir (vpsAdminOS)", "/osctl/pool.tank/ct.ct1/user-owned/lxc.payload.ct1", CgroupOwner{Runtime: "lxc", ContainerID: "ct1"}},
	{"docker in Incus", "/lxc.payload.c1/system.slice/docker-" + idA + ".scope", CgroupOwner{Runtime: "docker", ContainerID: idA, Outer: "c1"}},
	{"conmon in Incus is in the instance", "/lxc.payload.c1/machine.slice/libpod-conmon-" + idA + ".scope", CgroupOwner{Runtime: "lxc", ContainerID: "c1"}},
	{"Incus in Incus", "/lxc.payload.c1/lxc.payload.c2/init.scope", CgroupOwner{Runtime: "lxc", ContainerID: "c2", Outer: "c1"}},
	{"lxcfs.service", "/system.slice/lxcfs.service", CgroupOwner{Unit: "lxcfs.service"}},
	{"falcosecurity/plugins container libvirt_lxc.cpp: not LXC", "/libvirt/lxc/web", CgroupOwner{}},
	{"somebody's directory", "/user.slice/user-1000.slice/user@1000.service/app.slice/lxc/web", CgroupOwner{Unit: "user@1000.service", UserID: "1000"}},

	// systemd-nspawn, and the other machines that machined registers.
	{"systemd units/systemd-nspawn@.service.in", "/machine.slice/systemd-nspawn@jammy.service/payload/system.slice/console-getty.service",
		CgroupOwner{Runtime: "systemd-nspawn", ContainerID: "jammy", Unit: "systemd-nspawn@jammy.service"}},
	{"the same: nspawn itself", "/machine.slice/systemd-nspawn@jammy.service/supervisor", CgroupOwner{Unit: "systemd-nspawn@jammy.service"}},
	{"systemd units/systemd-nspawn@.service.in, %i: not escaped", "/machine.slice/systemd-nspawn@media-01.service/payload/init.scope",
		CgroupOwner{Runtime: "systemd-nspawn", ContainerID: "media-01", Unit: "systemd-nspawn@media-01.service"}},
	{"github.com/systemd/systemd/pull/38440: machined escapes", `/machine.slice/machine-TEST\x2d13\x2dNSPAWN.machinectl\x2dbind.7ye.scope/payload`,
		CgroupOwner{Runtime: "systemd-nspawn", ContainerID: "TEST-13-NSPAWN.machinectl-bind.7ye", Unit: `machine-TEST\x2d13\x2dNSPAWN.machinectl\x2dbind.7ye.scope`}},
	{"the same: nspawn itself", `/machine.slice/machine-TEST\x2d13\x2dNSPAWN.machinectl\x2dbind.7ye.scope/supervisor`,
		CgroupOwner{Unit: `machine-TEST\x2d13\x2dNSPAWN.machinectl\x2dbind.7ye.scope`}},
	{"systemd src/nspawn/nspawn-register.c, allocate_scope: --register=no", "/machine.slice/web-1.scope/payload", CgroupOwner{Runtime: "systemd-nspawn", ContainerID: "web-1", Unit: "web-1.scope"}},
	{"github.com/rpm-software-management/mock: --keep-unit in a session shows no name", "/user.slice/user-1000.slice/session-12.scope/payload",
		CgroupOwner{Unit: "session-12.scope", UserID: "1000", Session: "12"}},
	{"libvirt: a virtual machine", `/machine.slice/machine-qemu\x2d1\x2ddebian12.scope/libvirt/emulator`, CgroupOwner{Unit: `machine-qemu\x2d1\x2ddebian12.scope`}},
	{"falcosecurity/plugins container libvirt_lxc.cpp: a container of a runtime that ParseCgroup does not know", `/machine.slice/machine-lxc\x2d2293906\x2dlibvirt\x2dcontainer.scope/libvirt`,
		CgroupOwner{Unit: `machine-lxc\x2d2293906\x2dlibvirt\x2dcontainer.scope`}},
	{"podman, with a directory that a program in the container called payload", "/machine.slice/libpod-" + idA + ".scope/payload",
		CgroupOwner{Runtime: "podman", ContainerID: idA, Unit: "libpod-" + idA + ".scope"}},

	// systemd.
	{"pid 1", "/init.scope", CgroupOwner{Unit: "init.scope"}},
	{"systemd src/test/test-cgroup-util.c", "/system.slice/getty@tty5.service/aaa/bbb", CgroupOwner{Unit: "getty@tty5.service"}},
	{"systemd src/test/test-cgroup-util.c: no instance", "/user.slice/user-1000.slice/user@.service/server.service", CgroupOwner{UserID: "1000"}},
	{"systemd src/test/test-cgroup-util.c: no unit's name", "/system.slice/getty####@tty6.service/xxx", CgroupOwner{}},
	{"systemd src/test/test-cgroup-util.c: underscore", "/system.slice/system-waldo.slice/_cpu.service/sdfdsaf", CgroupOwner{Unit: "cpu.service"}},
	{"systemd src/test/test-cgroup-util.c", "/user.slice/user-1000.slice/user@1000.service/server.service", CgroupOwner{Unit: "user@1000.service", UserUnit: "server.service", UserID: "1000"}},
	{"systemd src/test/test-cgroup-util.c", "/user.slice/user-1000.slice/user@1000.service/foobar.slice/foobar@pie.service", CgroupOwner{Unit: "user@1000.service", UserUnit: "foobar@pie.service", UserID: "1000"}},
	{"systemd src/test/test-cgroup-util.c: not a number", "/user.slice/user-waldo.slice", CgroupOwner{}},
	{"systemd src/test/test-cgroup-util.c: no session's id", "/session-.scope", CgroupOwner{Unit: "session-.scope"}},
	{"a login by ssh", "/user.slice/user-1000.slice/session-3.scope", CgroupOwner{Unit: "session-3.scope", UserID: "1000", Session: "3"}},
	{"root's login", "/user.slice/user-0.slice/session-c1.scope", CgroupOwner{Unit: "session-c1.scope", UserID: "0", Session: "c1"}},
	{"a person's manager itself", "/user.slice/user-1000.slice/user@1000.service/init.scope", CgroupOwner{Unit: "user@1000.service", UserUnit: "init.scope", UserID: "1000"}},
	{"github.com/podman-container-tools/podman/issues/20910: GNOME terminal", "/user.slice/user-10000.slice/user@10000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-f22f14d2-3d44-4304-9879-3fdd0df7b08e.scope",
		CgroupOwner{Unit: "user@10000.service", UserUnit: "vte-spawn-f22f14d2-3d44-4304-9879-3fdd0df7b08e.scope", UserID: "10000"}},
	{"github.com/k3s-io/k3s/issues/2587: the unit is not below the root of the hierarchy", "/systemd/system.slice/docker.service", CgroupOwner{}},
	{"datadog-agent pkg/util/cgroups/reader_v1_test.go: a mount unit is not a container", "/system.slice/run-containerd-io.containerd.runtime.v2.task-k8s.io-2327a2aec169e25cf05f2a901486b7463fdb513ae097fc0ae6a3ca94381ddc42-rootfs.mount",
		CgroupOwner{Unit: "run-containerd-io.containerd.runtime.v2.task-k8s.io-2327a2aec169e25cf05f2a901486b7463fdb513ae097fc0ae6a3ca94381ddc42-rootfs.mount"}},
	{"the engine itself", "/system.slice/docker.service", CgroupOwner{Unit: "docker.service"}},
	{"somebody's service", "/system.slice/docker-foo.service", CgroupOwner{Unit: "docker-foo.service"}},
	{"somebody's service, with an id", "/system.slice/docker-" + idA + ".service", CgroupOwner{Unit: "docker-" + idA + ".service"}},
	{"a scope with a short id", "/system.slice/docker-7951fb549ab9.scope", CgroupOwner{Unit: "docker-7951fb549ab9.scope"}},
	{"a prefix of somebody's own", "/system.slice/my-docker-" + idA + ".scope", CgroupOwner{Unit: "my-docker-" + idA + ".scope"}},
	{"capitals", "/docker/" + strings.ToUpper(idA), CgroupOwner{}},
	{"github.com/siderolabs/talos/pull/3950", "/system/apid", CgroupOwner{}},
	{"neuvector share/system/cgroup_test.go: upstart and cgmanager", "/user/1000.user/c2.session", CgroupOwner{}},
	{"the root", "/", CgroupOwner{}},
	{"nothing", "", CgroupOwner{}},
	{"no path", "docker/" + idA, CgroupOwner{}},
	{"cgroup(7): removed, with a zombie in it", "/system.slice/docker-" + idA + ".scope (deleted)", CgroupOwner{Runtime: "docker", ContainerID: idA, Unit: "docker-" + idA + ".scope"}},
}

func TestParseCgroup(t *testing.T) {
	for _, tt := range cgroupTests {
		if got := ParseCgroup(tt.path); got != tt.want {
			t.Errorf("%s\n%s\ngot  %+v\nwant %+v", tt.source, tt.path, got, tt.want)
		}
	}
}

func TestParseProcCgroup(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"v2 alone", "0::/system.slice/ssh.service\n", "/system.slice/ssh.service"},
		{"v2 alone, the root", "0::/\n", "/"},
		{"hybrid, v2 unused",
			"12:pids:/default/" + idA + "\n11:memory:/default/" + idA + "\n1:name=systemd:/\n0::/\n", "/default/" + idA},
		{"hybrid, v2 has the service of a runtime that knows v1 (github.com/containerd/containerd/issues/5226)",
			"9:memory:/kubepods/burstable/pod89f4f2cb511c3b0b7e5272cff5ec37bf/" + idA + "\n1:name=systemd:/system.slice/containerd.service\n0::/system.slice/containerd.service\n",
			"/kubepods/burstable/pod89f4f2cb511c3b0b7e5272cff5ec37bf/" + idA},
		{"docker in docker in 2016 (github.com/kubernetes/kubernetes/issues/18202)",
			"9:perf_event:/docker/81950eac55062e5d8e7b5567d1036e4b146dfe212bdc9263c97347e6ce86b904\n1:name=systemd:/system.slice/docker.service\n",
			"/docker/81950eac55062e5d8e7b5567d1036e4b146dfe212bdc9263c97347e6ce86b904"},
		{"hybrid, a login: all hierarchies in use agree",
			"12:rdma:/\n8:pids:/user.slice/user-1000.slice/session-3.scope\n4:cpu,cpuacct:/user.slice\n1:name=systemd:/user.slice/user-1000.slice/session-3.scope\n0::/user.slice/user-1000.slice/session-3.scope\n",
			"/user.slice/user-1000.slice/session-3.scope"},
		{"v1, systemd's hierarchy has a longer path than cpu's",
			"4:cpu,cpuacct:/user.slice\n1:name=systemd:/user.slice/user-1000.slice/session-3.scope\n", "/user.slice/user-1000.slice/session-3.scope"},
		{"github.com/opencontainers/runc/issues/931: the hierarchy of the highest priority",
			"8:memory:/init.scope/system.slice/runc-foo.scope\n1:name=systemd:/system.slice/runc-foo.scope\n", "/system.slice/runc-foo.scope"},
		{"a path with colons", "10:blkio:/kubepods-besteffort-pod0125ec2f_b64a_4868_8f5b_94b56cbab864.slice:cri-containerd:" + idA + "\n",
			"/kubepods-besteffort-pod0125ec2f_b64a_4868_8f5b_94b56cbab864.slice:cri-containerd:" + idA},
		{"a named hierarchy that is not systemd's", "14:name=dsystemd:/x\n13:name=systemd:/\n", "/x"},
		{"v1 without systemd, all paths are the root (neuvector share/system/cgroup_test.go)", "14:name=dsystemd:/\n13:name=systemd:/\n12:pids:/\n", "/"},
		{"removed", "0::/system.slice/docker-" + idA + ".scope (deleted)\n", "/system.slice/docker-" + idA + ".scope"},
		{"cut off", "0::", ""},
		{"nothing", "", ""},
	} {
		if got := ParseProcCgroup(tt.text); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// FuzzParseCgroup checks for any path that each id is part of the path, and of only one name in it.
func FuzzParseCgroup(f *testing.F) {
	for _, tt := range cgroupTests {
		f.Add(tt.path)
	}
	f.Add(`/machine.slice/machine-\x2f\x00.scope/payload`)
	f.Add(`/machine.slice/machine-\x.scope/payload`)
	f.Fuzz(func(t *testing.T, path string) {
		p := ParseCgroup(path)
		for _, id := range []string{p.ContainerID, p.Outer, p.UserUnit, p.Unit, p.Session, p.UserID} {
			if !strings.Contains(path, id) && !strings.Contains(unescape(path), id) {
				t.Errorf("%q: %q is not in it", path, id)
			}
			if strings.Contains(id, "/") {
				t.Errorf("%q: %q is not a name", path, id)
			}
		}
		if p.PodUID != "" && !strings.Contains(strings.ReplaceAll(path, "_", "-"), p.PodUID) {
			t.Errorf("%q: %q is not in it", path, p.PodUID)
		}
		if p.Runtime != "" && p.ContainerID == "" || p.Outer != "" && p.ContainerID == "" || (p.PodUID == "" || isID(p.PodUID)) != (p.PodQoS == "") {
			t.Errorf("%q: %+v", path, p)
		}
		// The path in /proc/PID/cgroup has the same owner as the path from the kernel.
		if !strings.Contains(path, "\n") && strings.HasPrefix(path, "/") && path != deleted {
			if q := ParseCgroup(ParseProcCgroup("0::" + path + "\n")); q != p {
				t.Errorf("%q: %+v in /proc, %+v", path, q, p)
			}
		}
	})
}
