package migrate

import (
	"cmp"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// apacheReader reads the configuration of a server, and .htaccess files. A directive is translated in the file of its subject, to which
// [apacheSite.directive] leads; what holds for the whole program, in [apacheReader.global]. apacheroutes.go writes what came together.
type apacheReader struct {
	*importer
	sites    []*apacheSite
	listen   []string                    // of the server
	limits   map[string]map[string]limit // of MPMs, by MPM and attribute; "": of whichever is used
	pools    map[string]string           // names of PHP's pools, by their settings
	formats  map[string]string           // of LogFormat
	told     map[Origin]bool             // what was left out once
	logs     []directive
	believed []directive // of mod_remoteip
	ofServer bool        // rewrites are a server's
	timeout  string      // of a request to PHP
}

// limit is a number of an MPM.
type limit struct {
	from Origin
	n    int
}

// mpmWords are the directives of the MPMs.
var mpmWords = map[string]string{
	"startservers": "start_servers", "minspareservers": "min_spare_servers", "maxspareservers": "max_spare_servers", "serverlimit": "server_limit",
	"maxrequestworkers": "max_request_workers", "maxclients": "max_request_workers", "maxconnectionsperchild": "max_requests_per_child",
	"maxrequestsperchild": "max_requests_per_child", "threadsperchild": "", "threadlimit": "", "minsparethreads": "", "maxsparethreads": "",
}

func isHtaccess(s source) bool {
	return strings.Contains(filepath.Base(s.name), "htaccess")
}

func isApache(s source) bool {
	lines, err := logicalLines(s)
	if err != nil || len(lines) == 0 || isHtaccess(s) || strings.HasPrefix(lines[0].Text, "[") || strings.HasPrefix(lines[0].Text, "{") {
		return false
	}
	return filepath.Ext(s.name) == ".conf" || slices.ContainsFunc(lines, func(d directive) bool {
		return d.name == "<virtualhost" || d.name == "<ifmodule" || d.name == "<directory" || d.name == "documentroot" || d.name == "rewriteengine"
	})
}

// apacheReader is the one reader: .htaccess files belong to the sites that a server's files tell of.
func (im *importer) apacheReader() *apacheReader {
	if im.apache == nil {
		im.apache = &apacheReader{
			importer: im, limits: map[string]map[string]limit{}, pools: map[string]string{}, told: map[Origin]bool{},
			formats: map[string]string{"common": "common", "combined": "combined"},
		}
	}
	return im.apache
}

// apacheServer reads the files of a server.
func (im *importer) apacheServer(sources []source) error {
	r := im.apacheReader()
	conf := newConfReader(im, sources[0].name)
	var all []directive
	for _, s := range sources {
		list, err := conf.read(s)
		if err != nil {
			return err
		}
		all = append(all, list...)
	}
	r.server(all)
	return nil
}

// server takes what stands outside of virtual hosts, which holds for each of them, and makes sites of these, or of the whole.
func (r *apacheReader) server(all []directive) {
	var hosts, outer []directive
	for _, d := range all {
		switch {
		case d.name == "<virtualhost":
			hosts = append(hosts, d)
		case !r.global(d):
			outer = append(outer, d)
		}
	}
	if hosts == nil {
		hosts = []directive{{Origin: cmp.Or(originOf(outer), originOf(all)), raw: strings.Join(r.listen, " ")}}
	} else { // a server's rules and its names are not those of its virtual hosts
		outer = slices.DeleteFunc(outer, func(d directive) bool {
			return strings.HasPrefix(d.name, "rewrite") || d.name == "servername" || d.name == "serveralias"
		})
	}
	logs := r.logs // of the hosts that have none
	r.logs = nil
	for _, host := range hosts {
		r.host(host, outer)
	}
	if r.logs == nil {
		r.logs = logs
	}
	for _, d := range r.logs {
		r.log(d)
	}
}

// host makes a site of a virtual host. Folders are told of when the root and the aliases that lead there are known, the outer ones first.
func (r *apacheReader) host(host directive, outer []directive) {
	s := r.newSite(host.Origin)
	all := slices.Concat(outer, host.inner)
	phase := func(d directive) int {
		switch {
		case d.name == "documentroot":
			return 0
		case strings.HasSuffix(d.name, "alias"):
			return 1
		case d.name == "<directory":
			return folders + len(d.arg(0))
		}
		return folders - 1
	}
	slices.SortStableFunc(all, func(a, b directive) int { return cmp.Compare(phase(a), phase(b)) })
	for _, d := range all {
		if r.ofServer = phase(d) < folders; !hostsToo[d.name] || !r.global(d) {
			s.read(s.scopes[0], []directive{d})
		}
	}
	r.ofServer = false
	s.addresses(host.words())
	r.sites = append(r.sites, s)
}

// folders is the first phase of what is told of folders.
const folders = 3

// hostsToo are directives for the whole program here that may stand in a virtual host.
var hostsToo = setOf("customlog transferlog logformat timeout")

func originOf(list []directive) Origin {
	if len(list) == 0 {
		return Origin{}
	}
	return list[0].Origin
}

// global takes what concerns the whole program, and reports whether it was such a thing.
func (r *apacheReader) global(d directive) bool {
	attr, isLimit := mpmWords[d.name]
	n, isNumber := natural(d.arg(0))
	switch {
	case isLimit && isNumber && attr != "":
		if r.limits[d.mpm] == nil {
			r.limits[d.mpm] = map[string]limit{}
		}
		r.limits[d.mpm][attr] = limit{d.Origin, n}
	case isLimit:
	case d.name == "listen":
		r.listen = append(r.listen, d.arg(0))
	case d.name == "user":
		r.Need(d.Origin, "gateway").Set(d.Origin, "user", d.arg(0))
	case d.name == "group": // the user has one
	case d.name == "timeout":
		r.timeout = secondsOf(d.arg(0))
	case d.name == "logformat" && len(d.words()) == 2:
		r.formats[d.arg(1)] = d.arg(0)
	case strings.HasPrefix(d.name, "remoteip"):
		r.believed = append(r.believed, d)
	case d.name == "customlog", d.name == "transferlog":
		r.logs = append(r.logs, d)
	default:
		return false
	}
	return true
}

// formatWord is a directive of a log's format that is not known here.
var formatWord = regexp.MustCompile(`%[<>]?(?:\{[^}]*\}[^isDTPxp]|\{(?:Referer|User-Agent|Host|us|ms|s|SSL_PROTOCOL)\}[^iTx]|[^<>{halutrmUqHsbBDTvP%])`)

// combined is the format of that name.
const combined = `%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"`

// log takes a CustomLog. There is one for all sites.
func (r *apacheReader) log(d directive) {
	file, format := d.arg(0), cmp.Or(d.arg(1), "common")
	if known, ok := r.formats[format]; ok {
		format = known
	}
	g := r.Need(d.Origin, "gateway")
	switch old := g.Find("access_log"); {
	case len(d.words()) > 2:
		g.Leave(d.Origin, "conditions have no counterpart")
	case strings.HasPrefix(file, "|"):
		g.Leave(d.Origin, "a log is a file: a program can read it, or standard output")
	case old != nil && old.setting("path").text != literal(file):
		g.Leave(d.Origin, "there is one access log for all sites, whose format can have their name (%%v)")
	case old == nil:
		log := g.Add(d.Origin, "access_log")
		log.Set(d.Origin, "path", file)
		format = strings.ReplaceAll(format, "%O", "%b") // the header is not counted here
		if formatWord.MatchString(format) {
			log.Leave(d.Origin, "the format has words that are not known here")
		} else if format != "combined" && format != combined {
			log.Set(d.Origin, "format", format)
		}
	}
}

// apacheFolders reads .htaccess files. Each belongs to the site in whose root it stands, or to one of its own.
func (im *importer) apacheFolders(sources []source) error {
	r := im.apacheReader()
	slices.SortStableFunc(sources, func(a, b source) int { return cmp.Compare(len(a.name), len(b.name)) })
	for _, s := range sources {
		list, err := newConfReader(im, s.name).read(s)
		if err != nil {
			return err
		}
		folder, err := filepath.Abs(filepath.Dir(s.name))
		if err != nil {
			return err
		}
		site, at := r.siteOf(folder, Origin{File: s.name, Line: 1})
		site.read(site.scope(at, Origin{File: s.name, Line: 1}), list)
	}
	return nil
}

// siteOf finds the site of a folder, and the path that leads there.
func (r *apacheReader) siteOf(folder string, from Origin) (s *apacheSite, at string) {
	for _, s := range r.sites {
		if below, ok := strings.CutPrefix(folder+"/", strings.TrimSuffix(s.root, "/")+"/"); ok && s.root != "" {
			return s, "/" + below
		}
	}
	for _, s := range r.sites {
		for _, m := range s.mounts {
			if url, ok := m.urlOf(folder); ok {
				return s, url
			}
		}
	}
	s = r.newSite(from)
	s.names, s.listen = []string{"localhost"}, []string{":80"}
	root := folder
	if r.root != "" {
		if abs, err := filepath.Abs(r.root); err == nil && (folder == abs || strings.HasPrefix(folder, abs+"/")) {
			root = abs
		}
	}
	s.setRoot(root)
	if r.root != "" && root == folder {
		root = r.root // it is elsewhere than the file
		s.setRoot(root)
		folder = root
	}
	r.sites = append(r.sites, s)
	below, _ := strings.CutPrefix(folder+"/", root+"/")
	return s, "/" + below
}

// write adds the sites to the document.
func (r *apacheReader) write() {
	for _, s := range r.sites {
		s.write()
		if sites := r.Blocks("site"); r.exceeds(sites[len(sites)-1].size()) {
			return
		}
	}
	r.writeLimits()
	r.writeBelieved()
}

// writeBelieved says whom mod_remoteip believes, if that goes by X-Forwarded-For: the word of a proxy that passes on whatever stands
// there would be its clients'.
func (r *apacheReader) writeBelieved() {
	var networks []string
	forwarded := slices.ContainsFunc(r.believed, func(d directive) bool {
		return d.name == "remoteipheader" && strings.EqualFold(d.arg(0), "X-Forwarded-For")
	})
	for _, d := range r.believed {
		g := r.Need(d.Origin, "gateway")
		isList := d.name == "remoteiptrustedproxy" || d.name == "remoteipinternalproxy"
		switch {
		case forwarded && d.name == "remoteipheader" && len(r.believed) > 1:
		case !forwarded || !isList:
			g.Leave(d.Origin, "clients are known by X-Forwarded-For, of those that trusted_proxies names, or by the word proxy_protocol in listen")
		default:
			for _, word := range d.words() {
				if network := networkOf(word); network != "" {
					networks = append(networks, network)
				} else {
					g.Leave(d.Origin, "%s is no address", word)
				}
			}
			if networks = distinct(networks); networks != nil {
				g.Set(d.Origin, "trusted_proxies", networks)
			}
		}
	}
}

// limitOrder is that in which people write them.
var limitOrder = []string{"start_servers", "min_spare_servers", "max_spare_servers", "server_limit", "max_request_workers", "max_requests_per_child"}

// writeLimits gives the pools the numbers of the MPMs: those of prefork are PHP's, which it was there for.
func (r *apacheReader) writeLimits() {
	for _, name := range r.pools {
		for _, attr := range limitOrder {
			for _, mpm := range []string{"", "prefork"} {
				if l, ok := r.limits[mpm][attr]; ok {
					r.Find("pool", name).Set(l.from, attr, l.n)
				}
			}
		}
	}
	for _, mpm := range []string{"event", "worker"} {
		if l, ok := r.limits[mpm]["max_request_workers"]; ok && r.event != "" {
			r.Find("pool", r.event).Set(l.from, "max_request_workers", l.n)
		}
	}
}
