#!/bin/sh
# Installs what the tests need and what is missing: a C compiler (for -race), redis-server, tshark, freeDiameter.
# What is there is not touched, and no service is started. README.md says why each is needed.
set -eu

missing=""
need() { # need COMMAND PACKAGES
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
need gcc "gcc libc6-dev"
need make make
need tshark tshark
need text2pcap tshark
need openssl openssl
need freeDiameterd "freediameterd freediameter-extensions"
[ -e /usr/lib/freeDiameter/acl_wl.fdx ] || missing="$missing freediameter-extensions"
if ! command -v redis-server >/dev/null 2>&1; then
	need redis-check-rdb redis-tools # the same program: it is a server when it is called redis-server
fi
[ -z "$missing" ] && exit 0

# shellcheck disable=SC2086
packages=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')
install="env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages"
if ! command -v apt-get >/dev/null 2>&1; then
	echo "install these and run this again: $packages" >&2
	exit 1
fi
if [ "$(id -u)" = 0 ]; then
	as=""
elif command -v sudo >/dev/null 2>&1; then
	as="sudo"
	echo "installing with sudo: $install" >&2
else
	echo "run this as root: $install" >&2
	exit 1
fi
# None of these packages brings a service today. What one might bring tomorrow asks here whether it may start.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap '$as rm -f "$policy"' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' | $as tee "$policy" >/dev/null
	$as chmod 755 "$policy"
fi
if ! $as $install; then
	$as apt-get update
	$as $install
fi
