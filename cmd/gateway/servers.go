package main

import (
	"cmp"
	"context"
	"fmt"
	"net"

	"gateway/proxy"
	"gateway/routes"
	"gateway/tls"
)

// tlsRoute is a route with servers that speak TLS.
type tlsRoute struct {
	site, route int // their places in the configuration
	proxy       *routes.Proxy
}

// tlsRoutes are in the order of the configuration.
func tlsRoutes(c *routes.Config) (list []tlsRoute) {
	for i := range c.Sites {
		for j := range c.Sites[i].Routes {
			if p := c.Sites[i].Routes[j].Proxy; p != nil && p.SpeaksTLS() {
				list = append(list, tlsRoute{i, j, p})
			}
		}
	}
	return list
}

// readServers reads the files that the tls blocks of proxies name, as the supervisor's user, in the order of tlsRoutes.
func readServers(c *routes.Config) (all []tls.ClientFiles, err error) {
	for _, r := range tlsRoutes(c) {
		files, err := readClientFiles(&r.proxy.TLS)
		if err != nil {
			return nil, fmt.Errorf("route %s: tls: %w", c.Sites[r.site].Routes[r.route].Line, err)
		}
		all = append(all, files)
	}
	return all, nil
}

func readClientFiles(t *routes.ClientTLS) (files tls.ClientFiles, err error) {
	for _, f := range []struct {
		path string
		to   *[]byte
	}{{t.CARoot, &files.CARoots}, {t.Certificate, &files.Certificate}, {t.Key, &files.Key}} {
		if f.path == "" {
			continue
		}
		if *f.to, err = readFile(f.path); err != nil {
			return files, err
		}
	}
	return files, nil
}

// badServers lists the tls blocks of proxies that no handshake could use. A file that can't be read is reported elsewhere.
func badServers(c *routes.Config) (found []string) {
	for _, r := range tlsRoutes(c) {
		files, err := readClientFiles(&r.proxy.TLS)
		if err != nil {
			continue
		}
		if _, err := tls.NewClient(&r.proxy.TLS, files); err != nil {
			place := cmp.Or(c.PlaceOfServers(r.site, r.route, "ca"), c.PlaceOfServers(r.site, r.route, "certificate"))
			found = append(found, fmt.Sprintf("%sproxy: tls: %v", place, err))
		}
	}
	return found
}

// encryptTo returns how TLS is spoken to the servers of a configuration. files are those that readServers has read.
func encryptTo(c *routes.Config, files []tls.ClientFiles) (proxy.Encrypt, error) {
	clients := map[*routes.Proxy]*tls.Client{}
	for i, r := range tlsRoutes(c) {
		client, err := tls.NewClient(&r.proxy.TLS, files[i])
		if err != nil {
			return nil, fmt.Errorf("route %s: tls: %w", c.Sites[r.site].Routes[r.route].Line, err)
		}
		clients[r.proxy] = client
	}
	return func(ctx context.Context, p *routes.Proxy, to *routes.Upstream, nc net.Conn) (net.Conn, error) {
		return clients[p].Handshake(ctx, nc, to.Address, to.HTTP2)
	}, nil
}
