package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"gateway/routes"
)

// doubts are what a settled configuration may do and had better not. They concern users, which only root can choose.
func doubts(c *routes.Config) []string {
	if os.Geteuid() != 0 {
		return nil
	}
	return append(asRoot(c), keyReaders(c)...)
}

// asRoot lists who runs with all rights of the machine.
func asRoot(c *routes.Config) (found []string) {
	const text = "%s as root: every flaw of %s is one of the machine's. Name another user, best one that exists for it alone"
	if isRoot(c.Gateway.User) {
		found = append(found, fmt.Sprintf(text, `gateway { user }: the front runs, and so does each pool without a "user",`, "them"))
	}
	for i := range c.Pools {
		if p := &c.Pools[i]; isRoot(p.User) {
			found = append(found, fmt.Sprintf(text, fmt.Sprintf("pool %q runs", p.Name), "the application"))
		}
	}
	return found
}

func isRoot(name string) bool {
	credential, err := lookup(name)
	return err == nil && credential != nil && credential.UID == 0
}

// keyReaders says which pools' children run as the front's user while that user's state_dir holds a key.
func keyReaders(c *routes.Config) []string {
	if !keepsKeys(c) {
		return nil
	}
	var names []string
	for i := range c.Pools {
		if p := &c.Pools[i]; p.MPM != routes.Event && (p.User == "" || p.User == c.Gateway.User) {
			names = append(names, strconv.Quote(p.Name))
		}
	}
	if names == nil {
		return nil
	}
	return []string{fmt.Sprintf("children run as the front's user, %q, and can read the key of the internal CA: give a user of their own to these pools: %s",
		c.Gateway.User, strings.Join(names, ", "))}
}
