package main

import (
	"bytes"
	"strings"
	"testing"

	"gateway/routes"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// tunedPools are two with children, which as they are configured want three quarters and one quarter of the memory.
func tunedPools() *routes.Config {
	return &routes.Config{Pools: []routes.Pool{
		{Name: "edge", MPM: routes.Event, MaxRequestWorkers: 400},
		{Name: "php", MPM: routes.Prefork, MaxRequestWorkers: 30, ThreadsPerChild: 1, PHP: &routes.PHP{}},
		{Name: "app", MPM: routes.Worker, WSGI: &routes.WSGI{}, MaxRequestWorkers: 50, ThreadsPerChild: 10, ServerLimit: 16},
	}}
}

func TestSizes(t *testing.T) {
	for name, row := range map[string]struct {
		m        measurement
		children map[string]int
	}{
		"one pool has all that is left": {
			measurement{machine: machine{10 * gib, 9 * gib}, pools: map[string]*sample{"php": {children: 3, sum: 200 * mib, largest: 128 * mib}}},
			map[string]int{"php": 64}, // 9 GiB - 1 GiB = 64 x 128 MiB
		},
		"several share as they are configured": {
			measurement{machine: machine{10 * gib, 9 * gib}, pools: map[string]*sample{"php": {children: 1, sum: 128 * mib, largest: 128 * mib}, "app": {children: 1, sum: 256 * mib, largest: 256 * mib}}},
			map[string]int{"php": 48, "app": 8}, // 3/4 of 8 GiB, 1/4 of 8 GiB
		},
		"children that run already are counted anew": {
			measurement{machine: machine{10 * gib, 8 * gib}, live: true, pools: map[string]*sample{"php": {children: 8, sum: gib, largest: 128 * mib}}},
			map[string]int{"php": 64},
		},
		"there is always one child": {
			measurement{machine: machine{10 * gib, gib / 2}, pools: map[string]*sample{"php": {children: 1, sum: gib, largest: gib}}},
			map[string]int{"php": 1},
		},
		"a pool without children gets nothing": {
			measurement{machine: machine{10 * gib, 9 * gib}, pools: map[string]*sample{"php": {}, "app": {children: 2, sum: 2 * gib, largest: gib}}},
			map[string]int{"app": 8},
		},
	} {
		t.Run(name, func(t *testing.T) {
			sizes := row.m.sizes(tunedPools())
			if len(sizes) != len(row.children) {
				t.Errorf("sizes() has %d pools, want %d", len(sizes), len(row.children))
			}
			for _, s := range sizes {
				if want := row.children[s.pool.Name]; s.children != want {
					t.Errorf("pool %s: %d children, want %d", s.pool.Name, s.children, want)
				}
			}
		})
	}
}

func TestTheArithmeticIsShown(t *testing.T) {
	m := measurement{machine: machine{10 * gib, 9 * gib}, pools: map[string]*sample{
		"php": {trouble: "child 7: exit status 1\x1b"},
		"app": {children: 2, requests: 90, sum: 2 * gib, largest: gib},
	}}
	var out bytes.Buffer
	if err := m.print(&out, tunedPools()); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"= for children    8.0 GiB", "/ 1.0 GiB", "= 8", "x 10", "= 80", "50\n",
		"pool \"app\" {\n  server_limit        = 8\n  threads_per_child   = 10\n  max_request_workers = 80\n}",
		`pool "php": "child 7: exit status 1\x1b"`,
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("print() lacks %q:\n%s", want, &out)
		}
	}
	if err := (&measurement{pools: map[string]*sample{"php": {trouble: "no such file"}}}).print(&out, tunedPools()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("print() without any child = %v, want the pool's trouble", err)
	}
}

func TestNoSizeIsProposedForWhatWasNotMeasured(t *testing.T) {
	served := &sample{children: 2, requests: 9, sum: 2 * mib, largest: mib}
	for name, row := range map[string]struct {
		pool   routes.Pool
		sample *sample
		block  bool
		says   string
	}{
		"PHP that has served":   {routes.Pool{PHP: &routes.PHP{}}, served, true, ""},
		"children that wait":    {routes.Pool{PHP: &routes.PHP{}}, &sample{children: 2, requests: 1, sum: mib, largest: mib}, false, "served next to nothing"},
		"the gateway itself":    {routes.Pool{}, served, false, "the gateway itself"},
		"all children at first": {routes.Pool{PHP: &routes.PHP{}, Spawn: routes.SpawnStatic}, served, true, "processors"},
		"a WSGI application":    {routes.Pool{WSGI: &routes.WSGI{}}, served, true, "processors"},
		"an HTTP application":   {routes.Pool{HTTP: &routes.HTTPApp{}}, served, true, "processors"},
	} {
		row.pool.Name, row.pool.MPM, row.pool.MaxRequestWorkers = "a", routes.Prefork, 4
		m := measurement{machine: machine{10 * gib, 9 * gib}, pools: map[string]*sample{"a": row.sample}}
		var out bytes.Buffer
		if err := m.print(&out, &routes.Config{Pools: []routes.Pool{row.pool}}); err != nil {
			t.Fatal(err)
		}
		_, advice, told := strings.Cut(out.String(), "pool \"a\": ")
		if strings.Contains(out.String(), "max_request_workers =") != row.block || told != (row.says != "") || !strings.Contains(advice, row.says) {
			t.Errorf("%s: print() proposes a size: want %t, and %q:\n%s", name, row.block, row.says, &out)
		}
	}
}

func TestATrialIsOutOfReach(t *testing.T) {
	c := tunedPools()
	c.Gateway.RuntimeDir, c.Gateway.AccessLog = "/run/gateway", &routes.AccessLog{Path: "-"}
	c.Sites = []routes.Site{{Listen: []routes.Listen{{Network: "tcp", Address: ":443", TLS: true}}, TLS: routes.TLS{Mode: "manual", Certificates: []routes.CertificateFiles{{Key: "/k"}}}}}
	got := trialConfig(c, "/tmp/t")
	if l := got.Sites[0].Listen; len(l) != 1 || l[0].Network != "unix" || got.Sites[0].TLS.Mode != "off" || got.Gateway.RuntimeDir != "/tmp/t/run" || got.Gateway.AccessLog != nil {
		t.Errorf("trialConfig() = %+v", got)
	}
	if p := got.Pools[2]; p.Spawn != routes.SpawnStatic || p.ServerLimit != trialChildren || p.MaxRequestWorkers != 10*trialChildren {
		t.Errorf("trialConfig() has pool %+v, want %d children that stay", p, trialChildren)
	}
	if c.Sites[0].Listen[0].Network != "tcp" || c.Pools[2].MaxRequestWorkers != 50 {
		t.Error("trialConfig() has changed the configuration it was given")
	}
}
