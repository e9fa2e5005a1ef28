#!/bin/sh
# Runs redis-servers on loopback under which rtm's `durability: safe` holds, until Ctrl-C: with the settings of
# examples/redis, in a directory that git ignores. What they store stays there, and they go on with it the next time.
#
#   scripts/redis.sh sentinel [PORT [DIRECTORY]]    a master, two replicas at PORT … and three Sentinels at PORT + 20000 …
#   scripts/redis.sh cluster [PORT [DIRECTORY]]     three masters and six replicas at PORT …
set -eu

usage() {
	echo "usage: scripts/redis.sh sentinel|cluster [PORT [DIRECTORY]]" >&2
	exit 2
}
[ $# -ge 1 ] || usage
kind=$1
examples=$(cd "$(dirname "$0")/../examples/redis" && pwd)
case $kind in
sentinel) port=${2:-6391} nodes="0 1 2" ;;
cluster) port=${2:-6401} nodes="0 1 2 3 4 5 6 7 8" ;;
*) usage ;;
esac
dir=${3:-redis-dev/$kind}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)

# Debian's redis-tools has the server under another name; what it is called decides what it is.
server=$(command -v redis-server || command -v redis-check-rdb) || {
	echo "there is no redis-server: run make install" >&2
	exit 1
}
ln -sf "$server" "$dir/redis-server"

pids=""
stop() {
	trap - EXIT
	trap '' INT TERM
	kill $pids 2>/dev/null || true
	( # a server that begins its append-only file does not hear the first one
		for _ in 1 2 3 4 5 6 7 8 9; do
			sleep 1
			kill $pids 2>/dev/null || true
		done
		kill -9 $pids 2>/dev/null || true
	) &
	again=$!
	for p in $pids; do
		wait "$p" || true
	done
	kill -9 "$again" 2>/dev/null || true
	wait
	exit "${1:-0}"
}
trap 'stop 1' EXIT
trap 'stop 0' INT TERM

run() { # run NAME PORT [--sentinel]: with NAME.conf
	if redis-cli -p "$2" ping >/dev/null 2>&1; then
		echo "port $2 is in use: is it running already? Name another one: make redis-$kind PORT=…" >&2
		exit 1
	fi
	"$dir/redis-server" "$dir/$1.conf" ${3:-} >"$dir/$1.log" 2>&1 &
	pids="$pids $!"
	for _ in $(seq 100); do
		if redis-cli -p "$2" ping 2>/dev/null | grep -q PONG; then
			return
		fi
		sleep 0.1
	done
	echo "$1 does not answer at port $2; its log is $dir/$1.log" >&2
	exit 1
}

until_true() { # until_true WHAT COMMAND…
	what=$1
	shift
	for _ in $(seq 300); do
		if "$@"; then
			return
		fi
		sleep 0.1
	done
	echo "not within 30 s: $what; the logs are in $dir" >&2
	exit 1
}

field() { # field PORT SECTION NAME: a line of INFO
	redis-cli -p "$1" info "$2" 2>/dev/null | tr -d '\r' | sed -n "s/^$3://p"
}

for n in $nodes; do
	p=$((port + n))
	if [ ! -e "$dir/node$n.conf" ]; then
		mkdir -p "$dir/node$n"
		{
			cat "$examples/$kind/redis.conf"
			echo "port $p"
			echo "dir $dir/node$n"
			if [ "$kind" = sentinel ] && [ "$n" != 0 ]; then
				echo "replicaof 127.0.0.1 $port"
			fi
		} >"$dir/node$n.conf"
	fi
	run "node$n" "$p"
done

case $kind in
sentinel)
	followed() {
		for n in $nodes; do
			[ "$(field $((port + n)) replication connected_slaves)" != 2 ] || return 0
		done
		return 1
	}
	until_true "two replicas follow a master" followed
	for n in $nodes; do
		p=$((port + 20000 + n))
		if [ ! -e "$dir/sentinel$n.conf" ]; then
			{
				sed "s/127.0.0.1 6391/127.0.0.1 $port/" "$examples/sentinel/sentinel.conf"
				echo "port $p"
				echo "dir $dir"
			} >"$dir/sentinel$n.conf"
		fi
		run "sentinel$n" "$p" --sentinel
	done
	watched() {
		for n in $nodes; do
			field $((port + 20000 + n)) sentinel master0 | grep -q 'status=ok.*slaves=2,sentinels=3' || return 1
		done
	}
	until_true "three Sentinels see each other and all servers" watched
	s=$((port + 20000))
	url="redis+sentinel://127.0.0.1:$s,127.0.0.1:$((s + 1)),127.0.0.1:$((s + 2))/rtm"
	master="redis-cli -p $s sentinel get-master-addr-by-name rtm"
	;;
cluster)
	if [ "$(redis-cli -p "$port" cluster info | tr -d '\r' | sed -n 's/^cluster_known_nodes://p')" = 1 ]; then
		all=""
		for n in $nodes; do
			all="$all 127.0.0.1:$((port + n))"
		done
		redis-cli --cluster create $all --cluster-replicas 2 --cluster-yes >"$dir/create.log" || {
			echo "the cluster could not be made; see $dir/create.log" >&2
			exit 1
		}
	fi
	whole() {
		replicas=0
		for n in $nodes; do
			redis-cli -p $((port + n)) cluster info | grep -q cluster_state:ok || return 1
			replicas=$((replicas + $(field $((port + n)) replication connected_slaves)))
		done
		[ "$replicas" = 6 ]
	}
	until_true "six replicas follow three masters" whole
	url="redis+cluster://127.0.0.1:$port,127.0.0.1:$((port + 1)),127.0.0.1:$((port + 2))"
	master="redis-cli -p $port cluster nodes | grep master"
	;;
esac

cat <<END
ready: $url

In other terminals:
  bin/rtm doctor redis '$url'
  bin/rtm serve --store '$url' --name a --peer-host a.ocs.example --diameter 127.0.0.1:3868 --http 127.0.0.1:8868
  bin/rtm serve --store '$url' --name b --peer-host b.ocs.example --diameter 127.0.0.1:3869 --http 127.0.0.1:8869
  bin/rtm sim --target 127.0.0.1:3868,127.0.0.1:3869 --hop --rate 200 --sessions 10000

Who is master: $master
Kill it with -9 by its process, and see what the gateways notice. Files and logs: $dir
Ctrl-C ends what was started here.
END
wait
