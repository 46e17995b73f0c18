package examples_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"gateway/internal/gatewaytest"
)

const (
	databaseUser     = "ada"
	databasePassword = "correct horse"
)

// startMariaDB runs a database server as the children's user until the test ends, and returns its socket. databaseUser may do everything there.
func startMariaDB(t *testing.T, e *example, databases ...string) (socket string) {
	t.Helper()
	needs(t, "/usr/sbin/mariadbd")
	tables, err := os.ReadFile("/usr/share/mysql/mysql_system_tables.sql")
	check(t, err)
	check(t, os.MkdirAll(e.path("mariadb/data"), 0o755))
	e.give(e.path("mariadb"))

	bootstrap := mariaDB(t, e, "--bootstrap")
	bootstrap.Stdin = strings.NewReader("CREATE DATABASE mysql;\nUSE mysql;\n" + string(tables))
	if out, err := bootstrap.CombinedOutput(); err != nil {
		t.Fatalf("mariadbd --bootstrap: %v\n%s", err, out)
	}
	first := fmt.Sprintf("CREATE USER '%[1]s'@'localhost' IDENTIFIED BY '%[2]s';\nGRANT ALL ON *.* TO '%[1]s'@'localhost' WITH GRANT OPTION;\n", databaseUser, databasePassword)
	for _, name := range databases {
		first += "CREATE DATABASE " + name + ";\n"
	}
	check(t, os.WriteFile(e.path("first.sql"), []byte(first), 0o644))
	server := mariaDB(t, e, "--init-file="+e.path("first.sql"))
	log, err := os.Create(e.path("mariadb.log"))
	check(t, err)
	defer log.Close() // the process has its own
	server.Stdout, server.Stderr = log, log
	check(t, server.Start())
	t.Cleanup(func() {
		check(t, server.Process.Signal(syscall.SIGTERM))
		if err := server.Wait(); err != nil {
			t.Errorf("mariadbd: %v", err)
		}
		if log, err := os.ReadFile(e.path("mariadb.log")); t.Failed() {
			t.Logf("MariaDB's log: %s %v", log, err)
		}
	})
	socket = e.path("mariadb/socket")
	check(t, gatewaytest.Wait(func() (bool, error) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return false, nil // not yet
		}
		return true, conn.Close()
	}))
	return socket
}

// mariaDB is a command with a small server's settings, and none of the machine's.
func mariaDB(t *testing.T, e *example, option string) *exec.Cmd {
	t.Helper()
	folder := e.path("mariadb")
	cmd := exec.Command("/usr/sbin/mariadbd", "--no-defaults", "--datadir="+folder+"/data", "--tmpdir="+folder, "--socket="+folder+"/socket", "--pid-file="+folder+"/pid",
		"--skip-networking", "--innodb-log-file-size=4M", "--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0", option)
	asChild(t, cmd)
	return cmd
}

// asChild has a command run as the user of the gateway's children.
func asChild(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt at the terminal ends the test, which then ends this
	if os.Geteuid() != 0 {
		return
	}
	user := childUser(t)
	uid, err := strconv.ParseUint(user.Uid, 10, 32)
	check(t, err)
	gid, err := strconv.ParseUint(user.Gid, 10, 32)
	check(t, err)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}
