package migrate

import (
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gateway/routes"
)

// fpmPool is a pool of php-fpm: one of children that share an OPcache.
type fpmPool struct {
	*Block
	php      *Block
	manager  string   // of its processes: pm
	children int      // at most; 0: not said
	listen   string   // where it has listened, as a route's fastcgi { to } has it; empty: unknown
	endings  []string // of the scripts that it runs
}

// name is the pool's name here.
func (p *fpmPool) name() string { return p.Labels()[0] }

// fpmWord is what becomes of one setting: an attribute, or a reason why there is none.
type fpmWord struct {
	name  string // of the attribute, perhaps behind a block's: "rlimit.nofile"
	value func(text string) (any, bool)
	left  string // there is no counterpart
	spare string // nothing is needed
}

// fpmGlobal are the settings of php-fpm as a whole.
var fpmGlobal = map[string]fpmWord{
	"log_level":                   {name: "log.level", value: fpmLevel},
	"process_control_timeout":     {name: "grace_period", value: fpmTime},
	"pid":                         {spare: "the admin socket in runtime_dir leads to the running gateway"},
	"error_log":                   {spare: "the gateway writes its log, with what children say, to standard error"},
	"daemonize":                   {spare: "the gateway stays in the foreground, as systemd and containers want it"},
	"log_limit":                   {spare: "lines are not cut at a length of one's own choice"},
	"log_buffering":               {spare: "the log is not buffered"},
	"events.mechanism":            {spare: "it is always epoll"},
	"systemd_interval":            {spare: "`gateway status` tells it"},
	"emergency_restart_threshold": {spare: "a pool whose children crash is held back and tried again, and the others go on"},
	"emergency_restart_interval":  {spare: "a pool whose children crash is held back and tried again, and the others go on"},
	"syslog.facility":             {left: "the log goes to standard error; systemd and containers take it from there"},
	"syslog.ident":                {left: "the log goes to standard error; systemd and containers take it from there"},
	"process.max":                 {left: "children are counted for each pool: its max_request_workers"},
	"process.priority":            {left: "each pool has its own: nice"},
	"rlimit_files":                {left: "each pool has its own: rlimit { nofile }"},
	"rlimit_core":                 {left: "each pool has its own: rlimit { core }"},
}

const (
	fpmPrivate   = "only the gateway connects to the children, on sockets of its own"
	fpmSlowlog   = "there are no traces of slow scripts; `gateway status` shows the requests that run, and for how long"
	fpmNoPing    = "ask `gateway status`, or write a route with respond { body = \"pong\" }"
	fpmNoStatus  = "`gateway status` tells it, on a socket that always answers"
	fpmLogFormat = "php-fpm's directives are not those of the access log here, which are Apache's: access_log { format } in the gateway block"
)

// fpmSettings are the settings of a pool that need nothing but another name.
var fpmSettings = map[string]fpmWord{
	"user":                      {name: "user", value: verbatim},
	"group":                     {name: "group", value: verbatim},
	"pm.max_requests":           {name: "max_requests_per_child", value: number},
	"request_terminate_timeout": {name: "request_timeout", value: fpmTime},
	"process.priority":          {name: "nice", value: number},
	"chdir":                     {name: "dir", value: verbatim},
	"listen.backlog":            {name: "queue.length", value: number},
	"rlimit_files":              {name: "rlimit.nofile", value: number},
	"rlimit_core":               {name: "rlimit.core", value: number},

	"listen.owner":                             {spare: fpmPrivate},
	"listen.group":                             {spare: fpmPrivate},
	"listen.mode":                              {spare: fpmPrivate},
	"listen.acl_users":                         {spare: fpmPrivate},
	"listen.acl_groups":                        {spare: fpmPrivate},
	"listen.allowed_clients":                   {spare: fpmPrivate},
	"listen.setfib":                            {spare: fpmPrivate},
	"pm.max_spawn_rate":                        {spare: "32 children a second are started, or as many as requests wait for"},
	"catch_workers_output":                     {spare: "what children write is always in the log"},
	"request_terminate_timeout_track_finished": {spare: "request_timeout holds for what follows fastcgi_finish_request(), too"},

	"decorate_workers_output":     {left: "what children write is in the log with their pool and pid"},
	"pm.status_path":              {left: fpmNoStatus},
	"pm.status_listen":            {left: fpmNoStatus},
	"ping.path":                   {left: fpmNoPing},
	"ping.response":               {left: fpmNoPing},
	"access.format":               {left: fpmLogFormat},
	"access.suppress_path":        {left: "the access log has all requests"},
	"slowlog":                     {left: fpmSlowlog},
	"request_slowlog_timeout":     {left: fpmSlowlog},
	"request_slowlog_trace_depth": {left: fpmSlowlog},
	"chroot":                      {left: "children see the whole file system; open_basedir in php { ini } keeps scripts in a folder"},
	"process.dumpable":            {left: "children that change their user can't be traced"},
	"apparmor_hat":                {left: "children run in the gateway's own AppArmor profile"},
	"prefix":                      {left: "relative paths begin in the folder of the configuration: make them absolute"},
}

// fpmManaged are the settings that mean something for some values of pm.
var fpmManaged = map[string]struct{ name, only string }{
	"pm.start_servers":        {"start_servers", "dynamic"},
	"pm.min_spare_servers":    {"min_spare_servers", "dynamic"},
	"pm.max_spare_servers":    {"max_spare_servers", "dynamic"},
	"pm.process_idle_timeout": {"idle_timeout", "ondemand"},
}

var fpmSpawn = map[string]string{"static": "static", "dynamic": "demand", "ondemand": "ondemand"}

func isFPM(s source) bool { return strings.HasPrefix(firstLine(s.text), "[") }

// fpm reads files of php-fpm. Of all of them together each section is one pool.
func (im *importer) fpm(sources []source) error {
	var list []iniSetting
	for _, s := range sources {
		found, err := im.fpmFile(s, 0)
		if err != nil {
			return err
		}
		list = append(list, found...)
	}
	managers := map[string]string{}
	for _, s := range list {
		if s.key == "pm" {
			managers[s.section] = s.value
		}
	}
	for _, s := range list {
		if s.section == "" || s.section == "global" {
			im.fpmWhole(s)
			continue
		}
		p := im.fpmPool(s)
		p.manager = managers[s.section]
		s.value = strings.ReplaceAll(s.value, "$pool", s.section)
		im.fpmSetting(p, s)
	}
	for _, p := range im.fpms {
		p.finish()
	}
	return nil
}

// maxIncludes is how deep files may include others: php-fpm's own bound.
const maxIncludes = 4

// fpmFile reads a file with those that it includes.
func (im *importer) fpmFile(s source, depth int) (all []iniSetting, err error) {
	list, err := readINI(s)
	if err != nil {
		return nil, err
	}
	for _, setting := range list {
		if setting.key != "include" {
			all = append(all, setting)
			continue
		}
		if depth == maxIncludes {
			return nil, errorAt(setting.from, "files include each other more than %d deep", maxIncludes)
		}
		included, err := im.fpmInclude(s, setting, depth+1)
		if err != nil {
			return nil, err
		}
		all = append(all, included...)
	}
	return all, nil
}

// fpmInclude reads the files of a pattern. As with php-fpm, there may be none.
func (im *importer) fpmInclude(s source, include iniSetting, depth int) (all []iniSetting, err error) {
	pattern := include.value
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(s.name), pattern)
	}
	names, err := im.glob(pattern)
	if err != nil {
		return nil, errorAt(include.from, "%v", err)
	}
	for _, name := range names {
		included, err := im.include(name)
		if err != nil {
			return nil, errorAt(include.from, "%v", err)
		}
		list, err := im.fpmFile(included, depth)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// fpmWhole reads a setting of the section [global].
func (im *importer) fpmWhole(s iniSetting) {
	gateway := im.Need(s.from, "gateway")
	if word, ok := fpmGlobal[s.key]; ok {
		word.write(gateway, s)
		return
	}
	gateway.Leave(s.from, "php-fpm has no such setting for the whole")
}

// phpVersion finds the version of PHP in the path of a file of Debian's php-fpm.
var phpVersion = regexp.MustCompile(`(^|/)etc/php/([0-9]+\.[0-9]+)/fpm/`)

// fpmPool is the pool of the section in which a setting stands.
func (im *importer) fpmPool(s iniSetting) *fpmPool {
	name := poolName(s.section)
	for _, p := range im.fpms {
		if p.name() == name {
			return p
		}
	}
	from := Origin{s.from.File, s.sectionLine, "[" + s.section + "]"}
	p := &fpmPool{Block: im.Add(from, "pool", im.free(name)), php: NewBlock(from, "php"), endings: []string{".php"}}
	p.Set(from, "mpm", "prefork")
	if m := phpVersion.FindStringSubmatch(s.from.File); m != nil {
		p.php.Set(from, "command", []string{"/usr/sbin/php-fpm" + m[2]})
	}
	im.fpms = append(im.fpms, p)
	return p
}

// notInPools are the characters that a pool's name can't hold.
var notInPools = regexp.MustCompile(`[^A-Za-z0-9_.-]`)

func poolName(text string) string {
	return notInPools.ReplaceAllString(strings.TrimLeft(text, ".-"), "_")
}

func (im *importer) fpmSetting(p *fpmPool, s iniSetting) {
	if strings.Contains(s.value, "${") {
		p.Leave(s.from, "the value comes from the environment of php-fpm")
		return
	}
	if word, ok := fpmSettings[s.key]; ok {
		word.write(p.Block, s)
		return
	}
	if managed, ok := fpmManaged[s.key]; ok {
		p.managed(s, managed.name, managed.only)
		return
	}
	switch s.key {
	case "listen":
		p.listen = fpmAddress(s.value)
		p.Spare(s.from, fpmPrivate)
	case "pm":
		p.processes(s)
	case "pm.max_children":
		p.children, _ = strconv.Atoi(s.value) // what is no number is told by write
		fpmWord{name: "max_request_workers", value: number}.write(p.Block, s)
	case "clear_env":
		if on, ok := boolean(s.value); !ok || !on {
			p.Leave(s.from, "children get the variables that env_pass names, not all that there are")
		}
	case "security.limit_extensions":
		p.limit(s)
	case "access.log":
		im.accessLog(s.from, s.value)
	case "env":
		p.env(s)
	case "php_value", "php_admin_value":
		p.php.Put(s.from, "ini", s.index, s.value)
	case "php_flag", "php_admin_flag":
		p.flag(s)
	default:
		p.Leave(s.from, "php-fpm has no such setting for a pool")
	}
}

// write puts a setting into a block, or says why not.
func (w fpmWord) write(b *Block, s iniSetting) {
	switch {
	case w.spare != "":
		b.Spare(s.from, "%s", w.spare)
		return
	case w.left != "":
		b.Leave(s.from, "%s", w.left)
		return
	}
	value, ok := w.value(s.value)
	if !ok {
		b.Leave(s.from, "this value has no counterpart")
		return
	}
	if block, name, ok := strings.Cut(w.name, "."); ok {
		b.Need(s.from, block).Set(s.from, name, value)
		return
	}
	b.Set(s.from, w.name, value)
}

// processes reads pm.
func (p *fpmPool) processes(s iniSetting) {
	spawn, ok := fpmSpawn[s.value]
	if !ok {
		p.Leave(s.from, "php-fpm knows static, dynamic and ondemand")
		return
	}
	p.Set(s.from, "spawn", spawn)
}

// managed reads a setting that php-fpm passes over unless pm has one value.
func (p *fpmPool) managed(s iniSetting, name, only string) {
	if p.manager != only {
		p.Spare(s.from, "it means something with pm = %s only", only)
		return
	}
	value := number
	if only == "ondemand" {
		value = fpmTime
	}
	fpmWord{name: name, value: value}.write(p.Block, s)
}

func (p *fpmPool) limit(s iniSetting) {
	endings := strings.Fields(s.value)
	if len(endings) == 0 {
		p.Leave(s.from, "only files whose paths routes name are scripts: *.php")
		return
	}
	p.endings = endings
	p.Spare(s.from, "the routes that name the pool say which files are scripts")
}

// env reads a variable; one with a dollar sign takes its value from php-fpm's own environment.
func (p *fpmPool) env(s iniSetting) {
	if outer, ok := strings.CutPrefix(s.value, "$"); ok {
		p.php.Put(s.from, "env", s.index, Expr("env("+literal(outer)+`, "")`))
		return
	}
	p.php.Put(s.from, "env", s.index, s.value)
}

func (p *fpmPool) flag(s iniSetting) {
	on, ok := boolean(s.value)
	if !ok {
		p.Leave(s.from, "a flag is on or off")
		return
	}
	value := "off"
	if on {
		value = "on"
	}
	p.php.Put(s.from, "ini", s.index, value)
}

// finish completes a pool once all of it was read.
func (p *fpmPool) finish() {
	if p.children <= routes.MaxForked {
		p.php.Set(p.from, "share_opcache", true)
	}
	p.Append(p.php)
}

// fpmAddress is an address of php-fpm as a route's fastcgi { to } has it.
func fpmAddress(text string) string {
	switch _, err := strconv.ParseUint(text, 10, 16); {
	case err == nil:
		return "127.0.0.1:" + text
	case strings.HasPrefix(text, "/"):
		return "unix:" + text
	}
	return text
}

// accessLog has the log of all sites written to a file.
func (im *importer) accessLog(from Origin, path string) {
	gateway := im.Need(from, "gateway")
	if gateway.Find("access_log") != nil {
		gateway.Leave(from, "there is one access log for all, with the pool of each request if its format has %%{pool}x")
		return
	}
	gateway.Add(from, "access_log").Set(from, "path", path)
}

func verbatim(text string) (any, bool) { return text, text != "" }

func number(text string) (any, bool) {
	n, err := strconv.Atoi(text)
	return n, err == nil
}

var fpmDuration = regexp.MustCompile(`^([0-9]{1,9})([smhd]?)$`)

// fpmTime reads seconds, or a number with one of the units s, m, h and d.
func fpmTime(text string) (any, bool) {
	m := fpmDuration.FindStringSubmatch(text)
	if m == nil {
		return nil, false
	}
	n, err := strconv.Atoi(m[1])
	switch m[2] {
	case "":
		return m[1] + "s", err == nil
	case "d":
		return strconv.Itoa(24*n) + "h", err == nil
	}
	return text, err == nil
}

var fpmLevels = map[string]string{"alert": "error", "error": "error", "warning": "warn", "notice": "info", "debug": "debug"}

func fpmLevel(text string) (any, bool) {
	level, ok := fpmLevels[text]
	return level, ok
}

// boolean reads a truth value of PHP's ini files.
func boolean(text string) (on, ok bool) {
	switch text = strings.ToLower(text); {
	case slices.Contains([]string{"1", "on", "yes", "true"}, text):
		return true, true
	case slices.Contains([]string{"", "0", "off", "no", "false", "none"}, text):
		return false, true
	}
	return false, false
}

// startingSites adds a site for each pool of php-fpm when nothing that was read says what is served.
func (im *importer) startingSites() {
	if len(im.Blocks("site")) > 0 {
		return
	}
	for _, p := range im.fpms {
		im.startingSite(p)
	}
}

func (im *importer) startingSite(p *fpmPool) {
	host, root := "localhost", im.root
	if len(im.fpms) > 1 {
		host = p.name() + ".localhost"
	}
	if root == "" {
		root = "/var/www/html"
	}
	site := im.Add(p.from, "site", host)
	site.Comment("A site to start from, for php-fpm's files name none: put its own names, addresses and folder here.")
	site.Set(p.from, "listen", []string{":80"})
	site.Set(p.from, "root", root)
	site.Set(p.from, "index", []string{"index.php", "index.html"})
	for _, ending := range p.endings {
		site.Add(p.from, "route", "*"+ending).Set(p.from, "pool", p.name())
	}
	files := site.Add(p.from, "route", "/*")
	files.Set(p.from, "pool", im.edge())
	files.Add(p.from, "static")
}
