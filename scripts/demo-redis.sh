#!/bin/sh
# Two rtm processes on a redis-server, on loopback; one of them is killed with -9 every two seconds
# while gateways are played against both. Everything it starts it also ends.
set -eu
dir=$(mktemp -d)
redis="" a="" b=""
finish() {
	for p in $a $b $redis; do kill -9 "$p" 2>/dev/null || true; done
	rm -rf "$dir"
}
trap finish EXIT INT TERM

port=${REDIS_PORT:-7379}
if command -v redis-server >/dev/null 2>&1; then
	ln -s "$(command -v redis-server)" "$dir/redis-server"
else
	ln -s "$(command -v redis-check-rdb)" "$dir/redis-server" # the same program
fi
"$dir/redis-server" --port "$port" --bind 127.0.0.1 --save "" --appendonly yes --dir "$dir" --loglevel warning >"$dir/redis.log" 2>&1 &
redis=$!
serve() { # serve NAME DIAMETER-PORT HTTP-PORT
	bin/rtm serve --store "redis://127.0.0.1:$port" --name "$1" --peer-host "$1.ocs.rtm.localdomain" --diameter "127.0.0.1:$2" \
		--http "127.0.0.1:$3" --records "$dir/records" >>"$dir/$1.log" 2>&1 &
}
sleep 0.5
serve a 13868 18868
a=$!
serve b 13869 18869
b=$!
sleep 1.5
echo "two processes, a and b, on redis at 127.0.0.1:$port; b is killed with -9 every 2 s"
bin/rtm sim --api http://127.0.0.1:18868 --target 127.0.0.1:13868,127.0.0.1:13869 --sessions 10000 --rate 800 --hold 400ms --hop \
	--tx 2s >"$dir/result" 2>&1 &
sim=$!
kills=0
while kill -0 "$sim" 2>/dev/null; do
	sleep 2
	kill -0 "$sim" 2>/dev/null || break
	kill -9 "$b"
	wait "$b" 2>/dev/null || true
	kills=$((kills + 1))
	serve b 13869 18869
	b=$!
	echo "killed $kills times"
done
status=0
wait "$sim" || status=$?
cat "$dir/result"
bin/rtm peer list --api http://127.0.0.1:18868
exit "$status"
