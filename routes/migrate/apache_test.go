package migrate

import (
	"slices"
	"strings"
	"testing"
)

func TestImportApache(t *testing.T) {
	rows := []struct {
		says string
		name string // ".htaccess" or "x.conf"
		text string
		want string // in the result
		left int
	}{
		{"a folder that is shut is refused by a rewrite", ".htaccess", "Options -Indexes\n<Files *.inc>\nDeny from all\n</Files>", `rewrite "[.]inc(/|$)" { status = 403 }`, 0},
		{"a setting of PHP without a value is left", ".htaccess", "php_value memory_limit\nphp_value auto_append_file \"\"", `ini = { auto_append_file = "" }`, 1},
		{"a site that is shut is denied", ".htaccess", "Require all denied", `deny = "all"`, 0},
		{"a requirement that is unknown shuts the site", ".htaccess", "Require ldap-group staff", `deny = "all"`, 1},
		{"a name of a user alone shuts the site", ".htaccess", "AuthType Basic\nAuthUserFile /x\nRequire user bob", `deny = "all"`, 1},
		{"digests shut the site", ".htaccess", "AuthType Digest\nAuthUserFile /x\nRequire valid-user", `deny = "all"`, 1},
		{"hosts by name shut the site", ".htaccess", "Order deny,allow\nDeny from all\nAllow from example.com", `deny = "all"`, 1},
		{"an expression that is unknown shuts the folder", ".htaccess", "<FilesMatch \"a(?=b)\">\nRequire all denied\n</FilesMatch>", `deny = "all"`, 1},
		{"a file with a password has it nowhere else", ".htaccess", "<Files wp-login.php>\nAuthType Basic\nAuthUserFile /x\nRequire valid-user\n</Files>", `rewrite "^/.+/wp-login[.]php(/|$)" { status = 403 } route "/wp-login.php" { pool = "php" auth_basic { file = "/x" } }`, 0},
		{"rewrites don't lead around a password", "x.conf", "DocumentRoot /srv\n<Directory /srv>\nFallbackResource /i.php\n</Directory>\n<Location /a>\nRequire ip 10\n</Location>", `rewrite "^/a(/|$)" { then = "last" } rewrite "" { to = "/i.php" then = "last" not { file = "{path}" folder = "{path}" } } route "/a/*.php" { allow = ["10.0.0.0/8"] pool = "php" rewrite "" { to = "/i.php"`, 0},
		{"a part of a proxy has a password", "x.conf", "<VirtualHost *:80>\nProxyPass / http://127.0.0.1:3000/\n<Location /a>\nRequire ip 10\n</Location>\n</VirtualHost>", `route "/a" { allow = ["10.0.0.0/8"] pool = "edge" proxy { to = ["http://127.0.0.1:3000"] preserve_host = false } }`, 0},
		{"who may use a proxy is for its paths", "x.conf", "DocumentRoot /srv\n<Proxy *>\nRequire ip 10\n</Proxy>", `deny = "all"`, 1},
		{"a part of a folder of CGI scripts is shut", "x.conf", "DocumentRoot /srv\nScriptAlias /cgi-bin /c\n<Location /cgi-bin/a>\nRequire ip 10\n</Location>", `rewrite "^/cgi-bin/a(/|$)" { status = 403 }`, 1},
		{"a condition that is unknown shuts what it is for", ".htaccess", "<If \"%{HTTP_HOST} == 'a'\">\nRequire all denied\n</If>", `deny = "all"`, 1},
		{"passwords for some methods shut what they are for", ".htaccess", "AuthType Basic\nAuthUserFile /x\n<Limit POST>\nRequire valid-user\n</Limit>", `deny = "all"`, 1},
		{"all of several requirements", ".htaccess", "AuthType Basic\nAuthUserFile /x\n<RequireAll>\nRequire valid-user\nRequire ip 10.1\n</RequireAll>", `allow = ["10.1.0.0/16"] auth_basic { file = "/x" }`, 0},
		{"one of several requirements", ".htaccess", "AuthType Basic\nAuthName \"My \\\"x\\\"\"\nAuthUserFile /x\nRequire valid-user\nRequire ip 10.0.0.0/255.0.0.0", `allow = ["10.0.0.0/8"] satisfy = "any" auth_basic { realm = "My 'x'" file = "/x" }`, 0},
		{"Satisfy joins both kinds", ".htaccess", "AuthType Basic\nAuthUserFile /x\nRequire valid-user\nOrder deny,allow\nDeny from all\nAllow from 192.0.2.1\nSatisfy any", `allow = ["192.0.2.1"] satisfy = "any"`, 0},
		{"all but some", ".htaccess", "<RequireAll>\nRequire all granted\nRequire not ip 192.0.2.0/24\n</RequireAll>", `deny = ["192.0.2.0/24"]`, 0},
		{"Allow wins over Deny only in part", ".htaccess", "Order deny,allow\nDeny from 10\nAllow from 10.1", `deny = "all"`, 1},
		{"Deny wins over Allow", ".htaccess", "Order allow,deny\nAllow from 10\nDeny from 10.1", `deny = ["10.1.0.0/16"] allow = ["10.0.0.0/8"]`, 0},
		{"what concerns a module that would be missing is left out silently", ".htaccess", "<IfModule !mod_rewrite.c>\nDeny from all\n</IfModule>\nDirectoryIndex a.html", `index = ["a.html"]`, 0},
		{"a version is that of Apache 2.4", ".htaccess", "<IfVersion < 2.4>\nDeny from all\n</IfVersion>\n<IfVersion >= 2.4>\nRequire ip ::1\n</IfVersion>", `allow = ["::1"]`, 0},
		{"a word that is unknown is a comment", ".htaccess", "Frobnicate yes", "# .htaccess:1: Frobnicate yes: it has no counterpart", 1},
		{"lines are continued", ".htaccess", "DirectoryIndex \\\n  a.html \\\n  b.html", `index = ["a.html", "b.html"]`, 0},
		{"a folder that is a file's goes on", ".htaccess", "FallbackResource /index.php", `rewrite "" { to = "/index.php" then = "last" not { file = "{path}" folder = "{path}" } }`, 0},
		{"braces of a header are no variables", ".htaccess", `Header set Report-To "{path}"`, `set = { Report-To = "{{path}" }`, 0},
		{"HCL's own templates stay texts", ".htaccess", `Header set X "${a} %%{b}"`, `set = { X = "$${{a} %%{{b}" }`, 0},
		{"a redirect to a host keeps its path", ".htaccess", "Redirect permanent / https://a.example", `rewrite "^/(.*)$" { to = "https://a.example/{1}" status = 301 }`, 0},
		{"a definition is used", "x.conf", "Define R /srv/a\nDocumentRoot ${R}/b", `root = "/srv/a/b"`, 0},
		{"what is not defined is told", "x.conf", "DocumentRoot /a\n<IfDefine SSL>\nListen 443\n</IfDefine>", `SSL is not defined in what was read`, 1},
		{"port 443 without TLS is told", "x.conf", "<VirtualHost *:443>\nDocumentRoot /a\n</VirtualHost>", `SSLEngine is not on`, 1},
		{"TLS elsewhere than on 443", "x.conf", "<VirtualHost *:8443>\nServerName a\nDocumentRoot /a\nSSLEngine on\nSSLCertificateFile /c\nSSLCertificateKeyFile /k\n</VirtualHost>", `listen = [":8443 tls"]`, 0},
		{"a proxy for all paths", "x.conf", "<VirtualHost *:80>\nProxyPass / http://127.0.0.1:3000/\n</VirtualHost>", `route "/*" { pool = "edge" proxy { to = ["http://127.0.0.1:3000"] preserve_host = false } }`, 0},
		{"a proxy that cuts its prefix", "x.conf", "<VirtualHost *:80>\nProxyPass /a/ http://127.0.0.1:3000/\n</VirtualHost>", `route "/a/*" { pool = "edge" strip_prefix = true proxy { to = ["http://127.0.0.1:3000"]`, 0},
		{"a proxy to another path", "x.conf", "<VirtualHost *:80>\nProxyPass /a http://127.0.0.1:3000/b\n</VirtualHost>", `route "/a/*" { pool = "edge" strip_prefix = true proxy { to = ["http://127.0.0.1:3000/b"]`, 0},
		{"a balancer with different paths", "x.conf", "<VirtualHost *:80>\n<Proxy balancer://c>\nBalancerMember http://h:1/a\nBalancerMember http://h:2/b\n</Proxy>\nProxyPass /a balancer://c\n</VirtualHost>", `strip_prefix = true proxy { to = ["http://h:1/a", "http://h:2/b"]`, 0},
		{"a part of a proxy to another path is shut", "x.conf", "<VirtualHost *:80>\nProxyPass /a http://127.0.0.1:3000/b\n<Location /a/c>\nRequire ip 10\n</Location>\n</VirtualHost>", `rewrite "^/a/c(/|$)" { status = 403 }`, 1},
		{"a part of a proxy that is not passed on", "x.conf", "DocumentRoot /srv\nProxyPass /static !\nProxyPass / unix:/run/a.sock|http://localhost/", `route "/static/*" { pool = "edge" static {} } route "/static" { pool = "edge" static {} } route "/*" { pool = "edge" proxy { to = ["unix:/run/a.sock"] preserve_host = false } }`, 0},
		{"the path of a location itself is in it", "x.conf", "ProxyPass /a http://127.0.0.1:3000/a\n<Location /a>\nRequire ip 10\n</Location>", `route "/a" { allow = ["10.0.0.0/8"] pool = "edge" proxy { to = ["http://127.0.0.1:3000"]`, 0},
		{"through a socket there is no base", "x.conf", "DocumentRoot /srv\nProxyPass /a unix:/run/a.sock|http://localhost/base/a", "this server wants /base before it", 1},
		{"a proxy that keeps the host in one part", "x.conf", "ProxyPass /a http://127.0.0.1:3000/a\nProxyPass /b http://127.0.0.1:3000/b\n<Location /a>\nProxyPreserveHost On\n</Location>", `route "/a/*" { pool = "edge" proxy { to = ["http://127.0.0.1:3000"] } } route "/b/*" { pool = "edge" proxy { to = ["http://127.0.0.1:3000"] preserve_host = false } }`, 0},
		{"a server behind a socket has its name", "x.conf", "ProxyPass / unix:/run/a.sock|http://app.internal/", `proxy { to = ["unix:/run/a.sock"] host = "app.internal" }`, 0},
		{"how long a server may take", "x.conf", "Timeout 300\nProxyTimeout 600\nProxyPass /a http://a/a timeout=30 connectiontimeout=500ms\nProxyPass /b http://a/b", `proxy { to = ["http://a"] preserve_host = false connect_timeout = "500ms" response_timeout = "30s" idle_timeout = "30s" } } route "/b/*" { pool = "edge" proxy { to = ["http://a"] preserve_host = false response_timeout = "600s" idle_timeout = "600s" }`, 0},
		{"without ProxyTimeout it is Timeout", "x.conf", "Timeout 300\nProxyPass / http://a/", `response_timeout = "300s" idle_timeout = "300s"`, 0},
		{"a server with TLS is checked", "x.conf", "SSLProxyEngine On\nProxyPreserveHost On\nProxyPass / https://a:8443/", `proxy { to = ["https://a:8443"] # x.conf:3: ProxyPass / https://a:8443/: Apache takes any certificate without SSLProxyVerify;`, 0},
		{"a server with TLS and its authority", "x.conf", "SSLProxyEngine On\nSSLProxyVerify require\nSSLProxyCACertificateFile /ca.pem\nSSLProxyMachineCertificateFile /me.pem\nProxyPass / wss://a/", `proxy { to = ["https://a"] preserve_host = false tls { ca = "/ca.pem" certificate = "/me.pem" key = "/me.pem" } }`, 0},
		{"a server that is not to be checked", "x.conf", "SSLProxyVerify none\nSSLProxyCACertificateFile /ca.pem\nSSLProxyCheckPeerName off\nProxyPass / h2://a/", `proxy { to = ["h2://a"] preserve_host = false tls { verify = false } }`, 0},
		{"a server whose name alone is not to be checked", "x.conf", "SSLProxyVerify require\nSSLProxyCheckPeerName off\nProxyPass / https://a/", `SSLProxyCheckPeerName off: a certificate is checked as a whole`, 1},
		{"TLS settings of servers that speak none", "x.conf", "SSLProxyVerify none\nProxyPass / h2c://a/", `proxy { to = ["h2c://a"] preserve_host = false }`, 0},
		{"the way back from another host than the server's is told", "x.conf", "ProxyPass / http://a/\nProxyPassReverse / http://a/\nProxyPassReverse / http://b/", "# x.conf:3: ProxyPassReverse / http://b/: what leads to another host", 1},
		{"pages in place of errors of servers", "x.conf", "ProxyErrorOverride On 502 503\nErrorDocument 404 /404.html\nErrorDocument 503 /503.html\nProxyPass / http://a/", `error_page "404" { path = "/404.html" } error_page "503" { path = "/503.html" intercept = true }`, 0},
		{"pages in place of errors of one server", "x.conf", "DocumentRoot /srv\nErrorDocument 404 /404.php\nProxyPass /a/ http://a/a/\n<Location /a>\nProxyErrorOverride On\n</Location>", `error_page "404" { path = "/404.php" } route "/a/*" { pool = "edge" error_page "404" { path = "/404.php" intercept = true } proxy {`, 0},
		{"pages in place of errors without pages", "x.conf", "ProxyErrorOverride On\nProxyPass / http://a/", "without a page of ErrorDocument what servers answer is passed on", 1},
		{"pages in place of errors beside PHP", "x.conf", "DocumentRoot /srv\nProxyErrorOverride On\nErrorDocument 404 /404.php\nProxyPass /a http://a/a", "it would concern what the site's own scripts answer", 1},
		{"files that scripts name", "x.conf", "DocumentRoot /srv/public\nAddHandler cgi-script .cgi\nXSendFile On\nXSendFilePath /srv/files/", `route "*.cgi" { pool = "scripts" cgi { root = "/srv/public" } send_file { pool = "edge" roots = ["/srv/public", "/srv/files"] } }`, 0},
		{"types of the folder around a folder are nearer than the site's", "x.conf", "DocumentRoot /srv\nAddType a/site .x\n<Directory /srv/a>\nAddType a/near .x\n</Directory>\n<Directory /srv/a/b>\nHeader set A b\n</Directory>", `route "/a/b/*" { pool = "edge" header { set = { A = "b" } } static { types = { ".x" = "a/near" } } }`, 0},
		{"files that scripts of one folder name", ".htaccess", "AddType application/x-httpd-php .php\n<Files a.php>\nRequire all granted\n</Files>\nXSendFile on", `route "*.php" { pool = "php" send_file { pool = "edge" roots = ["/srv/www"] } }`, 0},
		{"files that servers name", "x.conf", "ProxyPass /a http://a/a\n<Location /a>\nXSendFile On\nXSendFilePath /srv/files\n</Location>", `send_file { pool = "edge" roots = ["/srv/files"] }`, 0},
		{"a location that is a server's is so itself", "x.conf", "DocumentRoot /srv\n<Location /a>\nProxyPass http://a/a\nProxyPreserveHost On\nRequire ip 10\n</Location>", `route "/a/*" { allow = ["10.0.0.0/8"] pool = "edge" proxy { to = ["http://a"] } } route "/a" { allow = ["10.0.0.0/8"] pool = "edge" proxy { to = ["http://a"] } }`, 0},
		{"proxies that are believed", "x.conf", "RemoteIPHeader X-Forwarded-For\nRemoteIPInternalProxy 10.0.0.0/8\nRemoteIPTrustedProxy 192.0.2.1 10.0.0.0/8\nDocumentRoot /srv", `trusted_proxies = ["10.0.0.0/8", "192.0.2.1"]`, 0},
		{"proxies that are believed by their name", "x.conf", "RemoteIPHeader X-Forwarded-For\nRemoteIPTrustedProxy proxy.example\nDocumentRoot /srv", `proxy.example is no address`, 1},
		{"proxies that are believed what another field says", "x.conf", "RemoteIPHeader X-Real-IP\nRemoteIPTrustedProxy 10.0.0.0/8\nDocumentRoot /srv", `gateway { # x.conf:1: RemoteIPHeader X-Real-IP: clients are known by X-Forwarded-For`, 2},
		{"everybody who is believed", "x.conf", "RemoteIPHeader X-Forwarded-For\nDocumentRoot /srv", `of those that trusted_proxies names`, 1},
		{"server-side includes are told", ".htaccess", "AddOutputFilter INCLUDES;DEFLATE .shtml\nSetOutputFilter DEFLATE", `# .htaccess:1: AddOutputFilter INCLUDES;DEFLATE .shtml: it has no counterpart compress {}`, 1},
		{"slashes in the parts of a path", "x.conf", "DocumentRoot /srv\nAllowEncodedSlashes NoDecode", `encoded_slashes = true`, 0},
		{"php-fpm by ProxyPassMatch", "x.conf", "DocumentRoot /srv\nProxyPassMatch ^/(.*\\.php(/.*)?)$ fcgi://127.0.0.1:9000/srv/$1", `route "*.php" { pool = "fpm" fastcgi { to = "127.0.0.1:9000" } }`, 0},
		{"one CGI program", "x.conf", "DocumentRoot /srv\nScriptAlias /git /usr/lib/git-http.cgi", `route "/git/*" { pool = "scripts" cgi { script = "/usr/lib/git-http.cgi" } }`, 0},
		{"folders of a location need a password", "x.conf", "DocumentRoot /srv\n<Location /a>\nAuthType Basic\nAuthUserFile /x\nRequire valid-user\n</Location>", `route "/a" { pool = "edge" auth_basic { file = "/x" } static {} } route "/a/*" { pool = "edge" auth_basic { file = "/x" } static {} }`, 0},
		{"an alias with another name", "x.conf", "DocumentRoot /srv\nAlias /a /b", `route "/a/*" { root = "/b" strip_prefix = true pool = "edge" static {} }`, 0},
		{"a folder below an alias", "x.conf", "DocumentRoot /srv\nAlias /a /b\n<Directory /b/c>\nRequire ip 10\n</Directory>", `route "/a/c/*" { root = "/b/c" strip_prefix = true allow = ["10.0.0.0/8"]`, 0},
		{"scripts below an alias", "x.conf", "DocumentRoot /srv\nAlias /a /b\nAddType application/x-httpd-php .php\nAddHandler cgi-script .cgi", `route "/a/*.cgi" { root = "/b" strip_prefix = true pool = "scripts" cgi { root = "/b" } } route "/a/*.php" { root = "/b" strip_prefix = true pool = "php" }`, 0},
		{"an alias of one file", "x.conf", "DocumentRoot /srv\nAlias /robots.txt /etc/site/robots.txt", `route "/robots.txt" { root = "/etc/site" pool = "edge" static {} }`, 0},
		{"an alias of one file with another name is left", "x.conf", "DocumentRoot /srv\nAlias /robots.txt /etc/site/none.txt", "a single file has its own name here", 1},
		{"an expression that says an alias", "x.conf", "DocumentRoot /srv\nAliasMatch ^/a(/.*)?$ /b$1", `route "/a/*" { root = "/b" strip_prefix = true`, 0},
		{"such an expression behind a slash", "x.conf", "DocumentRoot /srv\nAliasMatch ^/v1\\.0/(.*)$ /b/$1", `route "/v1.0/*" { root = "/b" strip_prefix = true`, 0},
		{"another expression is left", "x.conf", "DocumentRoot /srv\nAliasMatch ^/a/([a-z]+)/(.*)$ /b/$1/$2", "an expression has no counterpart here", 1},
		{"an expression whose group begins in a name is left", "x.conf", "DocumentRoot /srv\nAliasMatch ^/a(.*)$ /b$1", "an expression has no counterpart here", 1},
	}
	for _, row := range rows {
		t.Run(row.says, func(t *testing.T) {
			doc, err := files{row.name: row.text}.read("", row.name)
			if err != nil {
				t.Fatal(err)
			}
			got := string(doc.Bytes())
			loads(t, doc.Bytes())
			if !strings.Contains(flat(got), row.want) {
				t.Errorf("import of %q has no %s:\n%s", row.text, row.want, got)
			}
			if left := len(doc.Notes()); left != row.left {
				t.Errorf("import of %q leaves out %d, want %d: %v", row.text, left, row.left, doc.Notes())
			}
		})
	}
}

func TestImportRewrites(t *testing.T) {
	rows := []struct{ says, text, want string }{
		{"of two alternatives one is negated", "RewriteCond %{HTTPS} off [OR]\nRewriteCond %{HTTP_HOST} !^www\\. [NC]\nRewriteRule ^ https://www.a.example%{REQUEST_URI} [R=301,L]",
			`rewrite "" { to = "https://www.a.example{path}" status = 301 when { scheme = "http" } } rewrite "" { to = "https://www.a.example{path}" status = 301 not { host = "^www[.]" } }`},
		{"alternatives that both are positive stay together", "RewriteCond %{REQUEST_METHOD} =PUT [OR]\nRewriteCond %{REMOTE_ADDR} ^10\\.1\\.\nRewriteRule ^ - [F]",
			`rewrite "" { status = 403 when { methods = ["PUT"] } when { remote_ip = ["10.1.0.0/16"] } }`},
		{"groups of a condition get names", "RewriteCond %{HTTP_HOST} ^(.+)\\.a\\.example$\nRewriteCond %{REQUEST_URI} !^/t/\nRewriteRule (.*) /t/%1/$1 [L]",
			`rewrite "^/(.*)" { to = "/t/{c1}/{1}" then = "last" when { host = "^(?<c1>.+)[.]a[.]example$" } not { path = "^/t/" } }`},
		{"rules without an end are followed by the next", "RewriteRule ^a$ b\nRewriteRule ^b$ c [L]", `rewrite "^/a$" { to = "/b" } rewrite "^/b$" { to = "/c" then = "last" }`},
		{"rules that meet their own path again restart", "RewriteRule ^(.*)_(.*)$ $1-$2 [L]\nRewriteRule ^x(.*) y_$1 [L]", `rewrite "^/x(.*)" { to = "/y_{1}" then = "restart" }`},
		{"a negated pattern", "RewriteRule !^(css|js)/ /index.php [L]", `rewrite "" { to = "/index.php" then = "last" not { path = "^/(css|js)/" } }`},
		{"a lookahead at the beginning", "RewriteRule ^(?!index\\.php)(.*)$ index.php?q=$1 [L]", `rewrite "^/(.*)$" { to = "/index.php?q={1}" then = "last" not { path = "^/index[.]php" } }`},
		{"a cached page is a file", "RewriteCond %{DOCUMENT_ROOT}/cache/$1.html -f\nRewriteRule ^(.*)$ /cache/$1.html [L]", `file = "/cache/{1}.html"`},
		{"the query is compared and dropped", "RewriteCond %{QUERY_STRING} (^|&)id=([0-9]+)\nRewriteRule ^p$ /post/%2? [R=301,L]",
			`rewrite "^/p$" { to = "/post/{c2}?" status = 301 when { query = "(?<c1>^|&)id=(?<c2>[0-9]+)" } }`},
		{"the request line is that of the first round", "RewriteCond %{THE_REQUEST} ^[A-Z]{3,9}\\ /index\\.php\\ HTTP/\nRewriteRule ^ / [R=301,L]", `rewrite "^/index[.]php$" { to = "/" status = 301 }`},
		{"bots", "RewriteCond %{HTTP_USER_AGENT} (bad|worse) [NC]\nRewriteRule .* - [F,L]", `rewrite "" { status = 403 when { header = { User-Agent = "(?i)(bad|worse)" } } }`},
		{"a password needs no rule", "RewriteCond %{HTTP:Authorization} ^(.*)\nRewriteRule .* - [e=HTTP_AUTHORIZATION:%1]\nRewriteRule ^a$ /b [END]", `root = "/srv/www" rewrite "^/a$" { to = "/b" then = "end" }`},
		{"rules that are off are not asked", "RewriteEngine Off\nRewriteRule ^a$ /b\nDirectoryIndex x.html", `index = ["x.html"] route "/*"`},
		{"rules that a rule skips are left out with it", "RewriteRule ^a$ - [S=1]\nRewriteRule ^b$ /c [L]\nRewriteRule ^d$ /e [L]", `RewriteRule ^b$ /c [L]: it depends on a rule that was left out rewrite "^/d$"`},
		{"what is left out takes its conditions along", "RewriteCond %{HTTPS} on\nRewriteRule ^a$ - [T=text/plain]", `has no counterpart in a rewrite; so these are left, too: RewriteCond %{HTTPS} on`},
	}
	for _, row := range rows {
		t.Run(row.says, func(t *testing.T) {
			doc, err := files{".htaccess": "RewriteEngine On\n" + row.text}.read("", ".htaccess")
			if err != nil {
				t.Fatal(err)
			}
			loads(t, doc.Bytes())
			if got := flat(string(doc.Bytes())); !strings.Contains(got, row.want) {
				t.Errorf("import of %q has no %s:\n%s", row.text, row.want, doc.Bytes())
			}
		})
	}
}

func TestImportApacheFaults(t *testing.T) {
	rows := []struct{ says, text, want string }{
		{"a section without an end", "a\n<IfModule x>\nb", ".htaccess:2: <IfModule x> is not closed"},
		{"an end without a section", "</IfModule>", ".htaccess:1: </IfModule> has no beginning"},
		{"the end of another section", "<Files a>\n<Limit GET>\n</Files>", ".htaccess:3: </Files>, but <Limit GET> in line 2 is not closed yet"},
		{"sections without number", strings.Repeat("<IfModule x>\n", 20), ".htaccess:17: more than 16 sections stand within each other"},
		{"a line without end", "a\n" + strings.Repeat("x", maxLine+1), ".htaccess:2: the line is longer than 65536 bytes"},
		{"a continued line without end", strings.Repeat("a\\\n", maxLine), ".htaccess:1: the line is longer than 65536 bytes"},
		{"a line that grows without end", "Define A " + strings.Repeat("x", maxLine/2) + "\n# B\nHeader set B ${A}${A}${A}", ".htaccess:3: with its variables the line is longer than 65536 bytes"},
		{"a value that holds itself", "Define A xxxxxxxx\n" + strings.Repeat("Define A ${A}${A}${A}${A}\n", 8), ".htaccess:8: with its variables the line is longer than 65536 bytes"},
		{"files that are included without end", strings.Repeat("Include /a/empty.conf\n", maxIncluded+1), ".htaccess:1001: more than 1000 files are included"},
		{"a binary file", "RewriteEngine\x00", ".htaccess:1: it is a binary file"},
		{"a circle of includes", "Include /a/loop.conf", "/a/loop.conf:1: includes go in circles, or too deep: .htaccess -> /a/loop.conf -> /a/loop.conf"},
		{"a pattern of files that is none", "Include /a/[", ".htaccess:1: /a/[ is no pattern of files"},
	}
	for _, row := range rows {
		t.Run(row.says, func(t *testing.T) {
			_, err := files{".htaccess": row.text, "/a/loop.conf": "Include /a/loop.conf", "/a/empty.conf": ""}.read("", ".htaccess")
			if err == nil || err.Error() != row.want {
				t.Errorf("import fails with %v, want %s", err, row.want)
			}
		})
	}
}

func TestImportIncludes(t *testing.T) {
	f := files{
		"/etc/a/main.conf":     "Define D /srv/x\nInclude sites/*.conf\nIncludeOptional none/*.conf\nInclude gone.conf",
		"/etc/a/sites/b.conf":  "<VirtualHost *:80>\nServerName b.example\nDocumentRoot ${D}\n</VirtualHost>",
		"/srv/x/sub/.htaccess": "Require all denied",
	}
	doc, err := f.read("", "/etc/a/main.conf", "/srv/x/sub/.htaccess")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`site "b.example" { listen = [":80"] root = "/srv/x"`, `rewrite "^/sub(/|$)" { status = 403 }`, "/etc/a/gone.conf is not there"}
	for _, w := range want {
		if !strings.Contains(flat(string(doc.Bytes())), w) {
			t.Errorf("import has no %s:\n%s", w, doc.Bytes())
		}
	}
}

func TestTranslate(t *testing.T) {
	rows := []struct {
		says    string
		subject subject
		text    string
		want    []pattern
	}{
		{"of a server it is the whole path", subject{}, `^/a\.b/`, []pattern{{text: "^/a[.]b/"}}},
		{"of a folder it begins there", subject{folder: "/x/"}, `^a|^b`, []pattern{{text: "^/x/a|^/x/b"}}},
		{"a dot is no slash of the folder", subject{folder: "/"}, `.`, []pattern{{text: "^/."}}},
		{"an ending needs no beginning", subject{folder: "/"}, `\.bak$`, []pattern{{text: "[.]bak$"}}},
		{"a name is behind a slash", subject{name: true}, `^(README|x\.y)$`, []pattern{{text: "/(README|x[.]y)(/|$)"}}},
		{"the end of a name", subject{name: true}, `.+\.ini$`, []pattern{{text: "[.]ini(/|$)"}}},
		{"a lookahead within alternatives", subject{folder: "/"}, `/\.|^\.(?!well-known/)`, []pattern{{text: "^/.*?/[.]"}, {text: "^/[.]", not: []string{"^/[.]well-known/"}}}},
		{"a lookahead in a group", subject{folder: "/"}, `^(?:\.(?!a|b)|c)`, []pattern{{text: "^/(?:[.]|c)", not: []string{"^/[.](?:a|b)"}}}},
		{"letters of both cases", subject{fold: true}, `^/a$`, []pattern{{text: "(?i)^/a$"}}},
		{"a class stays", subject{}, `[^\/\.\]-]+[[:alpha:]|]`, []pattern{{text: `[^/.\]-]+[[:alpha:]|]`}}},
	}
	for _, row := range rows {
		t.Run(row.says, func(t *testing.T) {
			got, reason := row.subject.translate(row.text)
			if reason != "" || !slices.EqualFunc(got, row.want, func(a, b pattern) bool { return a.text == b.text && slices.Equal(a.not, b.not) }) {
				t.Errorf("translate(%q) = %q, %q; want %q", row.text, got, reason, row.want)
			}
		})
	}
}

func TestEndings(t *testing.T) {
	rows := []struct {
		text string
		want []string
	}{
		{`\.php$`, []string{".php"}},
		{`.+\.ph(?:ar|p|tml)$`, []string{".phar", ".php", ".phtml"}},
		{`^.*\.jpe?g$`, []string{".jpeg", ".jpg"}},
		{`\.(woff2?|[co]ss)$`, []string{".css", ".oss", ".woff", ".woff2"}},
		{`^a\.php$`, nil},
		{`\.php`, nil},
		{`\.[a-z]+$`, nil},
		{`(`, nil},
	}
	for _, row := range rows {
		if got := endings(row.text); !slices.Equal(got, row.want) {
			t.Errorf("endings(%q) = %q, want %q", row.text, got, row.want)
		}
	}
}

// FuzzApache: whatever stands in a file, the result loads.
func FuzzApache(f *testing.F) {
	for _, text := range []string{
		"RewriteEngine On\nRewriteCond %{HTTP_HOST} ^(.*)$ [OR]\nRewriteRule ^(?!a)b$ /%1?$1 [L,QSA]", "<Files ~ \"^a|b$\">\nDeny from all\n</Files>",
		"<VirtualHost *:443>\nSSLEngine on\nSSLCertificateFile /a\nDocumentRoot /b\nAlias /c /d/c\n<Directory /b/e>\nRequire ip 10\n</Directory>\nProxyPass /x http://y/x\n</VirtualHost>",
		"Header set A \"{path} %%\"\nErrorDocument 404 /x?{a}\nRedirect 301 /a /b\nExpiresByType text/css A5\nphp_value a b\nSetEnv A b\nAddType a/b .c\nOptions All",
	} {
		f.Add(text, false)
		f.Add(text, true)
	}
	f.Fuzz(func(t *testing.T, text string, server bool) {
		kind, name := Htaccess, "/srv/www/.htaccess"
		if server {
			kind, name = Apache, "/etc/x.conf"
		}
		text = strings.ToValidUTF8(text, "\uFFFD")
		doc, err := files{name: text}.read(kind, name)
		if err == nil {
			loads(t, doc.Bytes())
		}
	})
}
