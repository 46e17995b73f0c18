package migrate

import (
	"slices"
	"strconv"
	"strings"
)

// unitReader reads one configuration of NGINX Unit, as its control socket gives it.
type unitReader struct {
	*importer
	config  *jsonValue
	targets map[string]unitTarget // what "applications/NAME" and "applications/NAME/TARGET" mean here
}

// unitTarget is an application, or one of its targets.
type unitTarget struct {
	pool   string
	php    bool
	root   string // php: the folder of the scripts
	script string // php: the one that runs for every path; empty: the path names it
	index  string // php: what stands for a folder
}

func isUnit(s source) bool { return strings.HasPrefix(strings.TrimSpace(s.text), "{") }

func (im *importer) unit(sources []source) error {
	for _, s := range sources {
		config, err := readJSON(s)
		if err != nil {
			return err
		}
		if !config.isObject() {
			return errorAt(config.from, "Unit's configuration is an object")
		}
		u := &unitReader{im, config, map[string]unitTarget{}}
		if whole := config.get("config"); whole.isObject() {
			im.leaveRest(&im.Block, config, unitWhole, "config")
			u.config = whole
		}
		u.read()
	}
	return nil
}

func (u *unitReader) read() {
	u.leaveRest(&u.Block, u.config, nil, "listeners", "routes", "applications", "upstreams", "settings", "access_log")
	for name, app := range u.config.get("applications").each() {
		u.application(name, app)
	}
	if log := u.config.get("access_log"); log != nil {
		u.log(log)
	}
	u.listeners()
	if settings := u.config.get("settings"); settings != nil {
		u.settings(settings)
	}
}

// unitWhole are the members beside the configuration.
var unitWhole = map[string]string{
	"certificates": "Unit gives no private keys away: write the files that were uploaded, certificate and key in the tls block of the site",
	"status":       "`gateway status` tells it",
}

// leaveRest notes the members of an object that nobody has read, with what reasons say of them.
func (im *importer) leaveRest(b *Block, v *jsonValue, reasons map[string]string, read ...string) {
	for key, member := range v.each() {
		if slices.Contains(read, key) {
			continue
		}
		reason := reasons[key]
		if reason == "" {
			reason = "there is nothing like it here"
		}
		b.Leave(member.from, "%s", reason)
	}
}

// log reads the access log, a path or an object.
func (u *unitReader) log(log *jsonValue) {
	path := log
	if log.isObject() {
		path = log.get("path")
		u.leaveRest(&u.Block, log, map[string]string{
			"format": "the directives here are Apache's: access_log { format } in the gateway block",
			"if":     "the access log has all requests",
		}, "path")
	}
	if path.text() != "" {
		u.accessLog(path.from, path.text())
	}
}

// settings reads what holds for all sites.
func (u *unitReader) settings(settings *jsonValue) {
	u.leaveRest(&u.Block, settings, nil, "http")
	http := settings.get("http")
	u.leaveRest(&u.Block, http, unitHTTP, "idle_timeout", "max_body_size", "static")
	for _, site := range u.Blocks("site") {
		count(site, "keep_alive_timeout", http.get("idle_timeout"), seconds)
		count(site, "max_request_body", http.get("max_body_size"), plain)
	}
	static := http.get("static")
	u.leaveRest(&u.Block, static, nil, "mime_types")
	for kind, names := range static.get("mime_types").each() {
		u.mediaType(kind, names)
	}
}

// unitHTTP are settings whose work is done otherwise.
var unitHTTP = map[string]string{
	"header_read_timeout":   "how long a head may take is fixed",
	"body_read_timeout":     "how long a body may take is fixed",
	"send_timeout":          "how long a client may take is fixed",
	"server_version":        "no response names the server's version",
	"discard_unsafe_fields": "fields with unsafe names are always dropped",
	"log_route":             "`gateway explain FILE URL` tells which route a request takes",
	"chunked_transform":     "bodies without a length are collected first, always",
}

// mediaType gives the files whose names end so a type, in every route that serves files.
func (u *unitReader) mediaType(kind string, names *jsonValue) {
	list, ok := names.texts()
	for _, ending := range list {
		if ok = ok && strings.HasPrefix(ending, "."); !ok {
			break
		}
		for _, site := range u.Blocks("site") {
			for _, route := range site.Blocks("route") {
				if static := route.Find("static"); static != nil {
					static.Put(names.from, "types", ending, kind)
				}
			}
		}
	}
	if !ok {
		u.Leave(names.from, "types { } of a route's static block is for endings of names, which begin with a dot")
	}
}

// unitNotHere are the languages that have no pool of their own.
var unitNotHere = map[string]string{
	"java":                "run its own server, as http { command } in a pool, or behind a route with proxy",
	"perl":                "run a PSGI server, as http { command } or fastcgi { command } in a pool",
	"ruby":                "run a Rack server such as Puma, as http { command } in a pool",
	"wasm":                "WebAssembly does not run here",
	"wasm-wasi-component": "WebAssembly does not run here",
}

func (u *unitReader) application(name string, app *jsonValue) {
	kind, version, _ := strings.Cut(app.get("type").text(), " ")
	switch kind {
	case "php":
		u.php(name, version, app)
	case "python":
		u.python(name, version, app)
	case "external":
		u.external(name, app)
	default:
		reason := unitNotHere[kind]
		if reason == "" {
			reason = "there is no such type of application"
		}
		u.Leave(app.from, "%s: %s", strconv.Quote(kind), reason)
	}
}

// unitProcess are the members of every application that have no counterpart, or are read by unitPool.
var (
	unitProcess = map[string]string{
		"isolation":         "children have the pool's user, rlimit and cgroup; namespaces are those in which the gateway was started",
		"stdout":            "what children write is in the gateway's log",
		"stderr":            "what children write is in the gateway's log",
		"prefix":            "a WSGI application here is told the whole path",
		"thread_stack_size": "it is Python's own",
		"home":              "it has no bin folder with an interpreter",
	}
	unitCommon = []string{"type", "processes", "limits", "environment", "user", "group", "working_directory", "threads"}
)

// unitPool makes the pool of an application whose children run so many threads.
func (u *unitReader) unitPool(name string, app *jsonValue, threads int) *Block {
	p := u.Add(app.from, "pool", u.free(poolName(name)))
	if threads > 1 {
		p.Set(app.from, "mpm", "worker")
		p.Set(app.from, "threads_per_child", threads)
	} else {
		p.Set(app.from, "mpm", "prefork")
	}
	u.processes(p, app, threads)
	for _, key := range []string{"user", "group", "working_directory"} {
		if v := app.get(key); v.text() != "" {
			p.Set(v.from, strings.Replace(key, "working_directory", "dir", 1), v.text())
		}
	}
	limits := app.get("limits")
	u.leaveRest(p, limits, map[string]string{"shm": "there is no such memory"}, "timeout", "requests")
	count(p, "request_timeout", limits.get("timeout"), seconds)
	count(p, "max_requests_per_child", limits.get("requests"), plain)
	return p
}

// count sets an attribute to a number, as it is written here.
func count(b *Block, attribute string, v *jsonValue, write func(int) any) {
	n, ok := v.number()
	switch {
	case ok:
		b.Set(v.from, attribute, write(n))
	case v != nil:
		b.Leave(v.from, "it is no number that %s can be", attribute)
	}
}

func seconds(n int) any { return strconv.Itoa(n) + "s" }

func plain(n int) any { return n }

// processes reads how many children there are: a number, or bounds of it. Without them Unit has one.
func (u *unitReader) processes(p *Block, app *jsonValue, threads int) {
	v := app.get("processes")
	most, static := 1, true
	from := app.from
	if v != nil {
		from = v.from
	}
	if n, ok := v.number(); ok {
		most = n
	} else if v.isObject() {
		static = false
		if n, ok := v.get("max").number(); ok {
			most = n
		}
		u.spare(p, v, threads)
	}
	if static {
		p.Set(from, "spawn", "static")
	}
	p.Set(from, "max_request_workers", most*threads)
	if threads > 1 {
		p.Set(from, "server_limit", most)
	}
}

// spare reads how many idle children are kept.
func (u *unitReader) spare(p *Block, v *jsonValue, threads int) {
	spare, _ := v.get("spare").number()
	idle := v.get("idle_timeout")
	n, hasIdle := idle.number()
	switch {
	case spare == 0:
		p.Set(v.from, "spawn", "ondemand")
		if !hasIdle {
			n = 15 // Unit's default
		}
		p.Set(v.from, "idle_timeout", seconds(n))
		return
	case hasIdle:
		p.Spare(idle.from, "of more idle children than are spared, one leaves each second")
	}
	p.Set(v.from, "start_servers", spare)
	if threads > 1 {
		p.Set(v.from, "min_spare_threads", spare*threads)
		return
	}
	p.Set(v.from, "min_spare_servers", spare)
}

// entries puts the members of an object, all of them texts, into a map.
func entries(b *Block, attribute string, v *jsonValue) {
	for name, value := range v.each() {
		if text, ok := value.value.(string); ok {
			b.Put(value.from, attribute, name, text)
		} else {
			b.Leave(value.from, "it is no text")
		}
	}
}

func (u *unitReader) php(name, version string, app *jsonValue) {
	p := u.unitPool(name, app, 1)
	u.leaveRest(p, app, unitProcess, append(unitCommon, "options", "targets", "root", "script", "index")...)
	php := NewBlock(app.from, "php")
	if strings.Contains(version, ".") {
		php.Set(app.from, "command", []string{"/usr/sbin/php-fpm" + version})
	}
	php.Set(app.from, "share_opcache", true)
	options := app.get("options")
	u.leaveRest(p, options, map[string]string{"file": "php-fpm reads its own php.ini: write what differs into php { ini }"}, "admin", "user")
	for _, key := range []string{"user", "admin"} {
		entries(php, "ini", options.get(key))
	}
	entries(php, "env", app.get("environment"))
	p.Append(php)
	u.target("applications/"+name, p, app)
	for target, v := range app.get("targets").each() {
		u.leaveRest(p, v, nil, "root", "script", "index")
		u.target("applications/"+name+"/"+target, p, v)
	}
}

// target notes what requests for an application of PHP run.
func (u *unitReader) target(pass string, p *Block, v *jsonValue) {
	t := unitTarget{pool: p.Labels()[0], php: true, root: cleanRoot(v.get("root").text()), script: v.get("script").text(), index: v.get("index").text()}
	if t.script != "" {
		t.script = "/" + strings.TrimPrefix(t.script, "/")
	}
	if t.index == "" {
		t.index = "index.php"
	}
	u.targets[pass] = t
}

func (u *unitReader) python(name, version string, app *jsonValue) {
	if !app.get("targets").isObject() {
		u.wsgi("applications/"+name, name, version, app, app)
		return
	}
	for target, v := range app.get("targets").each() {
		u.wsgi("applications/"+name+"/"+target, name+"_"+target, version, app, v)
	}
}

// maxThreads is more than any pool can have, and small enough to be multiplied.
const maxThreads = 1 << 20

// wsgi makes a pool of an application of Python, or of one of its targets, which name the module.
func (u *unitReader) wsgi(pass, name, version string, app, target *jsonValue) {
	if protocol := app.get("protocol"); protocol.text() == "asgi" {
		u.Leave(app.from, "ASGI does not run here: run an ASGI server such as Uvicorn, as http { command } in a pool")
		return
	}
	threads, ok := app.get("threads").number()
	if !ok {
		threads = 1
	}
	threads = min(threads, maxThreads)
	p := u.unitPool(name, app, threads)
	u.leaveRest(p, app, unitProcess, append(unitCommon, "targets", "module", "callable", "factory", "path", "protocol", "home")...)
	wsgi := NewBlock(app.from, "wsgi")
	module := target.get("module").text()
	if callable := target.get("callable").text(); callable != "" {
		module += ":" + callable
	} else if target.get("factory").isTrue() {
		module += ":application"
	}
	if target.get("factory").isTrue() {
		module += "()"
	}
	wsgi.Set(target.from, "module", module)
	u.modulePath(p, wsgi, app.get("path"))
	if home := app.get("home"); home.text() != "" {
		wsgi.Set(home.from, "python", strings.TrimSuffix(home.text(), "/")+"/bin/python3")
	} else if version != "" {
		wsgi.Set(app.get("type").from, "python", "python"+version)
	}
	entries(wsgi, "env", app.get("environment"))
	p.Append(wsgi)
	u.targets[pass] = unitTarget{pool: p.Labels()[0]}
}

// modulePath reads where modules are looked for: the first folder is the working directory, too, if Unit names no other.
func (u *unitReader) modulePath(p, wsgi *Block, path *jsonValue) {
	folders, _ := path.texts()
	if len(folders) > 0 && !p.Has("dir") {
		wsgi.Set(path.from, "dir", folders[0])
		folders = folders[1:]
	}
	if len(folders) > 0 {
		wsgi.Put(path.from, "env", "PYTHONPATH", strings.Join(folders, ":"))
	}
}

func (u *unitReader) external(name string, app *jsonValue) {
	p := u.unitPool(name, app, 1)
	u.leaveRest(p, app, unitProcess, append(unitCommon, "executable", "arguments")...)
	p.Leave(app.from, "the program speaks Unit's own protocol there; here it must serve HTTP on the socket that $GATEWAY_SOCKET names, or on descriptor 3")
	http := NewBlock(app.from, "http")
	arguments, _ := app.get("arguments").texts()
	http.Set(app.from, "command", append([]string{app.get("executable").text()}, arguments...))
	entries(http, "env", app.get("environment"))
	p.Append(http)
	u.targets["applications/"+name] = unitTarget{pool: p.Labels()[0]}
}

// cleanRoot is a folder without the slash behind it.
func cleanRoot(path string) string {
	if path == "/" {
		return path
	}
	return strings.TrimSuffix(path, "/")
}
