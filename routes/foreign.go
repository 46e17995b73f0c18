package routes

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2"
)

// elsewhere are words of Apache and its modules, php-fpm, nginx and NGINX Unit, in snake_case, and what to write here for those whose own
// word is not near. docs/mpm.md and docs/tls.md have the tables.
var elsewhere = map[string]string{
	// php-fpm
	"pm":                        `spawn = "static", "demand" or "ondemand" in the pool`,
	"max_children":              "max_request_workers in the pool",
	"process_idle_timeout":      "idle_timeout in the pool",
	"max_requests":              "max_requests_per_child in the pool",
	"max_spawn_rate":            "nothing: 32 children a second are started, or as many as requests wait for",
	"status_path":               "nothing: `gateway status` tells it",
	"listen_backlog":            "queue { length } in the pool",
	"request_terminate_timeout": "request_timeout in the pool",
	"process_control_timeout":   "grace_period in the gateway block",
	"rlimit_files":              "rlimit { nofile } in the pool",
	"rlimit_core":               "rlimit { core } in the pool",
	"process_priority":          "nice in the pool",
	"chdir":                     "dir in the pool",
	"clear_env":                 "env_pass in the pool",
	"php_value":                 "php { ini } in the pool",
	"php_flag":                  "php { ini } in the pool",
	"php_admin_flag":            "php { ini } in the pool",
	"access_format":             "access_log { format } in the gateway block",
	"php_admin_value":           "php { ini } in the pool",

	// Apache, mpm-itk, mod_suexec and mod_wsgi
	"timeout":                   "request_timeout in the pool",
	"assign_user_id":            "user in the pool",
	"suexec_user_group":         "user in the pool",
	"r_limit_cpu":               "rlimit { cpu } in the pool",
	"r_limit_mem":               "rlimit { as } in the pool",
	"r_limit_nproc":             "rlimit { nproc } in the pool",
	"document_root":             "root in the site",
	"directory_index":           "index in the site",
	"maximum_requests":          "max_requests_per_child in the pool",
	"processes":                 "max_request_workers in the pool",
	"threads":                   "threads_per_child in the pool",
	"queue_timeout":             "queue { timeout } in the pool",
	"python_home":               "wsgi { python } in the pool",
	"graceful_shutdown_timeout": "grace_period in the gateway block",
	"inactivity_timeout":        `idle_timeout with spawn = "ondemand" in the pool`,
	"python_path":               "PYTHONPATH in wsgi { env } in the pool",
	"strip_path":                "strip_prefix in the route",
	"server_alias":              "one more name behind the word site",
	"custom_log":                "access_log in the gateway block",
	"log_format":                "access_log { format } in the gateway block",
	"limit_request_body":        "max_request_body in the site or route",
	"proxy_preserve_host":       "preserve_host in proxy",
	"proxy_pass_reverse":        "nothing: Location and cookies lead back by themselves",
	"ssl_proxy_verify":          "tls { verify } in proxy",
	"proxy_redirect":            "nothing: Location and cookies lead back by themselves",
	"proxy_ssl_name":            "tls { server_name } in proxy",
	"proxy_ssl_verify":          "tls { verify } in proxy",
	"proxy_read_timeout":        "response_timeout and idle_timeout in proxy",
	"proxy_connect_timeout":     "connect_timeout in proxy",
	"fastcgi_connect_timeout":   "connect_timeout in fastcgi",
	"fastcgi_read_timeout":      "request_timeout in the route",
	"grpc_pass":                 "proxy { to } with h2c:// or h2://",

	"proxy_ssl_trusted_certificate": "tls { ca } in proxy",
	"ssl_proxy_ca_certificate_file": "tls { ca } in proxy",
	"server_name":                   "the name behind the word site",
	"max_memory_per_child":          "max_child_memory in the pool",
	"rewrite_rule":                  "rewrite in the site or route",
	"rewrite_cond":                  "when { … } or not { … } in a rewrite",
	"rewrite_engine":                "nothing: rewrites are on where they stand",
	"rewrite_base":                  "nothing: a rewrite sees the whole path",
	"redirect_match":                "rewrite with a status in the site or route",
	"error_document":                "error_page in the site or route",
	"proxy_error_override":          "error_page { intercept } in the site or route",
	"proxy_intercept_errors":        "error_page { intercept } in the site or route",
	"fastcgi_intercept_errors":      "error_page { intercept } in the site or route",
	"auth_type":                     "auth_basic in the site or route",
	"auth_name":                     "auth_basic { realm } in the site or route",
	"auth_user_file":                "auth_basic { file } in the site or route",
	"require":                       "allow, deny or auth_basic in the site or route",
	"alias":                         "root and strip_prefix in the route",
	"alias_match":                   "root and strip_prefix in a route for each path",
	"script_alias":                  "cgi { root } in a route",
	"add_handler":                   `the pattern of a route: "*.php"`,
	"set_handler":                   `the pattern of a route: "*.php"`,
	"fallback_resource":             "try_files in a route",
	"options":                       "listing in static, and symlinks in the site or route",
	"expires_by_type":               "cache_by_suffix in static",
	"expires_default":               "cache_control in static",
	"header":                        "header { set } in the site or route",
	"redirect":                      "redirect in a route, or rewrite with a status in the site",
	"order":                         "allow and deny in the site or route: the one that is written first decides",

	// mod_fcgid
	"fcgid_max_processes":            "max_request_workers in the pool",
	"fcgid_max_processes_per_class":  "max_request_workers in the pool",
	"fcgid_min_processes_per_class":  "min_spare_servers in the pool",
	"fcgid_max_requests_per_process": "max_requests_per_child in the pool",
	"fcgid_idle_timeout":             `idle_timeout with spawn = "ondemand" in the pool`,
	"fcgid_idle_scan_interval":       `idle_timeout with spawn = "ondemand" in the pool`,
	"fcgid_process_life_time":        "max_child_age in the pool",
	"fcgid_busy_timeout":             "request_timeout in the pool",
	"fcgid_io_timeout":               "request_timeout in the pool",
	"fcgid_initial_env":              "env in the application's block",
	"fcgid_max_request_len":          "max_request_body in the site or route",
	"fcgid_wrapper":                  "fastcgi { command } in the pool",

	// TLS: mod_ssl, mod_md and nginx
	"ssl_engine":                 `the word tls behind an address in the site's listen; 443 needs none`,
	"ssl_certificate":            "certificate in the tls block of the site",
	"ssl_certificate_file":       "certificate in the tls block of the site",
	"ssl_certificate_key":        "key in the tls block of the site",
	"ssl_certificate_key_file":   "key in the tls block of the site",
	"ssl_certificate_chain_file": "certificate in the tls block of the site: one file, the intermediates behind the site's own",
	"ssl_protocol":               "min_version in the tls block",
	"ssl_protocols":              "min_version in the tls block",
	"protocols":                  "min_version in the tls block; HTTP/2 needs no word",
	"ssl_cipher_suite":           "nothing: only forward secret suites with authenticated encryption are spoken",
	"ssl_ciphers":                "nothing: only forward secret suites with authenticated encryption are spoken",
	"ciphers":                    "nothing: only forward secret suites with authenticated encryption are spoken",
	"sslca_certificate_file":     "client_auth { ca } in the tls block of the site",
	"ssl_client_certificate":     "client_auth { ca } in the tls block of the site",
	"ssl_verify_client":          "client_auth { mode } in the tls block of the site",
	"md_certificate_authority":   "ca in the tls block",
	"md_contact_email":           "email in the tls block",
	"md_private_keys":            "key_type in the tls block",
	"http2":                      "nothing: every address with TLS speaks it; without TLS, the word h2c behind an address in listen",

	// nginx
	"location":             "route in the site",
	"server":               "site",
	"proxy_pass":           "proxy { to } in a route, with strip_prefix for another path",
	"fastcgi_pass":         "fastcgi { to } in a route",
	"client_max_body_size": "max_request_body in the site or route",
	"add_header":           "header { set } in the site or route",
	"autoindex":            "listing in static",
	"expires":              "cache_control in static",
	"return":               "redirect or respond in a route",
	"limit_req":            "rate_limit in the site or route",
	"gzip":                 "compress in the site or route",
	"gzip_static":          "precompressed in static",
	"set_real_ip_from":     "trusted_proxies in the gateway block",

	// NGINX Unit
	"environment":       "env in the application's block",
	"working_directory": "dir in the pool",
	"callable":          `wsgi { module = "module:callable" } in the pool`,
	"factory":           `wsgi { module = "module:callable()" } in the pool`,
	"home":              "wsgi { python } in the pool",
}

// instead is a sentence that says what to write in place of an unknown word: the same one as it is spelt here, what another server's
// word is called here, in which block it means something, or else the nearest.
func instead(given string, spec *block) string {
	name := snakeCase(given)
	if a, ok := spec.attr(name); ok {
		return fmt.Sprintf(" Did you mean %q?", a.name)
	}
	if here, ok := elsewhere[name]; ok {
		return " Here that is " + here + "."
	}
	if homes := homesOf(schema, name); homes != nil {
		return fmt.Sprintf(" %q stands in %s.", name, alternatives(homes))
	}
	words := spec.words()
	if guess := didYouMean(name, words); guess != "" || len(words) > maxListed {
		return guess
	}
	return " It takes " + alternatives(words) + "."
}

// maxListed is how many words are still quickly read.
const maxListed = 12

// homesOf lists the blocks in which a word may stand.
func homesOf(b *block, name string) (homes []string) {
	_, isAttr := b.attr(name)
	_, isBlock := b.block(name)
	if b.name != "" && (isAttr || isBlock) {
		homes = []string{b.name}
	}
	for _, inner := range b.blocks {
		homes = append(homes, homesOf(inner, name)...)
	}
	slices.Sort(homes)
	return slices.Compact(homes)
}

// snakeCase spells Apache's MaxRequestWorkers and mod_wsgi's request-timeout as this configuration does.
func snakeCase(name string) string {
	var b strings.Builder
	runes := []rune(strings.ReplaceAll(name, "-", "_"))
	for i, c := range runes {
		if unicode.IsUpper(c) && i > 0 && runes[i-1] != '_' {
			afterLower := !unicode.IsUpper(runes[i-1])
			beforeLower := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if afterLower || beforeLower {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToLower(c))
	}
	return b.String()
}

// The lines that mistakes of syntax are told by: a word with something behind it, a value without quotes, and one with a brace behind it.
var (
	wordLine  = regexp.MustCompile(`^\s*<?([A-Za-z_][\w-]*)[ \t]+([^\s{]+)`)
	unquoted  = regexp.MustCompile(`^(?:[0-9]+|true|false)$`)
	bareLine  = regexp.MustCompile(`^\s*([a-z][a-z0-9_]*)\s*=\s*([\w./:$][^\s"\[\](){},]*?);?\s*$`)
	braceLine = regexp.MustCompile(`^[^{]*=[^{]*\}\s*$`)
)

// explainSyntax says of a syntax error what HCL's parser can't, which knows no word of a configuration.
func explainSyntax(d *hcl.Diagnostic, src []byte) {
	begin := min(d.Subject.Start.Byte, len(src))
	line := src[bytes.LastIndexByte(src[:begin], '\n')+1:]
	line, _, _ = bytes.Cut(line, []byte{'\n'})
	switch d.Summary {
	case "Invalid single-argument block definition", "Argument definition required":
		d.Detail = "A block on one line takes one attribute, and no block. Write each on a line of its own, and the closing brace behind them on another."
	case "Missing newline after argument", "Invalid expression", "Invalid character":
		if m := bareLine.FindSubmatch(line); m != nil && unquoted.Match(m[2]) {
			break // a semicolon, of which the parser tells
		} else if m != nil {
			d.Summary, d.Detail = "Missing quotes", fmt.Sprintf("A text stands in quotes: write %s = %q.", m[1], m[2])
		} else if braceLine.Match(line) {
			d.Detail = "The closing brace stands on a line of its own, unless the block is on one line."
		} else {
			explainWord(d, line)
		}
	case "Invalid multi-line string", "Unterminated template string":
		d.Detail = "The quote at the end of a text is missing, here or above."
	case "Argument or block definition required", "Invalid block definition":
		if bytes.HasPrefix(bytes.TrimSpace(line), []byte{'}'}) {
			d.Detail = "There is one closing brace too many, or the block that it closes has no opening one."
			return
		}
		explainWord(d, line)
	}
}

// explainWord says what is wrong with a line that is neither an attribute nor the beginning of a block.
func explainWord(d *hcl.Diagnostic, line []byte) {
	m := wordLine.FindSubmatch(line)
	if m == nil {
		return
	}
	word, next := string(m[1]), string(m[2])
	b, a := findWord(schema, word)
	switch here := elsewhere[snakeCase(word)]; {
	case b != nil && b.label != nil && !strings.HasPrefix(next, `"`):
		d.Summary, d.Detail = "Missing quotes", fmt.Sprintf("What stands behind %q is a text in quotes, and then a brace: write %s %q {.", word, word, next)
	case b != nil && b.label == nil:
		d.Detail = fmt.Sprintf("%q is a block: its attributes stand in braces behind it.", word)
	case a != nil && next != "=":
		d.Detail = fmt.Sprintf("%q is an attribute: an equals sign stands before its value.", word)
	case b == nil && a == nil && here != "":
		d.Summary, d.Detail = "Unknown word", fmt.Sprintf("%q is a word of another server. Here that is %s.", word, here)
	case b == nil && a == nil && homesOf(schema, snakeCase(word)) != nil:
		d.Summary, d.Detail = "Unknown word", fmt.Sprintf("%q is a word of another server. Here there is %q in %s.", word, snakeCase(word), alternatives(homesOf(schema, snakeCase(word))))
	}
}

// findWord is a block or an attribute of that name, wherever it stands.
func findWord(b *block, name string) (*block, *attr) {
	if found, ok := b.block(name); ok {
		return found, nil
	}
	if a, ok := b.attr(name); ok {
		return nil, a
	}
	for _, inner := range b.blocks {
		if found, a := findWord(inner, name); found != nil || a != nil {
			return found, a
		}
	}
	return nil, nil
}

// dotted matches a line that sets a value the way php-fpm's files do.
var dotted = regexp.MustCompile(`^\s*((?:pm|listen|process|security|request|ping)\.([a-z_]+))\s*=`)

// explainDotted says of a syntax error what is wrong with a word of php-fpm that has a dot.
func explainDotted(d *hcl.Diagnostic, src []byte) {
	line := src[bytes.LastIndexByte(src[:min(d.Subject.Start.Byte, len(src))], '\n')+1:]
	m := dotted.FindSubmatch(line)
	if m == nil {
		return
	}
	whole, name := string(m[1]), string(m[2])
	d.Summary, d.Detail = "Unknown attribute", fmt.Sprintf("%q is a word of php-fpm: no attribute has a dot.", whole)
	for _, candidate := range []string{snakeCase(strings.ReplaceAll(whole, ".", "_")), name} {
		if text := instead(candidate, poolSchema); text != "" {
			d.Detail += text
			return
		}
	}
}
