package proxy

import (
	"errors"
	"net/http"
	"strings"

	"gateway/routes"
)

// admit reports whether address and password open the request's route to the client. If not, it has its answer.
func (s *Server) admit(w http.ResponseWriter, r *http.Request, x *exchange) bool {
	a := x.route.Access
	if a == nil {
		return true
	}
	near := a.Rules == nil || x.allowed(a.Rules)
	if a.Rules != nil && x.notes != nil {
		x.note("allow and deny: %s is %s", x.remoteIP(), map[bool]string{true: "allowed", false: "refused"}[near])
	}
	either := a.Any && a.Rules != nil
	switch {
	case a.Auth == nil && near, near && either:
		return true
	case !near && !either:
		s.fail(w, x, http.StatusForbidden, nil)
		return false
	}
	return s.authenticate(w, r, x, a.Auth)
}

// allowed reports what the first rule says that knows the client's address.
func (x *exchange) allowed(rules []routes.AccessRule) bool {
	lists := false // only who is listed may come
	for i := range rules {
		if rules[i].All || contains(rules[i].Networks, x.remoteAddr()) {
			return rules[i].Allow
		}
		lists = lists || rules[i].Allow
	}
	return !lists
}

// authenticate asks for a password until it is right.
func (s *Server) authenticate(w http.ResponseWriter, r *http.Request, x *exchange, auth *routes.AuthBasic) bool {
	u := s.passwords.files[auth.File].Load()
	if u == nil {
		s.warn("file of passwords could not be read: nobody gets in", x.uri, errors.New(auth.File))
		s.fail(w, x, http.StatusServiceUnavailable, nil)
		return false
	}
	name, password, given := r.BasicAuth()
	right, err := false, error(nil)
	if given {
		right, err = s.passwords.check(r.Context(), u, name, password)
	}
	if x.notes != nil {
		x.note("auth_basic: user %q: %t", name, right)
	}
	switch {
	case right:
		x.user = name
		return true
	case r.Context().Err() != nil:
		w.WriteHeader(statusClientGone)
	case err != nil:
		w.Header().Set("Retry-After", "1")
		s.fail(w, x, http.StatusServiceUnavailable, nil)
	default:
		w.Header().Set("Www-Authenticate", `Basic realm="`+auth.Realm+`", charset="UTF-8"`)
		s.fail(w, x, http.StatusUnauthorized, nil)
	}
	return false
}

// keyOf is what the requests of one client have in common for a limit.
func (v *facts) keyOf(t routes.Template) string {
	key := v.fill(t, func(name, value string, _ origin) string {
		if name == "remote_ip" {
			return v.x.client()
		}
		return value
	})
	if strings.TrimSpace(key) == "" {
		return v.x.client()
	}
	return key
}
