// Package routes turns a configuration file into an immutable [Config], and a request into the site and route that serve it.
//
// It is the only package that knows HCL. Everything it returns is plain data: it can be built as a literal in a test and
// encoded as JSON for another process.
package routes

import (
	"net/netip"
	"slices"
	"time"
)

// Config is one loaded configuration. It never changes after [Load] returned it.
type Config struct {
	Gateway Gateway
	TLS     TLSDefaults
	Pools   []Pool
	Sites   []Site

	source source // where the values were written; empty in a literal or after JSON
}

// Gateway holds what concerns the whole program: users, folders, logs.
type Gateway struct {
	User        string        // the front's user; empty: the caller's
	RuntimeDir  string        // admin socket and private child sockets; empty: chosen at start
	StateDir    string        // certificates; empty: chosen at start
	Storage     Storage       // of automatic certificates
	SpoolDir    string        // bodies that do not fit in memory
	SpoolLimit  int64         // bytes of all of them together; 0: none
	Trust       Trust         // whom the front believes what they say of their clients
	GracePeriod time.Duration // how long a graceful stop waits for requests in progress
	Log         Log
	AccessLog   *AccessLog // nil: no access log
	Metrics     *Listen    // where whoever asks is told the metrics; nil: nowhere

	MaxHTTP2Requests int // in progress, on all connections of the front
}

// Storage is where automatic certificates are, with the accounts at the CAs, the challenges that are on, and the locks of who is at
// work. Gateways with the same one are a fleet. The zero Storage is StateDir.
type Storage struct {
	Path  string // a folder
	Redis *Redis
}

// Redis is a server that keeps what a fleet shares.
type Redis struct {
	Network      string // "tcp" or "unix"
	Address      string // "host:port" or a path
	Username     string
	Password     string
	PasswordFile string // its content is the password
	Database     int
	Prefix       string        // of the names of all keys
	Timeout      time.Duration // of one operation
	TLS          *ClientTLS    // nil: none
}

// ClientTLS is how TLS is spoken to a server.
type ClientTLS struct {
	CARoot      string // path of PEM certificates that are trusted in place of the system's
	ServerName  string // in the server's certificate; empty: the host of its address
	Certificate string // path; empty: the server asks for none
	Key         string
	Insecure    bool // whatever certificate it has is taken
}

// TLSDefaults holds what every site with TLS takes unless it says otherwise.
type TLSDefaults struct {
	Mode       string // "auto", "internal" or "off"; empty: chosen per site
	MinVersion string // as in [TLS]
	HSTS       string // as in [TLS]
	ACME       ACME
}

// ACME says how certificates are got from certificate authorities (RFC 8555).
type ACME struct {
	Email      string
	CA         []string // directory URLs, in the order in which they are asked
	CARoot     string   // path of PEM certificates that are trusted beside the system's when talking to them
	EAB        []EAB
	KeyType    string   // p256, p384, rsa2048 or rsa4096
	Challenges []string // HTTP01, TLSALPN01; not used with DNS
	DNS        *DNS
	OnDemand   *OnDemand // of a site; nil: its names only
}

// The values of [ACME.Challenges].
const (
	HTTP01    = "http-01"     // RFC 8555 §8.3
	TLSALPN01 = "tls-alpn-01" // RFC 8737
)

// EAB binds the account at a CA to one that its operator has there already (RFC 8555 §7.3.4).
type EAB struct {
	CA     string // one of [ACME.CA]
	KeyID  string
	MACKey string // base64url
}

// DNS proves names by TXT records (DNS-01, RFC 8555 §8.4). It has a command or a provider.
type DNS struct {
	Command   []string // called with present or cleanup, the domain, the record's name, and its value
	Env       map[string]string
	Timeout   time.Duration     // of one call of the command
	Delay     time.Duration     // from the record's making to the CA's look at it
	Provider  string            // the name of one that was built in
	Settings  map[string]string // of the provider
	Resolvers []string          // "host:port", by which the provider finds zones and sees its records; empty: the system's
}

// OnDemand lets clients have certificates made for names that no configuration lists.
type OnDemand struct {
	Ask      string        // a URL that answers 200 for names that may have one; empty: Names decides alone
	Names    []string      // exact, or "*.example.com"; empty: Ask decides alone
	Limit    int           // new certificates in each Interval
	Interval time.Duration // of Limit
}

// Trust is the proxies in front of the gateway that are believed what they say of their clients.
type Trust struct {
	Networks []netip.Prefix
	Unix     bool // those that come through unix sockets
}

// IsEmpty reports whether nobody is believed.
func (t *Trust) IsEmpty() bool { return len(t.Networks) == 0 && !t.Unix }

// Covers reports whether a peer is one of them. Its address is not valid if it came through a unix socket.
func (t *Trust) Covers(peer netip.Addr) bool {
	if !peer.IsValid() {
		return t.Unix
	}
	peer = peer.Unmap().WithZone("")
	return slices.ContainsFunc(t.Networks, func(n netip.Prefix) bool { return n.Contains(peer) })
}

// Log is the error log.
type Log struct {
	Level  string // debug, info, warn or error
	Format string // console or json
}

// AccessLog is where and how requests are logged.
type AccessLog struct {
	Path    string // "-" is standard output
	Format  string // common, combined, json, or a format string
	MaxSize int64  // bytes, at which the file is put aside; 0: it grows
	Keep    int    // files that were put aside
}

// MPM names a multi-processing module, the way a pool runs requests (Apache's word).
type MPM string

// The three multi-processing modules.
const (
	Prefork MPM = "prefork" // one request per child process
	Worker  MPM = "worker"  // threads_per_child requests per child process
	Event   MPM = "event"   // executors in the front
)

// Pool is a named set of execution slots. The numbers are those of Apache's directives of the same name.
type Pool struct {
	Name                string
	MPM                 MPM
	StartServers        int
	MinSpareServers     int
	MaxSpareServers     int
	ServerLimit         int
	MaxRequestWorkers   int
	ThreadsPerChild     int           // worker: requests at once in one child
	ThreadLimit         int           // worker: bound of ThreadsPerChild
	MinSpareThreads     int           // worker
	MaxSpareThreads     int           // worker
	Spawn               Spawn         // how children are started; empty: on an event pool
	IdleTimeout         time.Duration // SpawnOnDemand: an idle child leaves after it
	MaxRequestsPerChild int           // 0: never recycled by count
	MaxChildMemory      int64         // bytes, read after a request; 0: never recycled by memory
	MaxChildAge         time.Duration // 0: never recycled by age
	RequestTimeout      time.Duration // 0: none
	KillAfter           time.Duration // from SIGTERM to SIGKILL at the deadline
	OnlyIfWaiting       int           // the deadline ends no child while fewer requests wait; 0: it always does
	Retry               bool          // repeat an idempotent request whose child died before it answered
	DebugErrors         bool          // error pages tell the cause
	User                string        // empty: the front's user
	Group               string        // empty: the user's own groups
	Umask               *int          // nil: 022
	Nice                *int          // nil: the supervisor's
	Rlimit              Rlimit
	Cgroup              *Cgroup  // nil: the children stay in the supervisor's group
	EnvPass             []string // variables of the supervisor that the children get
	Dir                 string   // the children's working directory, unless the application has one; empty: the supervisor's
	Queue               Queue
	SessionLimit        *SessionLimit // nil: none
	PHP                 *PHP          // a php-cgi application
	FastCGI             *FastCGI      // another FastCGI program
	WSGI                *WSGI         // a Python application
	HTTP                *HTTPApp      // an application that is an HTTP server
}

// HasApplication reports whether the pool says what runs in it, so that its routes need no handler.
func (p *Pool) HasApplication() bool {
	return p.PHP != nil || p.FastCGI != nil || p.WSGI != nil || p.HTTP != nil
}

// Spawn is when a pool starts children.
type Spawn string

// The ways to start children.
const (
	SpawnDemand   Spawn = "demand"   // at once for requests that wait, and to keep the spare ones
	SpawnOnDemand Spawn = "ondemand" // for requests that wait only; idle ones leave
	SpawnStatic   Spawn = "static"   // all of them at first
	SpawnApache   Spawn = "apache"   // once a second, twice as many each time
)

// Rlimit holds limits of each child (setrlimit(2)). Nil: as the supervisor's.
type Rlimit struct {
	NoFile *int64 // open files
	AS     *int64 // bytes of address space
	CPU    *int64 // seconds
	Core   *int64 // bytes of a core file
	NProc  *int64 // processes of the child's user
}

// Cgroup limits a pool and its children through control groups (version 2). 0: no limit, or the kernel's default.
type Cgroup struct {
	MemoryMax      int64 // bytes of the whole pool
	PIDsMax        int   // processes and threads of the whole pool
	CPUWeight      int   // 1 to 10000 against other groups
	ChildMemoryMax int64 // bytes of one child and what it started
}

// Queue bounds the requests that wait for a slot.
type Queue struct {
	Length  int           // how many may wait; 0: none
	Timeout time.Duration // how long each may wait
	Header  bool          // add X-Queue-Time, in seconds, to responses
}

// SessionLimit keeps the requests of one session from taking all slots.
type SessionLimit struct {
	Cookie string // that names the session; a request without it is not limited
	Max    int    // requests of a session that run, or wait for a slot, at once
}

// PHP runs php-cgi children.
type PHP struct {
	Command []string
	INI     map[string]string // php.ini values, given as -d name=value
	Env     map[string]string // added to the children's environment

	ShareOPcache bool // the command is php-fpm, and one process of it forks all children
}

// FastCGI runs children of a program that accepts FastCGI connections on descriptor 0, as many at once as its pool has threads.
type FastCGI struct {
	Command    []string
	Env        map[string]string
	Dir        string
	ThreadSafe bool
}

// WSGI runs a Python application (PEP 3333).
type WSGI struct {
	Module     string // "package.module:callable"
	Dir        string // working directory, and the first place where modules are looked for
	Python     string // the interpreter
	Env        map[string]string
	ThreadSafe bool
}

// HTTPApp runs an HTTP server on a private unix socket.
type HTTPApp struct {
	Command    []string // {socket} is replaced
	Env        map[string]string
	Dir        string
	ThreadSafe bool
}

// Site is one virtual host.
type Site struct {
	Names            []string // exact, or "*.example.com"; lower case
	Listen           []Listen
	Root             string   // absolute
	Symlinks         Symlinks // the default of the routes
	Index            []string // the default of static routes
	KeepAliveTimeout time.Duration
	MaxKeepAlive     int   // requests per connection; 0: unlimited
	MaxRequestBody   int64 // bytes
	EncodedSlashes   bool  // are slashes, and no fault
	TLS              TLS
	Rewrites         []Rewrite // before a route is looked for
	Headers          []Headers // of responses
	RequestHeaders   []Headers
	ErrorPages       []ErrorPage
	RateLimits       []RateLimit // for all requests of the site together
	Compress         *Compress   // the default of the routes; nil: nothing is
	Routes           []Route
}

// Listen is one listening address of a site. Two sites may share it.
type Listen struct {
	Network string // tcp or unix
	Address string // ":80", "127.0.0.1:8080", "[::1]:8080", "/run/x.sock"
	TLS     bool
	Proxied bool // each connection begins with the PROXY protocol
	H2C     bool // without TLS, clients may begin with HTTP/2
}

// Key names the address among all networks: "tcp :80", "unix /run/x.sock". [Table.Site] takes it.
func (l Listen) Key() string { return l.Network + " " + l.Address }

// TLS says where a site's certificate comes from, and what connections with it must meet. All but the mode is empty when that is off.
type TLS struct {
	Mode         string             // "off", "auto", "internal" or "manual"
	Certificates []CertificateFiles // for manual: a client gets the first that it can use
	ACME         *ACME              // for auto
	MinVersion   string             // "1.2" or "1.3"
	ClientAuth   *ClientAuth        // nil: clients are not asked for certificates
	Redirect     []string           // the Keys of the listeners without TLS that send clients to one with it
	HSTS         string             // the value of Strict-Transport-Security (RFC 6797); empty: it is not sent
}

// CertificateFiles are the paths of a certificate and its key.
type CertificateFiles struct {
	Certificate, Key string
}

// ClientAuth asks clients for certificates.
type ClientAuth struct {
	Mode   string // ClientRequire, ClientVerifyIfGiven or ClientRequest
	CA     string // path of the PEM certificates of those who issue them
	Export bool   // applications get the certificate itself
}

// The values of [ClientAuth.Mode].
const (
	ClientRequire       = "require"         // without one that verifies there is no connection
	ClientVerifyIfGiven = "verify_if_given" // one that does not verify ends the connection, none does not
	ClientRequest       = "request"         // applications are told whether it verifies
)

// Route maps requests to a handler and a pool. Exactly one of the handlers is set, or none when the pool has an application.
type Route struct {
	Pattern        Pattern
	Methods        []string // empty: all; HEAD is in it wherever GET is
	Pool           string
	Root           string // the site's unless the route has one
	StripPrefix    bool   // the pattern's folder is cut off what is looked for below Root, or asked of a server
	Rewrites       []Rewrite
	Headers        []Headers     // of responses; the site's come first
	RequestHeaders []Headers     // likewise
	ErrorPages     []ErrorPage   // likewise
	RateLimits     []RateLimit   // beside the site's
	Access         *Access       // nil: everybody may have it
	RequestTimeout time.Duration // in place of the pool's; 0: as that says
	TryFiles       []TryFile
	Symlinks       Symlinks
	MaxRequestBody int64 // bytes
	Unbuffered     bool  // buffer = false: bodies are passed on as they come
	Compress       *Compress
	SendFile       *SendFile // nil: an application sends its files itself
	Static         *Static
	CGI            *CGI
	Proxy          *Proxy
	FastCGI        *FastCGIServer
	Redirect       *Redirect
	Respond        *Respond
	Internal       bool   // clients have no part in it; only other routes lead here
	Line           string // "site.hcl:12", for messages
}

// TryFile is one candidate of try_files. It has a path or a status.
type TryFile struct {
	Path     Template
	Query    Template // behind "?"
	HasQuery bool
	Status   int // to answer with
}

// Symlinks is which symbolic links below a root are followed. Empty means the same as LinksInside.
type Symlinks string

// The values of [Symlinks].
const (
	LinksNone   Symlinks = "none"
	LinksOwner  Symlinks = "owner"  // those that belong to whom their target belongs to, wherever they lead (Apache's SymLinksIfOwnerMatch)
	LinksInside Symlinks = "inside" // those that end below the root
	LinksAll    Symlinks = "all"    // Apache's FollowSymLinks
)

// Static serves files below the route's root.
type Static struct {
	Index         []string
	CacheControl  string
	CacheBySuffix map[string]string // in place of CacheControl, by the longest end of the name: ".css", ".tar.gz"; lower case
	Types         map[string]string // media types that are not the usual ones, likewise
	Precompressed []string          // codings whose files may lie beside the file, the best one first
	Listing       bool              // show what is in folders without an index file
	Hide          []string          // patterns of names that are not served, as of path.Match
	DotFiles      bool              // serve names that begin with a dot
}

// SendFile lets an application name what is sent in place of its response.
type SendFile struct {
	Pool     string     // without application; it opens the files
	Roots    []string   // folders; X-Sendfile and X-LIGHTTPD-send-file name a file below one of them
	Internal []Internal // X-Accel-Redirect names a path below one of them
	Routes   bool       // or any other path of the site, for its route to answer
}

// Internal is a folder under a name that only an application knows.
type Internal struct {
	Prefix string // of a path, with a slash at the end
	Folder string
}

// Folders are all folders from which files may be sent.
func (s *SendFile) Folders() []string {
	folders := slices.Clone(s.Roots)
	for _, i := range s.Internal {
		folders = append(folders, i.Folder)
	}
	return folders
}

// Compress is how responses are compressed on their way.
type Compress struct {
	Codings []string // the best one first
	Types   []string // "text/html", "text/*", "*+json"
	MinSize int64    // bytes
	Level   int      // 1 is fast, 9 is small
}

// CGI runs RFC 3875 scripts.
type CGI struct {
	Root   string // scripts below it; the route's prefix is cut off the path
	Script string // or one program for the whole route
	Env    map[string]string
}

// FastCGIServer passes requests on to a FastCGI server that somebody else runs, such as a php-fpm.
type FastCGIServer struct {
	Network string // tcp or unix
	Address string // host:port, or an absolute path
	Root    string // the route's root as the server sees it
	Files   bool   // it runs existing scripts below the root, and nothing else; else it has the whole of the route
	Env     map[string]string

	ConnectTimeout time.Duration // 0: the default of package proxy
}

// Proxy passes requests on to HTTP servers that somebody else runs. What is 0 has the default of package proxy.
type Proxy struct {
	To               []Upstream
	Balance          Balance       // empty: RoundRobin
	Key              string        // of Hash: "remote_ip", "uri", "header:NAME" or "cookie:NAME"
	Retry            bool          // what has no more effects when done twice is asked of another server, if one fails
	MaxFails         int           // so many within FailTimeout, and a server is passed over for as long; 0: it never is
	FailTimeout      time.Duration // see MaxFails
	ConnectTimeout   time.Duration
	ResponseTimeout  time.Duration // until the head of a response has come; 0: the pool's request_timeout
	IdleTimeout      time.Duration // from one piece of a response to the next; likewise
	KeepAlive        int           // connections to each server that wait for a request
	KeepAliveTimeout time.Duration // how long they do
	Resolve          time.Duration // how long the addresses of a name are good
	ProxyProtocol    string        // "v1" or "v2" of the PROXY protocol begins each connection; empty: none
	Health           *Health       // nil: only requests show how a server is
	TLS              ClientTLS     // with the servers that speak it
}

// SpeaksTLS reports whether one of the servers does.
func (p *Proxy) SpeaksTLS() bool {
	return slices.ContainsFunc(p.To, func(u Upstream) bool { return u.TLS })
}

// Balance says which server gets a request.
type Balance string

// The balances.
const (
	RoundRobin       Balance = "round_robin"
	LeastConnections Balance = "least_connections"
	Hash             Balance = "hash" // the same one for the same key
)

// Health has servers asked how they are.
type Health struct {
	URI      string
	Interval time.Duration
	Timeout  time.Duration
	Status   int // of a server that is well; 0: 200 to 399
}

// Upstream is an HTTP server.
type Upstream struct {
	Network        string // tcp or unix
	Address        string // host:port, or an absolute path
	Base           string // goes before the path of a request; decoded, without a slash at its end
	Host           string // what it is asked for; empty: what the client asks for
	TLS            bool   // it speaks TLS
	HTTP2          bool   // it speaks HTTP/2: chosen in the handshake, or without TLS as known before (RFC 9113 §3.3)
	Weight         int    // its share of the requests; 0: 1
	Backup         bool   // gets requests only when no other server can
	MaxConnections int    // at once; 0: any number
}

// Redirect answers with a Location.
type Redirect struct {
	To     Template
	Query  Template // behind "?"
	Status int
}

// Respond answers with a fixed text.
type Respond struct {
	Status      int
	Body        Template
	ContentType string
}

// PatternKind is how a Pattern compares.
type PatternKind string

// The kinds of pattern.
const (
	Exact  PatternKind = "exact"  // "/a"
	Prefix PatternKind = "prefix" // "/a/*" matches "/a/" and everything below it
	Suffix PatternKind = "suffix" // "*.php" matches the end of the path, or a file of that name with PATH_INFO behind it; "/a/*.php" only below "/a/"
)

// Pattern is a parsed route pattern. Comparison is bytewise: no case or Unicode folding.
type Pattern struct {
	Kind PatternKind
	Text string // "/a", "/a/" or ".php"
	Top  string // of a suffix: what the path begins with, "/a/"; empty: it may stand anywhere
}
