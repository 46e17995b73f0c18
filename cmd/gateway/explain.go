package main

import (
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"gateway/proxy"
	"gateway/routes"
)

func explain(args []string) error {
	fs := flag.NewFlagSet("explain", flag.ContinueOnError)
	method := fs.String("method", http.MethodGet, "the `method` of the request")
	remote := fs.String("remote", "127.0.0.1", "the client's `address`")
	header := http.Header{}
	fs.Func("header", "a `field` of the request, \"Name: value\"; may stand several times", func(field string) error {
		name, value, ok := strings.Cut(field, ":")
		if !ok {
			return errors.New("write \"Name: value\"")
		}
		header.Add(name, strings.TrimSpace(value))
		return nil
	})
	files, err := parse(fs, args, "FILE", "URL")
	if err != nil {
		return err
	}
	q := proxy.Question{Method: *method, Header: header}
	if q.URL, err = url.Parse(files[1]); err != nil {
		return usageError{fmt.Sprintf("explain: %v", err)}
	}
	if q.Remote, err = netip.ParseAddr(*remote); err != nil {
		return usageError{fmt.Sprintf("explain: %v", err)}
	}
	c, err := read(files[0])
	if err != nil {
		return err
	}
	settle(c)
	return explainTo(c, q)
}

// explainTo writes to standard output, and what the log would have to standard error.
func explainTo(c *routes.Config, q proxy.Question) (err error) {
	s := proxy.NewServer(c, nil, newLogger(c.Gateway.Log, "explain"))
	defer func() { err = errors.Join(err, s.Close()) }()
	for _, path := range passwordPaths(c) {
		if text, err := readPasswords(path); err == nil { // else nobody gets in, which is told
			_, _ = s.SetPasswords(path, text) // check tells what is wrong with it
		}
	}
	return s.Explain(c, q, func(text string) { fmt.Println(text) })
}
