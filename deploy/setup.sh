#!/bin/sh
# Makes a Debian 12 machine able to build, run and test podlane: Debian packages, and the locked Python environment
# in .venv. The system's Python is used, with its packages visible, because bcc comes from Debian and fits only that.
# A second run finds everything in place and does nothing.
set -eu
cd "$(dirname "$0")/.."

uv_version=0.13.9
stamp=.venv/.podlane-setup
want=$(cat deploy/setup.sh deploy/packages.txt requirements.lock pyproject.toml | sha256sum | cut -c1-64)

fail() {
    echo "podlane setup: $1" >&2
    exit 1
}

missing=$(dpkg-query -W -f='${Package} ${db:Status-Abbrev}\n' $(cat deploy/packages.txt) 2>/dev/null |
    awk '$2 == "ii" { print $1 }' | sort -u | { sort deploy/packages.txt; cat; } | sort | uniq -u)
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || fail "apt-get is missing: podlane is set up on Debian 12; elsewhere install $(echo $missing)"
    [ "$(id -u)" = 0 ] || fail "root is needed to install $(echo $missing): run 'sudo make setup'"
    echo "installing $(echo $missing)"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # etcd and containerd are started by tests and clusters, never by their packages; of prometheus only promtool is used.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
        trap 'rm -f $policy' EXIT
    fi
    apt-get install -y -qq --no-install-recommends $missing >/dev/null || fail "apt-get could not install $(echo $missing)"
fi

# Without it every start of a service or a command compiles all it imports: two thirds of what the start takes.
# Where Python may write it, it would do so by itself; with PYTHONDONTWRITEBYTECODE or a read-only tree it may not.
compile() {
    .venv/bin/python -m compileall -q -j 0 cli cni protos/gen services
}

[ "$(cat $stamp 2>/dev/null)" = "$want" ] && compile && exit 0

/usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "/usr/bin/python3 must be 3.11 or newer"
if [ ! -x .tools/bin/uv ] || [ "$(.tools/bin/uv --version | cut -d' ' -f2)" != "$uv_version" ]; then
    /usr/bin/python3 -m venv .tools
    .tools/bin/pip install --quiet --disable-pip-version-check "uv==$uv_version" || fail "uv $uv_version could not be installed by pip"
fi
[ -x .venv/bin/python ] || .tools/bin/uv venv --quiet --python /usr/bin/python3 --system-site-packages .venv
.tools/bin/uv pip sync --quiet --compile-bytecode --python .venv/bin/python --require-hashes requirements.lock
.tools/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
compile
echo "$want" >$stamp
