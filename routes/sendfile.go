package routes

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// sendFile reads what an application may have sent in place of its response. The folders' places are kept for [Config.CheckSystem] under
// the key of the route.
func (r *siteReader) sendFile(s *section, key string) *SendFile {
	send := &SendFile{Pool: get(s, "pool", ""), Routes: get(s, "routes", false)}
	for i, root := range get[[]string](s, "roots", nil) {
		at := s.elementAt("roots", i)
		if root = filepath.Clean(r.path(root, at)); !filepath.IsAbs(root) || root == "/" {
			r.errorf(at, "Wrong folder", "%q: a folder is needed below which all files may be sent, and not that of all files.", root)
		}
		send.Roots = append(send.Roots, root)
		r.ranges[folderKey(key, root)] = at
	}
	internal := get[map[string]string](s, "internal", nil)
	for _, prefix := range slices.Sorted(maps.Keys(internal)) {
		at := s.keyAt("internal", prefix)
		p, reason := parsePattern(strings.TrimSuffix(prefix, "/") + "/*")
		folder := filepath.Clean(r.path(internal[prefix], at))
		switch {
		case reason != "":
			r.errorf(at, "Wrong prefix", "%q: %s", prefix, reason)
		case !filepath.IsAbs(folder) || folder == "/":
			r.errorf(at, "Wrong folder", "%q: a folder is needed below which all files may be sent, and not that of all files.", internal[prefix])
		}
		send.Internal = append(send.Internal, Internal{Prefix: p.Text, Folder: folder})
		r.ranges[folderKey(key, folder)] = at
	}
	switch files := s.mentions("roots") || s.mentions("internal"); {
	case !files && !s.mentions("routes"):
		r.errorf(s.head, "Missing attribute", "\"send_file\" needs \"roots\", the folders for X-Sendfile; or \"internal\", the prefixes for X-Accel-Redirect with their folders; or \"routes\", for X-Accel-Redirect to any path of the site.")
	case files && !s.mentions("pool"):
		r.errorf(s.head, "Missing attribute", "\"send_file\" needs \"pool\", the pool that opens the files: one without application, best one with mpm = \"event\".")
	case !files:
		r.without(s, "pool", "the routes have pools of their own")
	}
	if pool := r.namedPool(s); pool != nil && pool.application != "" {
		r.errorf(s.at("pool"), "Unsuitable pool", "Pool %q runs %q. The files are sent by the gateway itself: name a pool without application, best one with mpm = \"event\".", pool.Name, pool.application)
	}
	return send
}
