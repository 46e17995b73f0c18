package tls

// providers are the DNS providers of this build, by the names that a configuration has for them. There are none in the program
// as it is distributed. To add one, import its libdns package here, add a line, and build:
//
//	"cloudflare": func() certmagic.DNSProvider { return new(cloudflare.Provider) },
func providers() map[string]provider { return map[string]provider{} }
