#!/usr/bin/env bash
# A machine of the test cluster, from within its namespaces: its network, its files, its daemons.
#
#   machine.sh controller NODES   PID 1 of the controller, which boots the nodes; ends with its parent
#   machine.sh boot I             in the controller: starts node I (again)
#   machine.sh crash I            in the controller: power cut; nothing says goodbye
#   machine.sh cut I | mend I     in the controller: pulls node I's network cable, plugs it in again
#   machine.sh slow I RATE | fast I   in the controller: limits what node I sends, and no longer
#   machine.sh restart            in the controller: kills slurmctld and starts it again
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:/usr/sbin:/sbin

live() { # PID 1 has to reap the orphans that daemons leave
    while :; do
        sleep 3600 &
        wait
    done
}

boot() {
    local node=node$1 pid child=
    nsenter --net="/run/netns/$node" \
        unshare --uts --mount --ipc --pid --fork --kill-child --mount-proc "$here/machine.sh" node "$1" \
        </dev/null &>"/run/slurm/$node.log" &
    pid=$!
    until [[ $child ]]; do
        sleep 0.01
        child=$(<"/proc/$pid/task/$pid/children")
    done
    echo "${child% }" >"/run/slurm/$node.pid"
    mend "$1"
}

crash() {
    cut "$1" # or else the kernel would close its connections politely
    kill -KILL "$(<"/run/slurm/node$1.pid")"
}

cut() { ip link set "veth$1" down; }

mend() { ip link set "veth$1" up; }

slow() { ip netns exec "node$1" tc qdisc add dev eth0 root tbf rate "$2" burst 64kbit latency 400ms; }

fast() { ip netns exec "node$1" tc qdisc del dev eth0 root; }

controller() {
    local nodes=$1
    hostname ctl
    mount -t tmpfs run /run # all that the cluster writes, and gone with it
    mkdir -p /run/munge /run/slurm/state /run/slurm/etc
    for file in slurm.conf gres.conf cgroup.conf; do
        sed "s/@NODES/$nodes/" "$here/$file" >"/run/slurm/etc/$file"
    done
    mount --bind /run/slurm/etc /etc/slurm
    mknod /run/slurm/gpu0 c 1 3
    mknod /run/slurm/gpu1 c 1 3
    {
        echo "127.0.0.1 localhost"
        echo "10.77.0.1 ctl"
        for ((i = 1; i <= nodes; i++)); do echo "10.77.0.$((10 + i)) node$i"; done
    } >/run/slurm/hosts
    mount --bind /run/slurm/hosts /etc/hosts

    ip link set lo up
    ip link add br0 type bridge
    ip addr add 10.77.0.1/24 dev br0
    ip link set br0 up
    for ((i = 1; i <= nodes; i++)); do
        ip netns add "node$i"
        ip link add "veth$i" type veth peer name eth0 netns "node$i"
        ip link set "veth$i" master br0
        ip -n "node$i" link set lo up
        ip -n "node$i" addr add "10.77.0.$((10 + i))/24" dev eth0
        ip -n "node$i" link set eth0 up
    done

    (umask 077 && head -c 128 /dev/urandom >/run/slurm/munge.key)
    munged --key-file=/run/slurm/munge.key --pid-file=/run/munge/munged.pid --log-file=/run/slurm/munged.log \
        --seed-file=/run/munge/munged.seed --force
    slurmctld
    for ((i = 1; i <= nodes; i++)); do boot "$i"; done
    live
}

node() {
    hostname "node$1"
    mount -t tmpfs shm /dev/shm
    mkdir -p "/run/slurm/spool-node$1"
    slurmd -N "node$1"
    live
}

restart() {
    kill -KILL "$(</run/slurm/slurmctld.pid)"
    slurmctld
}

"$@"
