#!/usr/bin/env bash
# Installs what the tests of Slurm, web pages and terminals need, where it is missing and this is root on Debian or Ubuntu;
# starts no service.
set -euo pipefail
packages=(slurmctld slurmd slurm-client munge shellcheck iproute2 chromium tmux)
installed=$(dpkg-query --show --showformat='${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
(($(grep -c ' installed$' <<<"$installed") == ${#packages[@]})) && exit
if ((EUID != 0)) || [[ ! -x $(command -v apt-get) ]]; then
    echo "not root on Debian: tests that need Slurm, Chromium or tmux are skipped, unless they are there"
    exit
fi
echo "== installing ${packages[*]} (apt-get, about 40 s)"
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
{ apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"; } >"$log" 2>&1 || {
    tail -n 3 "$log"
    echo "apt-get could not install them: tests that need Slurm, Chromium or tmux are skipped; all of its output is in $log"
    exit
}
rm -f "$log"
