package routes

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// mustParse loads a configuration that has no errors.
func mustParse(t *testing.T, src string) *Config {
	t.Helper()
	c, diags := Parse("/etc/gateway/site.hcl", []byte(src))
	if diags.HasErrors() {
		t.Fatalf("Parse found errors:\n%s", render(t, diags))
	}
	return c
}

// plain is the configuration without its places, as another process gets it.
func plain(c *Config) *Config {
	bare := *c
	bare.source = source{}
	return &bare
}

func TestLoadFull(t *testing.T) {
	got, diags := Load("testdata/good/full.hcl")
	if diags.Errors()+diags.Warnings() != 0 {
		t.Fatalf("Load found:\n%s", render(t, diags))
	}
	folder, err := filepath.Abs("testdata/good")
	if err != nil {
		t.Fatal(err)
	}
	if want := fullConfig(folder); !reflect.DeepEqual(plain(got), want) {
		t.Errorf("Load(full.hcl)\n got %s\nwant %s", asJSON(t, got), asJSON(t, want))
	}
}

func fullConfig(folder string) *Config {
	const root = "/srv/legacy/public"
	index := []string{"index.html", "index.php"}
	queue := Queue{Length: 511, Timeout: time.Minute}
	return &Config{
		Gateway: Gateway{
			User: "www-data", RuntimeDir: "/run/gateway", StateDir: "/var/lib/gateway", SpoolDir: "/var/tmp",
			GracePeriod:      30 * time.Second,
			MaxHTTP2Requests: DefaultHTTP2Requests,
			Log:              Log{Level: "info", Format: "console"},
			AccessLog:        &AccessLog{Path: "/var/log/gateway/access.log", Format: "combined"},
		},
		TLS: TLSDefaults{MinVersion: "1.2", ACME: ACME{Email: "ops@example.com", CA: []string{letsEncrypt}, KeyType: "p256", Challenges: []string{HTTP01, TLSALPN01}}},
		Pools: []Pool{
			{Name: "edge", MPM: Event, MaxRequestWorkers: 400, RequestTimeout: time.Minute, Queue: queue},
			{
				Name: "php", MPM: Prefork, StartServers: 5, MinSpareServers: 5, MaxSpareServers: 10, ServerLimit: 150,
				ThreadsPerChild: 1, ThreadLimit: 1, Spawn: SpawnDemand, IdleTimeout: 10 * time.Second, MaxRequestWorkers: 150, MaxRequestsPerChild: 4000, RequestTimeout: time.Minute, KillAfter: 2 * time.Second, User: "app",
				Queue: Queue{Length: 200, Timeout: 10 * time.Second},
				PHP:   &PHP{Command: []string{"php-cgi"}, INI: map[string]string{"memory_limit": "128M"}},
			},
			{
				Name: "scripts", MPM: Prefork, StartServers: 5, MinSpareServers: 5, MaxSpareServers: 10, ServerLimit: 16,
				ThreadsPerChild: 1, ThreadLimit: 1, Spawn: SpawnDemand, IdleTimeout: 10 * time.Second, MaxRequestWorkers: 16,
				RequestTimeout: time.Minute, KillAfter: 2 * time.Second, Queue: queue,
			},
			{
				Name: "app", MPM: Worker, StartServers: 2, ThreadsPerChild: 25, ThreadLimit: 64, MinSpareThreads: 75, MaxSpareThreads: 250,
				ServerLimit: 16, MaxRequestWorkers: 400, Spawn: SpawnDemand, IdleTimeout: 10 * time.Second,
				RequestTimeout: time.Minute, KillAfter: 2 * time.Second, Queue: queue,
				WSGI: &WSGI{Module: "shop.wsgi:application", Dir: "/srv/shop", Python: "python3", ThreadSafe: true},
			},
		},
		Sites: []Site{{
			Names:  []string{"example.com", "www.example.com"},
			Listen: []Listen{{Network: "tcp", Address: ":80"}, {Network: "tcp", Address: ":443", TLS: true}},
			Root:   root, Index: []string{"index.html"}, KeepAliveTimeout: 5 * time.Second, MaxRequestBody: 1 << 30,
			TLS: TLS{
				Mode: "manual", Certificates: []CertificateFiles{{filepath.Join(folder, "example.com.pem"), filepath.Join(folder, "example.com.key")}},
				MinVersion: "1.2", Redirect: []string{"tcp :80"},
			},
			Routes: []Route{
				{
					Pattern: Pattern{Kind: Prefix, Text: "/assets/"}, Pool: "edge", Root: root, MaxRequestBody: 1 << 30, Line: "full.hcl:68",
					Static: &Static{Index: []string{"index.html"}, CacheControl: "public, max-age=3600"},
				},
				{
					Pattern: Pattern{Kind: Prefix, Text: "/cgi-bin/"}, Pool: "scripts", Root: root, MaxRequestBody: 1 << 30, Line: "full.hcl:72",
					CGI: &CGI{Root: "/srv/legacy/cgi-bin"},
				},
				{Pattern: Pattern{Kind: Suffix, Text: ".php"}, Pool: "php", Root: root, MaxRequestBody: 1 << 30, Line: "full.hcl:76"},
				{Pattern: Pattern{Kind: Prefix, Text: "/shop/"}, Pool: "app", Root: root, MaxRequestBody: 1 << 30, Line: "full.hcl:77"},
				{
					Pattern: Pattern{Kind: Prefix, Text: "/"}, Pool: "edge", Root: root, MaxRequestBody: 1 << 30, Line: "full.hcl:78",
					TryFiles: []TryFile{
						{Path: Template{{Name: "path"}}}, {Path: Template{{Name: "path"}, {Text: "/index.php"}}}, {Path: Template{{Text: "/index.php"}}},
					},
					Static: &Static{Index: index},
				},
			},
		}},
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestConfigSurvivesJSON(t *testing.T) {
	want, diags := Load("testdata/good/full.hcl")
	if diags.HasErrors() {
		t.Fatal("full.hcl has errors")
	}
	var got Config
	if err := json.Unmarshal([]byte(asJSON(t, want)), &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&got, plain(want)) {
		t.Errorf("after JSON\n got %s\nwant %s", asJSON(t, got), asJSON(t, want))
	}
}

// TestDocsExamples loads the first example of each page of the documentation that begins with a whole one.
func TestDocsExamples(t *testing.T) {
	for _, page := range []string{docsFile, "../docs/static.md"} {
		source, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(source), "```hcl\n")
		example, _, _ := strings.Cut(rest, "```")
		if _, diags := Parse("docs.hcl", []byte(example)); diags.Errors()+diags.Warnings() > 0 || example == "" {
			t.Errorf("the example of %s:\n%s", page, render(t, diags))
		}
	}
}

// siteWith is a valid configuration around a site's lines and a route's.
func siteWith(names, listen, siteLines, routeLines string) string {
	return `pool "edge" {
  mpm = "event"
}
site ` + names + ` {
  listen = ` + listen + `
  root = "www"
` + siteLines + `
  route "/*" {
    pool = "edge"
    ` + routeLines + `
  }
}
`
}

const staticRoute = "static {}"

func TestSiteValues(t *testing.T) {
	t.Setenv("GATEWAY_TEST_ROOT", "/from/env")
	rows := []struct {
		name string
		src  string
		get  func(*Site) any
		want any
	}{
		{"a relative root begins in the file's folder", siteWith(`"a"`, `[":80"]`, "", staticRoute), func(s *Site) any { return s.Root }, "/etc/gateway/www"},
		{"a route has the site's root", siteWith(`"a"`, `[":80"]`, "", staticRoute), func(s *Site) any { return s.Routes[0].Root }, "/etc/gateway/www"},
		{"a route's own root wins", siteWith(`"a"`, `[":80"]`, "", `root = "/x"`+"\n"+staticRoute), func(s *Site) any { return s.Routes[0].Root }, "/x"},
		{"env reads the environment", siteWith(`"a"`, `[":80"]`, "", `root = env("GATEWAY_TEST_ROOT", "/y")`+"\n"+staticRoute), func(s *Site) any { return s.Routes[0].Root }, "/from/env"},
		{"env has a default", siteWith(`"a"`, `[":80"]`, "", `root = env("GATEWAY_TEST_NONE", "/y")`+"\n"+staticRoute), func(s *Site) any { return s.Routes[0].Root }, "/y"},
		{"a number may come from env", siteWith(`"a"`, `[":80"]`, `max_keep_alive_requests = env("GATEWAY_TEST_NONE", "7")`, staticRoute), func(s *Site) any { return s.MaxKeepAlive }, 7},
		{"a site's body limit holds for its routes", siteWith(`"a"`, `[":80"]`, `max_request_body = "2M"`, staticRoute), func(s *Site) any { return s.Routes[0].MaxRequestBody }, int64(2 << 20)},
		{"a route's body limit wins", siteWith(`"a"`, `[":80"]`, `max_request_body = "2M"`, "max_request_body = 10\n"+staticRoute), func(s *Site) any { return s.Routes[0].MaxRequestBody }, int64(10)},
		{"a site's index holds for its routes", siteWith(`"a"`, `[":80"]`, `index = ["a.htm"]`, staticRoute), func(s *Site) any { return s.Routes[0].Static.Index }, []string{"a.htm"}},
		{"GET takes HEAD along", siteWith(`"a"`, `[":80"]`, "", `methods = ["GET"]`+"\n"+staticRoute), func(s *Site) any { return s.Routes[0].Methods }, []string{"GET", "HEAD"}},
		{"names are compared in lower case", siteWith(`"WWW.Example.Com." "[::1]" "*.X.org"`, `[":80"]`, "", staticRoute), func(s *Site) any { return s.Names }, []string{"www.example.com", "::1", "*.x.org"}},
		{"a list may be computed", siteWith(`"a"`, `[for port in [80, 81] : ":${port}"]`, "", staticRoute), func(s *Site) any { return len(s.Listen) }, 2},
		{"addresses are canonical", siteWith(`"a"`, `["[0:0::1]:080", "unix:run/x.sock", "127.0.0.1:90 tls", ":81 h2c"]`, "tls {\nmode = \"internal\"\n}", staticRoute), func(s *Site) any { return s.Listen }, []Listen{
			{Network: "tcp", Address: "[::1]:80"}, {Network: "unix", Address: "/etc/gateway/run/x.sock"}, {Network: "tcp", Address: "127.0.0.1:90", TLS: true}, {Network: "tcp", Address: ":81", H2C: true},
		}},
		{"a load balancer speaks for its clients", "gateway {\ntrusted_proxies = [\"10.0.0.0/8\"]\n}\n" + siteWith(`"a"`, `[":80 proxy_protocol"]`, "", staticRoute), func(s *Site) any { return s.Listen }, []Listen{{Network: "tcp", Address: ":80", Proxied: true}}},
		{"a plain site has no TLS", siteWith(`"a.example"`, `[":80"]`, "", staticRoute), func(s *Site) any { return s.TLS }, TLS{Mode: "off"}},
		{"local names get the internal authority", siteWith(`"localhost" "a.localhost" "127.0.0.1" "::1"`, `[":80", ":443"]`, "", staticRoute), func(s *Site) any { return s.TLS }, TLS{Mode: "internal", MinVersion: "1.2", Redirect: []string{"tcp :80"}}},
		{"public names get certificates from a public authority", siteWith(`"a.example"`, `[":80", ":443"]`, "", staticRoute), func(s *Site) any { return s.TLS }, TLS{Mode: "auto", MinVersion: "1.2", Redirect: []string{"tcp :80"}, ACME: &ACME{CA: []string{letsEncrypt}, KeyType: "p256", Challenges: []string{HTTP01, TLSALPN01}}}},
		{"names that no public authority certifies get the internal one", siteWith(`"intranet" "a.test" "b.local" "c.internal" "d.home.arpa"`, `[":443"]`, "", staticRoute), func(s *Site) any { return s.TLS.Mode }, "internal"},
		{"who has a CA of his own may say auto for every name", siteWith(`"intranet"`, `[":443"]`, "tls {\nmode = \"auto\"\nca = \"https://ca.internal/acme\"\n}", staticRoute), func(s *Site) any { return s.TLS.ACME.CA }, []string{"https://ca.internal/acme"}},
		{"without a plain address there is no HTTP challenge", siteWith(`"a.example"`, `[":443"]`, "", staticRoute), func(s *Site) any { return s.TLS.ACME.Challenges }, []string{TLSALPN01}},
		{"a site's CAs stand in place of the default ones, and accounts go with their CA", "tls {\nca = [\"https://one.example/dir\", \"letsencrypt-staging\"]\neab {\nca = \"https://one.example/dir\"\nkey_id = \"k\"\nmac_key = \"AAAA\"\n}\n}\n" +
			siteWith(`"a.example"`, `[":80", ":443"]`, "tls {\nca = \"letsencrypt-staging\"\nkey_type = \"rsa2048\"\nemail = \"a@b.example\"\n}", staticRoute), func(s *Site) any { return *s.TLS.ACME },
			ACME{Email: "a@b.example", CA: []string{letsEncryptStaging}, EAB: []EAB{}, KeyType: "rsa2048", Challenges: []string{HTTP01, TLSALPN01}}},
		{"the only CA has the account", "tls {\neab {\nkey_id = \"k\"\nmac_key = \"AAA=\"\n}\n}\n" + siteWith(`"a.example"`, `[":80", ":443"]`, "", staticRoute), func(s *Site) any { return s.TLS.ACME.EAB }, []EAB{{letsEncrypt, "k", "AAA"}}},
		{"a command makes records for wildcards", siteWith(`"*.a.example"`, `[":443"]`, "tls {\ndns {\ncommand = [\"/hook\", \"-v\"]\nenv = { TOKEN = \"t\" }\n}\n}", staticRoute), func(s *Site) any { return *s.TLS.ACME.DNS },
			DNS{Command: []string{"/hook", "-v"}, Env: map[string]string{"TOKEN": "t"}, Timeout: time.Minute}},
		{"clients may have certificates made", siteWith(`"a.example"`, `[":443"]`, "tls {\non_demand {\nnames = [\"*.Customers.example\"]\nask = \"http://127.0.0.1:9000/ok\"\n}\n}", staticRoute), func(s *Site) any { return *s.TLS.ACME.OnDemand },
			OnDemand{Ask: "http://127.0.0.1:9000/ok", Names: []string{"*.customers.example"}, Limit: 10, Interval: time.Minute}},
		{"the top-level mode is the default", "tls {\nmode = \"internal\"\n}\n" + siteWith(`"a.example"`, `[":443"]`, "", staticRoute), func(s *Site) any { return s.TLS.Mode }, "internal"},
		{"the top-level mode needs no TLS address", "tls {\nmode = \"internal\"\n}\n" + siteWith(`"a.example"`, `[":80"]`, "", staticRoute), func(s *Site) any { return s.TLS.Mode }, "off"},
		{"a certificate wins over the top-level mode", "tls {\nmode = \"internal\"\n}\n" + siteWith(`"a"`, `[":443"]`, "tls {\ncertificate = \"c.pem\"\nkey = \"/k.pem\"\n}", staticRoute), func(s *Site) any { return s.TLS }, TLS{Mode: "manual", MinVersion: "1.2", Certificates: []CertificateFiles{{"/etc/gateway/c.pem", "/k.pem"}}}},
		{"several certificates, each with its key", siteWith(`"a"`, `[":443"]`, "tls {\ncertificate = [\"e.pem\", \"r.pem\"]\nkey = [\"e.key\", \"/r.key\"]\n}", staticRoute), func(s *Site) any { return s.TLS.Certificates }, []CertificateFiles{{"/etc/gateway/e.pem", "/etc/gateway/e.key"}, {"/etc/gateway/r.pem", "/r.key"}}},
		{"a local listener beside a public one with TLS is left alone", siteWith(`"a.example"`, `[":80", ":443", "127.0.0.1:81", "unix:/x.sock"]`, "", staticRoute), func(s *Site) any { return s.TLS.Redirect }, []string{"tcp :80"}},
		{"a local listener beside a local one with TLS redirects", siteWith(`"a.example"`, `["[::1]:80", "127.0.0.1:443"]`, "", staticRoute), func(s *Site) any { return s.TLS.Redirect }, []string{"tcp [::1]:80"}},
		{"redirect = true holds for local listeners, too", siteWith(`"a.example"`, `[":443", "127.0.0.1:81", "unix:/x.sock"]`, "tls {\nredirect = true\n}", staticRoute), func(s *Site) any { return s.TLS.Redirect }, []string{"tcp 127.0.0.1:81", "unix /x.sock"}},
		{"redirect = false holds for all", siteWith(`"a.example"`, `[":80", ":443"]`, "tls {\nredirect = false\n}", staticRoute), func(s *Site) any { return s.TLS.Redirect }, []string(nil)},
		{"a site may ask for less than the top level", "tls {\nmin_version = \"1.3\"\n}\n" + siteWith(`"a.example"`, `[":443"]`, "tls {\nmin_version = \"1.2\"\n}", staticRoute), func(s *Site) any { return s.TLS.MinVersion }, "1.2"},
		{"what the top level says of versions and HSTS", "tls {\nmin_version = \"1.3\"\nhsts {}\n}\n" + siteWith(`"a.example"`, `[":443"]`, "", staticRoute), func(s *Site) any { return s.TLS.MinVersion + " " + s.TLS.HSTS }, "1.3 max-age=31536000"},
		{"a site's own HSTS", siteWith(`"a.example"`, `[":443"]`, "tls {\nhsts {\nmax_age = \"17520h\"\ninclude_subdomains = true\npreload = true\n}\n}", staticRoute), func(s *Site) any { return s.TLS.HSTS }, "max-age=63072000; includeSubDomains; preload"},
		{"client certificates are required unless it is said otherwise", siteWith(`"a.example"`, `[":443"]`, "tls {\nclient_auth {\nca = \"ca.pem\"\n}\n}", staticRoute), func(s *Site) any { return *s.TLS.ClientAuth }, ClientAuth{Mode: ClientRequire, CA: "/etc/gateway/ca.pem"}},
		{"a redirect is 302", siteWith(`"a"`, `[":80"]`, "", "redirect {\nto = \"https://{host}{uri}\"\n}"), func(s *Site) any { return *s.Routes[0].Redirect }, Redirect{To: Template{{Text: "https://"}, {Name: "host"}, {Name: "uri"}}, Status: 302}},
		{"servers of a proxy", siteWith(`"a"`, `[":80"]`, "", `proxy {
to = ["http://127.0.0.1:9000", "http://[::1]:9000/", "HTTP://App.internal/a%20b/", "unix:/run/app.sock"]
}`), func(s *Site) any { return s.Routes[0].Proxy.To }, []Upstream{
			{Network: "tcp", Address: "127.0.0.1:9000"}, {Network: "tcp", Address: "[::1]:9000"}, {Network: "tcp", Address: "App.internal:80", Base: "/a b"}, {Network: "unix", Address: "/run/app.sock"},
		}},
		{"servers have shares and limits", siteWith(`"a"`, `[":80"]`, "", `proxy {
to = ["http://127.0.0.1:9000 weight=3 max_connections=100", "unix:/run/app.sock backup", "h2c://127.0.0.1:50051"]
}`), func(s *Site) any { return s.Routes[0].Proxy.To }, []Upstream{
			{Network: "tcp", Address: "127.0.0.1:9000", Weight: 3, MaxConnections: 100}, {Network: "unix", Address: "/run/app.sock", Backup: true},
			{Network: "tcp", Address: "127.0.0.1:50051", HTTP2: true},
		}},
		{"servers with TLS and HTTP/2", siteWith(`"a"`, `[":80"]`, "", `proxy {
to = ["https://api.example.com", "HTTPS://10.0.0.5:8443/v1", "h2://grpc.internal:50051"]
preserve_host = false
tls {
ca = "ca.pem"
server_name = "api.internal"
certificate = "/c.pem"
key = "c.key"
}
}`), func(s *Site) any { return *s.Routes[0].Proxy }, Proxy{
			To: []Upstream{
				{Network: "tcp", Address: "api.example.com:443", Host: "api.example.com", TLS: true}, {Network: "tcp", Address: "10.0.0.5:8443", Base: "/v1", Host: "10.0.0.5:8443", TLS: true},
				{Network: "tcp", Address: "grpc.internal:50051", Host: "grpc.internal:50051", TLS: true, HTTP2: true},
			}, Balance: RoundRobin, MaxFails: 1, FailTimeout: 10 * time.Second, ConnectTimeout: 5 * time.Second, KeepAlive: 1024, KeepAliveTimeout: 4 * time.Second, Resolve: 30 * time.Second,
			TLS: ClientTLS{CARoot: "/etc/gateway/ca.pem", ServerName: "api.internal", Certificate: "/c.pem", Key: "/etc/gateway/c.key"},
		}},
		{"servers that get a host of their own", siteWith(`"a"`, `[":80"]`, "", "proxy {\nto = [\"unix:/x\", \"http://b:81\"]\nhost = \"app.internal:8080\"\n}"), func(s *Site) any { return s.Routes[0].Proxy.To },
			[]Upstream{{Network: "unix", Address: "/x", Host: "app.internal:8080"}, {Network: "tcp", Address: "b:81", Host: "app.internal:8080"}}},
		{"a proxy is balanced by what a cookie says", siteWith(`"a"`, `[":80"]`, "", "proxy {\nto = [\"http://a\"]\nbalance = \"hash:cookie:sid\"\n}"), func(s *Site) any { return *s.Routes[0].Proxy }, Proxy{
			To: []Upstream{{Network: "tcp", Address: "a:80"}}, Balance: Hash, Key: "cookie:sid", MaxFails: 1, FailTimeout: 10 * time.Second,
			ConnectTimeout: 5 * time.Second, KeepAlive: 1024, KeepAliveTimeout: 4 * time.Second, Resolve: 30 * time.Second,
		}},
		{"a response is plain text", siteWith(`"a"`, `[":80"]`, "", "respond {\nbody = \"a\\nb\"\n}"), func(s *Site) any { return *s.Routes[0].Respond }, Respond{200, Template{{Text: "a\nb"}}, "text/plain; charset=utf-8"}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c := mustParse(t, row.src)
			if got := row.get(&c.Sites[0]); !reflect.DeepEqual(got, row.want) {
				t.Errorf("Parse(%s)\n got %#v\nwant %#v", row.src, got, row.want)
			}
		})
	}
}

func TestPoolSizes(t *testing.T) {
	rows := []struct {
		name  string
		lines string
		want  [5]int // start, min spare, max spare, server limit, workers
	}{
		{"the defaults are Apache's", "", [5]int{5, 5, 10, 256, 256}},
		{"a small pool starts no more than it may", "max_request_workers = 3", [5]int{3, 3, 10, 3, 3}},
		{"the old name counts", "max_clients = 20", [5]int{5, 5, 10, 20, 20}},
		{"a server limit bounds the default", "server_limit = 8", [5]int{5, 5, 10, 8, 8}},
		{"a server limit bounds what was written", "server_limit = 8\nmax_request_workers = 9", [5]int{5, 5, 10, 8, 8}},
		{"a higher server limit stays", "server_limit = 80\nmax_request_workers = 9", [5]int{5, 5, 10, 80, 9}},
		{"max spare is forced above min spare", "min_spare_servers = 10", [5]int{5, 10, 11, 256, 256}},
		{"none idle is allowed", "start_servers = 0\nmin_spare_servers = 0\nmax_spare_servers = 0", [5]int{0, 0, 1, 256, 256}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			p := mustParse(t, "pool \"php\" {\nmpm = \"prefork\"\nphp {}\n"+row.lines+"\n}\nsite \"a\" {\nlisten = [\":80\"]\nroot = \"/\"\nroute \"/*\" {\npool = \"php\"\n}\n}\n").Pools[0]
			got := [5]int{p.StartServers, p.MinSpareServers, p.MaxSpareServers, p.ServerLimit, p.MaxRequestWorkers}
			if got != row.want {
				t.Errorf("%q: start, min spare, max spare, server limit, workers = %v, want %v", row.lines, got, row.want)
			}
		})
	}
}

func TestWorkerSizes(t *testing.T) {
	rows := []struct {
		name  string
		lines string
		want  [7]int // start, threads per child, thread limit, min spare, max spare, server limit, workers
	}{
		{"the defaults are Apache's", "", [7]int{3, 25, 64, 75, 250, 16, 400}},
		{"workers are a multiple of the threads", "max_request_workers = 60", [7]int{2, 25, 64, 50, 250, 16, 50}},
		{"there is at least one child", "max_request_workers = 1", [7]int{1, 25, 64, 25, 250, 16, 25}},
		{"the default is fitted to the threads", "threads_per_child = 64", [7]int{3, 64, 64, 75, 250, 16, 384}},
		{"a thread limit bounds the threads", "thread_limit = 10", [7]int{3, 10, 10, 75, 250, 16, 160}},
		{"a higher thread limit allows more threads", "thread_limit = 100\nthreads_per_child = 100", [7]int{3, 100, 100, 75, 250, 16, 400}},
		{"a server limit bounds the workers", "server_limit = 2", [7]int{2, 25, 64, 50, 250, 2, 50}},
		{"a higher server limit allows more workers", "server_limit = 40\nmax_request_workers = 1000", [7]int{3, 25, 64, 75, 250, 40, 1000}},
		{"max spare is forced above min spare by a child", "min_spare_threads = 240", [7]int{3, 25, 64, 240, 265, 16, 400}},
		{"ondemand starts none", "spawn = \"ondemand\"", [7]int{0, 25, 64, 75, 250, 16, 400}},
		{"static starts all", "spawn = \"static\"", [7]int{16, 25, 64, 75, 250, 16, 400}},
		{"one thread is allowed", "threads_per_child = 1\nmax_request_workers = 4", [7]int{3, 1, 64, 4, 250, 16, 4}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			p := onePool(t, "mpm = \"worker\"\nwsgi {\nmodule = \"a:b\"\n}\n"+row.lines)
			got := [7]int{p.StartServers, p.ThreadsPerChild, p.ThreadLimit, p.MinSpareThreads, p.MaxSpareThreads, p.ServerLimit, p.MaxRequestWorkers}
			if got != row.want {
				t.Errorf("%q: start, threads, thread limit, min spare, max spare, server limit, workers = %v, want %v", row.lines, got, row.want)
			}
		})
	}
}

// onePool loads a pool with these lines.
func onePool(t *testing.T, lines string) Pool {
	t.Helper()
	return mustParse(t, "pool \"p\" {\n"+lines+"\n}\nsite \"a\" {\nlisten = [\":80\"]\nroot = \"/\"\nroute \"/*\" {\npool = \"p\"\n}\n}\n").Pools[0]
}

func TestPoolLimits(t *testing.T) {
	t.Chdir(t.TempDir())
	got := onePool(t, `
  mpm              = "prefork"
  spawn            = "apache"
  max_child_memory = "64M"
  max_child_age    = "1h"
  only_if_waiting  = 3
  retry            = true
  debug_errors     = true
  group            = "www"
  umask            = "007"
  nice             = 5
  dir              = "/srv"
  env_pass         = ["HOME"]
  rlimit {
    nofile = 1024
    as     = "1G"
    cpu    = "1500ms"
    core   = 0
    nproc  = 50
  }
  cgroup {
    memory_max       = "1G"
    pids_max         = 100
    cpu_weight       = 50
    child_memory_max = "128M"
  }
  http {
    command = ["node", "{socket}"]
    env     = { A = "b" }
  }
`)
	want := Pool{
		Name: "p", MPM: Prefork, StartServers: 5, MinSpareServers: 5, MaxSpareServers: 10, ServerLimit: 256, MaxRequestWorkers: 256,
		ThreadsPerChild: 1, ThreadLimit: 1, Spawn: SpawnApache, IdleTimeout: 10 * time.Second,
		MaxChildMemory: 64 << 20, MaxChildAge: time.Hour, RequestTimeout: time.Minute, KillAfter: 2 * time.Second,
		OnlyIfWaiting: 3, Retry: true, DebugErrors: true, Group: "www", Umask: new(7), Nice: new(5), Dir: "/srv", EnvPass: []string{"HOME"},
		Rlimit: Rlimit{NoFile: new(int64(1024)), AS: new(int64(1 << 30)), CPU: new(int64(2)), Core: new(int64(0)), NProc: new(int64(50))},
		Cgroup: &Cgroup{MemoryMax: 1 << 30, PIDsMax: 100, CPUWeight: 50, ChildMemoryMax: 128 << 20},
		Queue:  Queue{Length: 511, Timeout: time.Minute},
		HTTP:   &HTTPApp{Command: []string{"node", "{socket}"}, Env: map[string]string{"A": "b"}, Dir: "/srv", ThreadSafe: true},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("pool\n got %s\nwant %s", asJSON(t, got), asJSON(t, want))
	}
}

// TestThreadSafety loads what may run: each application where its threads are no danger.
func TestThreadSafety(t *testing.T) {
	for name, lines := range map[string]string{
		"what is not thread-safe has a process per request":    "mpm = \"prefork\"\nfastcgi {\ncommand = [\"x\"]\nthread_safe = false\n}",
		"one thread is as good as a process":                   "mpm = \"worker\"\nthreads_per_child = 1\nwsgi {\nmodule = \"a:b\"\nthread_safe = false\n}",
		"an application is taken to be thread-safe on workers": "mpm = \"worker\"\nhttp {\ncommand = [\"x\"]\n}",
		"PHP may say what it is":                               "mpm = \"prefork\"\nphp {\nthread_safe = false\n}",
		"a factory makes the application":                      "mpm = \"worker\"\nwsgi {\nmodule = \"shop.web:create_app()\"\n}",
	} {
		t.Run(name, func(t *testing.T) { onePool(t, lines) })
	}
}

func TestHandlersOnEveryMPM(t *testing.T) {
	for _, mpm := range []string{"prefork", "worker"} {
		for _, handler := range []string{"static {}", "cgi { script = \"/x\" }"} {
			t.Run(mpm+" "+handler, func(t *testing.T) {
				mustParse(t, "pool \"p\" {\nmpm = \""+mpm+"\"\n}\nsite \"a\" {\nlisten = [\":80\"]\nroot = \"/\"\nroute \"/*\" {\npool = \"p\"\n"+handler+"\n}\n}\n")
			})
		}
	}
}

func TestLoadFolder(t *testing.T) {
	folder := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_, diags := Load(folder)
	if !diags.HasErrors() {
		t.Errorf("Load(empty folder) has no errors")
	}
	write("20-sites.hcl", "site \"b\" {\nlisten = [\":80\"]\nroute \"/*\" {\npool = \"edge\"\nrespond {}\n}\n}\n")
	write("10-sites.hcl", "site \"a\" {\nlisten = [\":80\"]\nroute \"/*\" {\npool = \"edge\"\nrespond {}\n}\n}\n")
	write("30-pools.hcl", "pool \"edge\" {\nmpm = \"event\"\n}\n")
	write(".hidden.hcl", "nonsense")
	write("note.txt", "nonsense")
	c, diags := Load(folder)
	if diags.HasErrors() {
		t.Fatalf("Load(folder):\n%s", render(t, diags))
	}
	if got := []string{c.Sites[0].Names[0], c.Sites[1].Names[0]}; !reflect.DeepEqual(got, []string{"a", "b"}) {
		t.Errorf("Load(folder) has sites %q, want those of 10-sites.hcl first", got)
	}
	write("40-more.hcl", "pool \"edge\" {\nmpm = \"event\"\n}\nzebra = 1\n")
	write("50-more.hcl", "zebra = 2\n")
	if _, diags = Load(folder); diags.Errors() != 3 {
		t.Errorf("Load(folder) has %d errors, want 3: a pool twice, an unknown attribute in two files\n%s", diags.Errors(), render(t, diags))
	}
}

func TestLoadRefuses(t *testing.T) {
	rows := []struct {
		name string
		src  string
		want string
	}{
		{"a file that is too big", strings.Repeat("#", MaxSourceBytes+1), "File too big"},
		{"brackets without end", strings.Repeat("a {", 5000), "Nested too deeply"},
		{"a chain of operators", "a = " + strings.Repeat("!", 500000) + "1", "Too many operators"},
		{"an empty file", "", "No site"},
		{"bytes that are no text", "\xff\xfe\x00", "Invalid"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c, diags := Parse("x.hcl", []byte(row.src))
			if c != nil || !strings.Contains(string(render(t, diags)), row.want) {
				t.Errorf("Parse gave a config: %t; want none and %q in\n%.500s", c != nil, row.want, render(t, diags))
			}
		})
	}
	if _, diags := Load("testdata/none.hcl"); !strings.Contains(string(render(t, diags)), "no such file") {
		t.Errorf("Load(missing file):\n%s", render(t, diags))
	}
}

func TestDiagnosticsColor(t *testing.T) {
	_, diags := Parse("x.hcl", []byte("zebra = 1\n"))
	var out strings.Builder
	if err := diags.Write(&out, -1, true); err != nil || !strings.Contains(out.String(), "\x1b[31m") {
		t.Errorf("Write(color) = %q, %v; want escapes", out.String(), err)
	}
}

func FuzzParse(f *testing.F) {
	names, err := filepath.Glob("testdata/*/*.hcl")
	if err != nil {
		f.Fatal(err)
	}
	wrong, err := filepath.Glob("testdata/*.hcl")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range append(names, wrong...) {
		src, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		c, diags := Parse("fuzz.hcl", src)
		if (c == nil) != diags.HasErrors() {
			t.Fatalf("Parse: config %t, errors %t; want one of them", c != nil, diags.HasErrors())
		}
		if len(render(t, diags)) == 0 && c == nil {
			t.Fatal("Parse refused without a word")
		}
		if c != nil {
			checkUsable(t, c)
		}
	})
}

// checkUsable holds a loaded configuration to what the other packages rely on.
func checkUsable(t *testing.T, c *Config) {
	t.Helper()
	for _, p := range c.Pools {
		prefork := p.MPM == Prefork && (p.MaxSpareServers <= p.MinSpareServers || p.StartServers > p.MaxRequestWorkers)
		worker := p.MPM == Worker && (p.ThreadsPerChild < 1 || p.ThreadsPerChild > p.ThreadLimit || p.MaxRequestWorkers%p.ThreadsPerChild != 0 ||
			p.MaxSpareThreads < p.MinSpareThreads+p.ThreadsPerChild || p.MaxRequestWorkers > p.ServerLimit*p.ThreadsPerChild)
		if p.MaxRequestWorkers < 1 || prefork || worker {
			t.Errorf("impossible pool: %+v", p)
		}
	}
	for _, s := range c.Sites {
		if len(s.Names) == 0 || len(s.Listen) == 0 || len(s.Routes) == 0 || s.TLS.Mode == "" || s.Root != "" && !filepath.IsAbs(s.Root) {
			t.Errorf("impossible site: %+v", s)
		}
		for _, r := range s.Routes {
			if r.Pattern.Kind == "" || r.MaxRequestBody < 1 {
				t.Errorf("impossible route: %+v", r)
			}
		}
	}
}

func TestLocals(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "robots.txt"), []byte("Disallow: /\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	src := siteWith(`"a"`, `[":80"]`, "", `respond { body = "${local.text}${join("-", local.list)} ${local.all.b}" }`) + `
locals {
  text = trimspace(local.file)
  list = concat(["x"], [upper("y")])
}
locals {
  file = file("robots.txt")
  all  = merge({ a = "1" }, { b = lower("B") })
}
`
	c, diags := Parse(filepath.Join(folder, "site.hcl"), []byte(src))
	if diags.HasErrors() {
		t.Fatalf("Parse:\n%s", render(t, diags))
	}
	if got, want := c.Sites[0].Routes[0].Respond.Body.String(), "Disallow: /x-Y b"; got != want {
		t.Errorf("body %q, want %q", got, want)
	}
}
