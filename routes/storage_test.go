package routes

import (
	"reflect"
	"slices"
	"testing"
	"time"
)

func TestStorageValues(t *testing.T) {
	t.Setenv("STORAGE_PASSWORD", "secret")
	rows := []struct {
		name  string
		block string
		want  Storage
	}{
		{"without a block it is the state_dir", "", Storage{}},
		{"a file storage without a path is the state_dir", `storage "file" {}`, Storage{}},
		{"a relative path begins in the file's folder", "storage \"file\" {\npath = \"shared\"\n}", Storage{Path: "/etc/gateway/shared"}},
		{
			"a server has defaults", "storage \"redis\" {\naddress = \"localhost:6379\"\n}",
			Storage{Redis: &Redis{Network: "tcp", Address: "localhost:6379", Prefix: "gateway", Timeout: 3 * time.Second}},
		},
		{
			"a server on this machine has a socket, and a password of the environment", "storage \"redis\" {\naddress = \"unix:run/s\"\npassword = env(\"STORAGE_PASSWORD\")\n}",
			Storage{Redis: &Redis{Network: "unix", Address: "/etc/gateway/run/s", Password: "secret", Prefix: "gateway", Timeout: 3 * time.Second}},
		},
		{
			"a server elsewhere has TLS and files",
			`storage "redis" {
  address       = "[2001:db8::1]:6380"
  username      = "gateway"
  password_file = "password"
  database      = 3
  prefix        = "{fleet}"
  timeout       = "1s"
  tls {
    ca_root     = "ca.crt"
    server_name = "redis.internal"
    certificate = "/c.crt"
    key         = "c.key"
  }
}`,
			Storage{Redis: &Redis{
				Network: "tcp", Address: "[2001:db8::1]:6380", Username: "gateway", PasswordFile: "/etc/gateway/password", Database: 3, Prefix: "{fleet}", Timeout: time.Second,
				TLS: &ClientTLS{CARoot: "/etc/gateway/ca.crt", ServerName: "redis.internal", Certificate: "/c.crt", Key: "/etc/gateway/c.key"},
			}},
		},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c, diags := Parse("/etc/gateway/site.hcl", []byte("gateway {\n"+row.block+"\n}\n"+siteWith(`"localhost"`, `[":80"]`, "", staticRoute)))
			if diags.Errors()+diags.Warnings() > 0 {
				t.Fatalf("%s", render(t, diags))
			}
			if !reflect.DeepEqual(c.Gateway.Storage, row.want) {
				t.Errorf("got %s, want %s", asJSON(t, c.Gateway.Storage), asJSON(t, row.want))
			}
		})
	}
}

// TestEveryStorageWordHasAnEngine holds the two lists of words together.
func TestEveryStorageWordHasAnEngine(t *testing.T) {
	var words, engines []string
	for _, a := range storageSchema.attrs {
		words = append(words, a.name)
	}
	for _, b := range storageSchema.blocks {
		words = append(words, b.name)
	}
	for _, taken := range storageEngines {
		engines = append(engines, taken...)
	}
	slices.Sort(words)
	slices.Sort(engines)
	if !slices.Equal(words, engines) {
		t.Errorf("the schema has %q, the engines take %q", words, engines)
	}
}
