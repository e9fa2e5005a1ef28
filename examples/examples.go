// Package examples holds the files a new user begins with, so that the program
// and its tests can carry them.
package examples

import _ "embed"

// Lab is lab.yaml: a tenant, a plan and subscribers.
//
//go:embed lab.yaml
var Lab []byte

// What a redis-server is told that holds `durability: safe`: beside two others
// and three Sentinels, a Sentinel, and in a Cluster.
var (
	//go:embed redis/sentinel/redis.conf
	RedisNode []byte
	//go:embed redis/sentinel/sentinel.conf
	RedisSentinel []byte
	//go:embed redis/cluster/redis.conf
	RedisClusterNode []byte
)
