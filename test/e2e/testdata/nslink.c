// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * nslink [-u] move DEV FILE
 * nslink [-u] make DEV
 * nslink [-u] conf DEV SETTING VALUE
 *
 * Opens a socket to rtnetlink, and with -u then enters a new network namespace. Sends a request in
 * the old namespace: to move the device DEV to the network namespace of FILE (by RTM_SETLINK, as
 * some libraries do; iproute2 sends RTM_NEWLINK), to make a dummy device DEV, or to set one of
 * IPV4_DEVCONF_* (a number, linux/ip.h) of DEV. Prints the kernel's answer (answer=ERRNO, 0 for
 * success).
 */
#include "common.h"
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

static struct {
	struct nlmsghdr head;
	struct ifinfomsg link;
	char attrs[256];
} request;

static struct rtattr *put(int type, const void *data, size_t size)
{
	struct rtattr *a = (void *)((char *)&request + NLMSG_ALIGN(request.head.nlmsg_len));

	a->rta_type = type;
	a->rta_len = RTA_LENGTH(size);
	if (size)
		memcpy(RTA_DATA(a), data, size);
	request.head.nlmsg_len = NLMSG_ALIGN(request.head.nlmsg_len) + RTA_ALIGN(a->rta_len);
	return a;
}

int main(int argc, char **argv)
{
	struct {
		struct nlmsghdr head;
		struct nlmsgerr err;
		char rest[1024];
	} answer;
	int s, apart = 0;

	if (argc > 1 && strcmp(argv[1], "-u") == 0) {
		apart = 1;
		argc--, argv++;
	}
	if (argc < 3)
		return 2;
	s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (s < 0) {
		perror("socket");
		return 1;
	}
	request.head.nlmsg_len = NLMSG_LENGTH(sizeof(request.link));
	request.head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	if (strcmp(argv[1], "move") == 0 && argc == 4) {
		int fd = open(argv[3], O_RDONLY | O_CLOEXEC);

		if (fd < 0) {
			perror(argv[3]);
			return 1;
		}
		request.head.nlmsg_type = RTM_SETLINK;
		request.link.ifi_index = if_nametoindex(argv[2]);
		put(IFLA_NET_NS_FD, &fd, sizeof(fd));
	} else if (strcmp(argv[1], "make") == 0 && argc == 3) {
		struct rtattr *info;

		request.head.nlmsg_type = RTM_NEWLINK;
		request.head.nlmsg_flags |= NLM_F_CREATE | NLM_F_EXCL;
		put(IFLA_IFNAME, argv[2], strlen(argv[2]) + 1);
		info = put(IFLA_LINKINFO, NULL, 0);
		put(IFLA_INFO_KIND, "dummy", 5);
		info->rta_len = (char *)&request + request.head.nlmsg_len - (char *)info;
	} else if (strcmp(argv[1], "conf") == 0 && argc == 5) {
		struct rtattr *spec, *family, *conf;
		char *end = (char *)&request;
		int value = atoi(argv[4]);

		request.head.nlmsg_type = RTM_SETLINK;
		request.link.ifi_index = if_nametoindex(argv[2]);
		spec = put(IFLA_AF_SPEC, NULL, 0);
		family = put(AF_INET, NULL, 0);
		conf = put(IFLA_INET_CONF, NULL, 0);
		put(atoi(argv[3]), &value, sizeof(value));
		end += request.head.nlmsg_len;
		spec->rta_len = end - (char *)spec;
		family->rta_len = end - (char *)family;
		conf->rta_len = end - (char *)conf;
	} else {
		return 2;
	}
	if (apart && unshare(CLONE_NEWNET)) {
		perror("unshare");
		return 1;
	}
	if (send(s, &request, request.head.nlmsg_len, 0) < 0 ||
	    recv(s, &answer, sizeof(answer), 0) < (ssize_t)sizeof(answer.head)) {
		perror("rtnetlink");
		return 1;
	}
	if (answer.head.nlmsg_type != NLMSG_ERROR)
		return 1;
	printf("answer=%d\n", -answer.err.error);
	return 0;
}
