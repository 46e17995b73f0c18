package routes

import (
	"strings"
	"time"
)

// kind is the type of an attribute's value, in the words of messages and of docs/config.md.
type kind string

const (
	text     kind = "text"          // string
	number   kind = "number"        // int
	boolean  kind = "true or false" // bool
	duration kind = "duration"      // time.Duration, written "10s"
	size     kind = "size"          // int64 bytes, written 512, "64K", "128M" or "1G"
	texts    kind = "list of texts" // []string
	table    kind = "map of texts"  // map[string]string
)

// block is one row of the schema: a block, and the attributes and blocks it takes. The schema is the only list of words; the reader, the
// suggestions and docs/config.md are held to it.
type block struct {
	name   string
	label  *labels // nil: none
	many   bool    // may stand more than once in its parent
	attrs  []attr
	blocks []*block
	only   []MPM // in a pool: the MPMs it means something for; empty: all
}

// labels are the texts between a block's name and its brace.
type labels struct {
	meaning string
	example string
	several bool // one or more; else exactly one
}

// attr is one attribute of a block.
type attr struct {
	name     string
	kind     kind
	required bool
	old      string   // Apache's older name for it
	values   []string // the only texts taken, of lists too; empty: any
	min, max int64    // of numbers, and of durations in nanoseconds; max 0: none
	only     []MPM    // in a pool: the MPMs it means something for; empty: all
	freeform bool     // a text that may hold line breaks
	single   bool     // of lists: a text alone is a list of one
}

// maxProcesses is Apache's MAX_SERVER_LIMIT for prefork.
const maxProcesses = 200000

// maxThreads is Apache's MAX_THREAD_LIMIT for worker.
const maxThreads = 20000

// maxWaiting bounds a queue; a waiting request costs the front some memory.
const maxWaiting = 1000000

// processes are the MPMs whose pools have processes of their own.
var processes = []MPM{Prefork, Worker}

// schema is everything a configuration may say.
var schema = &block{blocks: []*block{{name: localsWord, many: true}, gatewaySchema, tlsSchema, poolSchema, siteSchema}}

var gatewaySchema = &block{
	name: "gateway",
	attrs: []attr{
		{name: "user", kind: text},
		{name: "runtime_dir", kind: text},
		{name: "state_dir", kind: text},
		{name: "spool_dir", kind: text},
		{name: "spool_limit", kind: size, min: 1},
		{name: "grace_period", kind: duration},
		{name: "max_http2_requests", kind: number, min: 128, max: 1 << 20},
		{name: "trusted_proxies", kind: texts, single: true},
	},
	blocks: []*block{
		{name: "log", attrs: []attr{
			{name: "level", kind: text, values: []string{"debug", "info", "warn", "error"}},
			{name: "format", kind: text, values: []string{"console", "json"}},
		}},
		{name: "access_log", attrs: []attr{
			{name: "path", kind: text},
			{name: "format", kind: text},
			{name: "max_size", kind: size},
			{name: "keep", kind: number, min: 1, max: maxLogsKept},
		}},
		{name: "metrics", attrs: []attr{{name: "listen", kind: text, required: true}}},
		storageSchema,
	},
}

var storageSchema = &block{
	name:  "storage",
	label: &labels{meaning: "engine", example: "redis"},
	attrs: []attr{
		{name: "path", kind: text},
		{name: "address", kind: text},
		{name: "username", kind: text},
		{name: "password", kind: text},
		{name: "password_file", kind: text},
		{name: "database", kind: number, max: maxDatabases},
		{name: "prefix", kind: text},
		{name: "timeout", kind: duration, min: 1},
	},
	blocks: []*block{{name: "tls", attrs: []attr{
		{name: "ca_root", kind: text},
		{name: "server_name", kind: text},
		{name: "certificate", kind: text},
		{name: "key", kind: text},
	}}},
}

// maxDatabases is what a Redis server can have at most.
const maxDatabases = 1<<31 - 1

// maxLogsKept bounds how many files are renamed each time.
const maxLogsKept = 1000

// tlsModes are the values of "mode".
var tlsModes = []string{"auto", "internal", "off"}

// tlsVersions are the values of "min_version".
var tlsVersions = []string{"1.2", "1.3"}

var tlsSchema = &block{
	name: "tls",
	attrs: append([]attr{
		{name: "mode", kind: text, values: tlsModes},
		{name: "min_version", kind: text, values: tlsVersions},
	}, acmeAttrs...),
	blocks: []*block{hstsSchema, eabSchema, dnsSchema},
}

var hstsSchema = &block{
	name: "hsts",
	attrs: []attr{
		{name: "max_age", kind: duration},
		{name: "include_subdomains", kind: boolean},
		{name: "preload", kind: boolean},
	},
}

var clientAuthSchema = &block{
	name: "client_auth",
	attrs: []attr{
		{name: "mode", kind: text, values: []string{ClientRequire, ClientVerifyIfGiven, ClientRequest}},
		{name: "ca", kind: text, required: true},
		{name: "export_certificate", kind: boolean},
	},
}

// acmeAttrs stand in both tls blocks.
var acmeAttrs = []attr{
	{name: "email", kind: text},
	{name: "ca", kind: texts, single: true},
	{name: "ca_root", kind: text},
	{name: "key_type", kind: text, values: []string{"p256", "p384", "rsa2048", "rsa4096"}},
	{name: "challenges", kind: texts, single: true, values: []string{HTTP01, TLSALPN01}},
}

var eabSchema = &block{
	name: "eab",
	many: true,
	attrs: []attr{
		{name: "ca", kind: text},
		{name: "key_id", kind: text, required: true},
		{name: "mac_key", kind: text, required: true},
	},
}

var dnsSchema = &block{
	name: "dns",
	attrs: []attr{
		{name: "command", kind: texts},
		{name: "env", kind: table},
		{name: "timeout", kind: duration, min: int64(time.Second)},
		{name: "provider", kind: text},
		{name: "settings", kind: table},
		{name: "resolvers", kind: texts, single: true},
		{name: "delay", kind: duration},
	},
}

var onDemandSchema = &block{
	name: "on_demand",
	attrs: []attr{
		{name: "ask", kind: text},
		{name: "names", kind: texts},
		{name: "limit", kind: number, min: 1, max: 1 << 20},
		{name: "interval", kind: duration, min: int64(time.Second)},
	},
}

var poolSchema = &block{
	name:  "pool",
	label: &labels{meaning: "pool's name", example: "php"},
	many:  true,
	attrs: []attr{
		{name: "mpm", kind: text, required: true, values: []string{"prefork", "worker", "event"}},
		{name: "start_servers", kind: number, max: maxProcesses, only: processes},
		{name: "min_spare_servers", kind: number, max: maxProcesses, only: []MPM{Prefork}},
		{name: "max_spare_servers", kind: number, max: maxProcesses, only: []MPM{Prefork}},
		{name: "threads_per_child", kind: number, min: 1, max: maxThreads, only: []MPM{Worker}},
		{name: "thread_limit", kind: number, min: 1, max: maxThreads, only: []MPM{Worker}},
		{name: "min_spare_threads", kind: number, max: maxProcesses, only: []MPM{Worker}},
		{name: "max_spare_threads", kind: number, max: maxProcesses, only: []MPM{Worker}},
		{name: "server_limit", kind: number, min: 1, max: maxProcesses, only: processes},
		{name: "max_request_workers", old: "max_clients", kind: number, min: 1, max: maxProcesses},
		{name: "spawn", kind: text, values: []string{"demand", "ondemand", "static", "apache"}, only: processes},
		{name: "idle_timeout", kind: duration, min: 1, only: processes},
		{name: "max_requests_per_child", old: "max_connections_per_child", kind: number, max: 1 << 40, only: processes},
		{name: "max_child_memory", kind: size, min: 1 << 20, only: processes},
		{name: "max_child_age", kind: duration, min: int64(time.Second), only: processes},
		{name: "request_timeout", kind: duration},
		{name: "kill_after", kind: duration, only: processes},
		{name: "only_if_waiting", kind: number, max: maxWaiting, only: processes},
		{name: "retry", kind: boolean, only: processes},
		{name: "debug_errors", kind: boolean, only: processes},
		{name: "user", kind: text, only: processes},
		{name: "group", kind: text, only: processes},
		{name: "umask", kind: text, only: processes},
		{name: "nice", kind: number, min: -20, max: 19, only: processes},
		{name: "env_pass", kind: texts, only: processes},
		{name: "dir", kind: text, only: processes},
	},
	blocks: []*block{
		{name: "queue", attrs: []attr{
			{name: "length", kind: number, max: maxWaiting},
			{name: "timeout", kind: duration},
			{name: "header", kind: boolean},
		}},
		{name: "session_limit", attrs: []attr{
			{name: "cookie", kind: text},
			{name: "max", kind: number, min: 1, max: maxProcesses},
		}},
		{name: "rlimit", only: processes, attrs: []attr{
			{name: "nofile", kind: number, min: 16, max: 1 << 30},
			{name: "as", kind: size, min: 16 << 20},
			{name: "cpu", kind: duration, min: int64(time.Second)},
			{name: "core", kind: size},
			{name: "nproc", kind: number, min: 1, max: 1 << 22},
		}},
		{name: "cgroup", only: processes, attrs: []attr{
			{name: "memory_max", kind: size, min: 1 << 20},
			{name: "pids_max", kind: number, min: 1, max: 1 << 22},
			{name: "cpu_weight", kind: number, min: 1, max: 10000},
			{name: "child_memory_max", kind: size, min: 1 << 20},
		}},
		{name: "php", attrs: []attr{
			{name: "command", kind: texts},
			{name: "ini", kind: table},
			{name: "env", kind: table},
			{name: "share_opcache", kind: boolean},
			{name: "thread_safe", kind: boolean},
		}},
		{name: "fastcgi", attrs: []attr{
			{name: "command", kind: texts, required: true},
			{name: "env", kind: table},
			{name: "dir", kind: text},
			{name: "thread_safe", kind: boolean},
		}},
		{name: "wsgi", attrs: []attr{
			{name: "module", kind: text, required: true},
			{name: "dir", kind: text},
			{name: "python", kind: text},
			{name: "env", kind: table},
			{name: "thread_safe", kind: boolean},
		}},
		{name: "http", attrs: []attr{
			{name: "command", kind: texts, required: true},
			{name: "env", kind: table},
			{name: "dir", kind: text},
			{name: "thread_safe", kind: boolean},
		}},
	},
}

var siteSchema = &block{
	name:  "site",
	label: &labels{meaning: "host names", example: "example.com", several: true},
	many:  true,
	attrs: append([]attr{
		{name: "listen", kind: texts, required: true},
		{name: "root", kind: text},
		{name: "symlinks", kind: text, values: symlinks},
		{name: "index", kind: texts},
		{name: "keep_alive_timeout", kind: duration, min: 1},
		{name: "max_keep_alive_requests", kind: number, max: 1 << 30},
		{name: "max_request_body", kind: size, min: 1},
		{name: "encoded_slashes", kind: boolean},
	}, accessAttrs...),
	blocks: []*block{
		{
			name: "tls",
			attrs: append([]attr{
				{name: "mode", kind: text, values: tlsModes},
				{name: "certificate", kind: texts, single: true},
				{name: "key", kind: texts, single: true},
				{name: "min_version", kind: text, values: tlsVersions},
				{name: "redirect", kind: boolean},
			}, acmeAttrs...),
			blocks: []*block{clientAuthSchema, hstsSchema, eabSchema, dnsSchema, onDemandSchema},
		},
		rewriteSchema,
		headerSchema,
		requestHeaderSchema,
		errorPageSchema,
		authSchema,
		rateSchema,
		compressSchema,
		routeSchema,
	},
}

var compressSchema = &block{
	name: "compress",
	attrs: []attr{
		{name: "codings", kind: texts, single: true, values: codings},
		{name: "types", kind: texts, single: true},
		{name: "min_size", kind: size},
		{name: "level", kind: number, max: maxCompressLevel},
	},
}

var symlinks = []string{string(LinksNone), string(LinksOwner), string(LinksInside), string(LinksAll)}

var routeSchema = &block{
	name:  "route",
	label: &labels{meaning: "pattern", example: "/*"},
	many:  true,
	attrs: append([]attr{
		{name: "pool", kind: text, required: true},
		{name: "methods", kind: texts},
		{name: "root", kind: text},
		{name: "strip_prefix", kind: boolean},
		{name: "symlinks", kind: text, values: symlinks},
		{name: "try_files", kind: texts},
		{name: "max_request_body", kind: size, min: 1},
		{name: "request_timeout", kind: duration, min: 1},
		{name: "buffer", kind: boolean},
		{name: "internal", kind: boolean},
	}, accessAttrs...),
	blocks: []*block{
		rewriteSchema,
		headerSchema,
		requestHeaderSchema,
		errorPageSchema,
		authSchema,
		rateSchema,
		{name: "static", attrs: []attr{
			{name: "index", kind: texts},
			{name: "cache_control", kind: text},
			{name: "cache_by_suffix", kind: table},
			{name: "types", kind: table},
			{name: "precompressed", kind: texts, single: true, values: codings},
			{name: "listing", kind: boolean},
			{name: "hide", kind: texts, single: true},
			{name: "dot_files", kind: boolean},
		}},
		compressSchema,
		{name: "send_file", attrs: []attr{
			{name: "pool", kind: text},
			{name: "roots", kind: texts, single: true},
			{name: "internal", kind: table},
			{name: "routes", kind: boolean},
		}},
		{name: "cgi", attrs: []attr{
			{name: "root", kind: text},
			{name: "script", kind: text},
			{name: "env", kind: table},
		}},
		proxySchema,
		{name: "fastcgi", attrs: []attr{
			{name: "to", kind: text, required: true},
			{name: "root", kind: text},
			{name: "files", kind: boolean},
			{name: "connect_timeout", kind: duration, min: 1},
			{name: "env", kind: table},
		}},
		{name: "redirect", attrs: []attr{
			{name: "to", kind: text, required: true},
			{name: "status", kind: number},
		}},
		{name: "respond", attrs: []attr{
			{name: "status", kind: number, min: 200, max: 599},
			{name: "body", kind: text, freeform: true},
			{name: "content_type", kind: text},
		}},
	},
}

var proxySchema = &block{
	name: "proxy",
	attrs: []attr{
		{name: "to", kind: texts, required: true},
		{name: "balance", kind: text},
		{name: "retry", kind: boolean},
		{name: "max_fails", kind: number, max: 1 << 20},
		{name: "fail_timeout", kind: duration, min: 1},
		{name: "connect_timeout", kind: duration, min: 1},
		{name: "response_timeout", kind: duration, min: 1},
		{name: "idle_timeout", kind: duration, min: 1},
		{name: "keep_alive", kind: number, min: 1, max: 1 << 20},
		{name: "keep_alive_timeout", kind: duration, min: 1},
		{name: "resolve", kind: duration, min: 1},
		{name: "proxy_protocol", kind: text, values: []string{"v1", "v2"}},
		{name: "preserve_host", kind: boolean},
		{name: "host", kind: text},
	},
	blocks: []*block{
		{name: "tls", attrs: []attr{
			{name: "ca", kind: text},
			{name: "server_name", kind: text},
			{name: "certificate", kind: text},
			{name: "key", kind: text},
			{name: "verify", kind: boolean},
		}},
		{name: "health", attrs: []attr{
			{name: "uri", kind: text, required: true},
			{name: "interval", kind: duration, min: int64(time.Millisecond)},
			{name: "timeout", kind: duration, min: int64(time.Millisecond)},
			{name: "status", kind: number, min: 200, max: 599},
		}},
	},
}

// applications are the blocks that say what runs in a pool.
var applications = []string{"php", "fastcgi", "wsgi", "http"}

// handlers are the blocks that say what a route does on a pool without an application.
var handlers = []string{"static", "cgi", "fastcgi", "proxy", "redirect", "respond"}

// attr finds an attribute by its name or its old name.
func (b *block) attr(name string) (*attr, bool) {
	for i := range b.attrs {
		if a := &b.attrs[i]; a.name == name || a.old != "" && a.old == name {
			return a, true
		}
	}
	return nil, false
}

func (b *block) block(name string) (*block, bool) {
	for _, inner := range b.blocks {
		if inner.name == name {
			return inner, true
		}
	}
	return nil, false
}

// words are all names that may stand in the block.
func (b *block) words() []string {
	var words []string
	for _, a := range b.attrs {
		words = append(words, a.name)
		if a.old != "" {
			words = append(words, a.old)
		}
	}
	for _, inner := range b.blocks {
		words = append(words, inner.name)
	}
	return words
}

// title is the block as a person names it at the start of a sentence.
func (b *block) title() string {
	if b.name == "" {
		return "The top level"
	}
	return `"` + b.name + `"`
}

// alternatives joins words for a message: "a", "b" or "c".
func alternatives(words []string) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(`"` + w + `"`)
	}
	return b.String()
}
