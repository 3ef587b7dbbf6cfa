#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Causes events of each type, and prints the lines of nstrace between BEGINEVENTS and ENDEVENTS. It changes parameters and
# namespaces: run it in a guest, from the top of the repository:
#
#	go build -o /tmp/nstrace ./cmd/nstrace
#	go run ./test/vm/cmd/nsvm -kernel 6.12 -copy /tmp/nstrace:/usr/bin/nstrace \
#		-copy schema/examples/collect.sh:/usr/bin/collect.sh -- sh /usr/bin/collect.sh >/tmp/guest.txt
#	sed -n '/^BEGINEVENTS/,/^ENDEVENTS/{//!p}' /tmp/guest.txt >/tmp/events.ndjson
#	NSTRACE_EVENTS=/tmp/events.ndjson go test ./schema/... -run TestExamples
hostname node1
cd /tmp
sysctl -qw vm.swappiness=60
ip netns add red 2>&1
start() { nstrace -q record --db /tmp/history.db -o json -O /tmp/events.ndjson --alert default --heartbeat 2s --sysctl-first & P=$!
 i=0; until [ "$(grep -cF '"type":"trace.attach"' /tmp/events.ndjson 2>/dev/null)" = $1 ]; do sleep 0.2; i=$((i+1)); [ $i -gt 300 ] && break; done; sleep 1; }
start 1
sysctl -w net.ipv4.ip_forward=1
sysctl -w net.ipv4.tcp_keepalive_time=600
sh -c 'echo no > /proc/sys/vm/swappiness'
ip netns add web
ip netns exec web sysctl -w net.ipv4.ip_unprivileged_port_start=0
ip link add veth0 type veth peer name veth1
ip link add dummy0 type dummy
ip link set dummy0 netns web
ip link del veth0
setpriv --reuid 1000 --clear-groups unshare -n true
unshare -n -m -u true
nsenter --net=/etc/passwd true
ip netns del web
sleep 2
sh -c "kill -STOP $P"; sleep 1; kill -CONT $P
sysctl -w kernel.ftrace_enabled=0; sleep 3; sysctl -w kernel.ftrace_enabled=1; sleep 4
sh -c "kill $P"; wait $P
sysctl -w vm.swappiness=10
ip netns add blue; ip netns del red
sleep 1
start 2
sleep 5
kill $P; wait $P
echo BEGINEVENTS; cat /tmp/events.ndjson; echo ENDEVENTS
