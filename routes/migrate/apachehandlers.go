package migrate

import (
	"slices"
	"strings"
)

func isPHP(handler string) bool {
	handler = strings.ToLower(handler)
	return strings.Contains(handler, "php") && !strings.Contains(handler, "source")
}

// addType takes media types, and PHP, which is one in old files.
func (s *apacheSite) addType(c *scope, d directive) (reason string) {
	words := d.words()
	if len(words) < 2 {
		return "it names no ending"
	}
	for _, ending := range words[1:] {
		ending = "." + strings.TrimPrefix(ending, ".")
		switch {
		case isPHP(words[0]):
			s.scripts = append(s.scripts, ending)
		case strings.Contains(words[0], "/") && !strings.Contains(words[0], "x-httpd"):
			c.types[ending] = words[0]
			c.anything = true
		default:
			return "it has no counterpart"
		}
	}
	return ""
}

// handler takes programs for endings, or for a whole folder.
func (s *apacheSite) handler(c *scope, d directive) (reason string) {
	words := d.words()
	if len(words) == 0 {
		return "it names no handler"
	}
	name := words[0]
	switch removes := strings.HasPrefix(d.name, "remove"); {
	case removes, d.name == "sethandler" && slices.Contains([]string{"none", "default-handler", "default"}, strings.ToLower(name)):
		if !removes || slices.ContainsFunc(words, func(w string) bool { return strings.TrimPrefix(w, ".") == "php" }) {
			c.noPHP, c.anything = true, true
		}
		return ""
	case d.name == "sethandler" && strings.HasPrefix(name, "proxy:"):
		return "a FastCGI server has the files with certain endings here: put it into <FilesMatch>"
	case d.name == "sethandler":
		return "it has no counterpart for a whole folder"
	case strings.HasPrefix(name, "proxy:"):
		address, ok := fcgiAddress(strings.TrimPrefix(name, "proxy:"))
		if !ok {
			return "it is no address of a FastCGI server"
		}
		s.fastcgi = address
	case name == "type-map":
		return "" // no file says which others to send
	case !isPHP(name) && name != "cgi-script":
		return "it has no counterpart"
	}
	for _, ending := range words[1:] {
		ending = "." + strings.TrimPrefix(ending, ".")
		if name == "cgi-script" {
			s.cgi = append(s.cgi, ending)
		} else {
			s.scripts = append(s.scripts, ending)
		}
	}
	return ""
}

// phpSetting takes a setting of mod_php, which is one of the pool.
func (s *apacheSite) phpSetting(c *scope, d directive) (reason string) {
	name, value := d.arg(0), d.arg(1)
	switch {
	case name == "":
		return "it names no setting"
	case len(d.words()) < 2:
		return "it has no value"
	case name == "engine" && !strings.EqualFold(value, "on") && value != "1":
		c.noPHP, c.anything = true, true
		return ""
	case name == "engine":
		return ""
	case c.path != "/":
		return "settings of PHP are those of a pool: a folder with its own needs a pool of its own"
	case value == "none":
		value = ""
	}
	s.ini[name], s.envFrom = value, d.Origin
	return ""
}
