#!/usr/bin/env bash
# Two "hosts" on one machine: two network namespaces with a cable between them, and torchrun in each.
# Needs root and iproute2. Exits with 77 where the machine does not allow namespaces.
# Usage: tests/sync/two_hosts.sh PYTHON CASE...
set -euo pipefail
python=$1
shift
cd "$(dirname "$0")/.."

a=bnfx_a_$$ b=bnfx_b_$$
clean() {
  ip netns del "$a" 2>/dev/null || true
  ip netns del "$b" 2>/dev/null || true
}
trap clean EXIT
{ ip netns add "$a" && ip netns add "$b"; } || exit 77
ip link add va$$ netns "$a" type veth peer name vb$$ netns "$b" || exit 77
ip -n "$a" addr add 10.77.0.1/24 dev va$$
ip -n "$b" addr add 10.77.0.2/24 dev vb$$
for each in "$a" "$b"; do ip -n "$each" link set lo up; done
ip -n "$a" link set va$$ up
ip -n "$b" link set vb$$ up

export OMP_NUM_THREADS=1 PYTHONPATH=$PWD
host() { # namespace, interface, number of the node
  GLOO_SOCKET_IFNAME=$2 ip netns exec "$1" "$python" -m torch.distributed.run --nnodes 2 \
    --node-rank "$3" --nproc-per-node 1 --master-addr 10.77.0.1 --master-port 29577 \
    -m sync.rank cases_functional - - env "${@:4}"
}
host "$b" vb$$ 1 "$@" &
host "$a" va$$ 0 "$@"
wait $!
