package gatewaytest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Redis is a Redis server of a test. What it was told is still there after it was killed and started again.
type Redis struct {
	Address string // on the loopback interface
	Socket  string // unix

	folder string
	args   []string
	cmd    *exec.Cmd // nil: it does not run
}

// StartRedis starts a server with its files in folder; args are settings of redis.conf, as options. The caller must call Stop.
func StartRedis(folder string, args ...string) (*Redis, error) {
	address, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	// Not below folder: the path of a socket must be short.
	sockets, err := os.MkdirTemp("", "redis")
	if err != nil {
		return nil, err
	}
	r := &Redis{Address: address, Socket: filepath.Join(sockets, "s"), folder: folder}
	r.args = slices.Concat([]string{
		"--bind", "127.0.0.1", "--port", strings.TrimPrefix(address, "127.0.0.1:"), "--unixsocket", r.Socket, "--dir", folder,
		"--save", "", "--appendonly", "yes", "--logfile", filepath.Join(folder, "redis.log"),
	}, args)
	if err := r.Start(); err != nil {
		return nil, errors.Join(err, r.Stop())
	}
	return r, nil
}

// Start starts the server again, at the same address, and returns when it answers.
func (r *Redis) Start() error {
	r.cmd = exec.Command("redis-server", r.args...)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		r.cmd = nil
		return err
	}
	err := Wait(func() (bool, error) {
		answer, err := r.Do("PING")
		return err == nil && (answer == "PONG" || strings.HasPrefix(answer, "NOAUTH")), nil
	})
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(r.folder, "redis.log"))
		return fmt.Errorf("redis-server: %w\n%s", err, log)
	}
	return nil
}

// Do has the server carry out a command, and returns the answer as redis-cli prints it.
func (r *Redis) Do(command ...string) (string, error) {
	out, err := exec.Command("redis-cli", append([]string{"-s", r.Socket}, command...)...).Output()
	return strings.TrimSpace(string(out)), err
}

// Signal is for SIGSTOP, after which the server takes connections and does not answer, and SIGCONT.
func (r *Redis) Signal(s syscall.Signal) error { return r.cmd.Process.Signal(s) }

// Kill ends the server at once.
func (r *Redis) Kill() error {
	if r.cmd == nil {
		return nil
	}
	err := r.cmd.Process.Kill()
	_ = r.cmd.Wait() // it says that it was killed
	r.cmd = nil
	return err
}

// Stop is Kill, and removes what is not in the server's folder. It may be called again.
func (r *Redis) Stop() error { return errors.Join(r.Kill(), os.RemoveAll(filepath.Dir(r.Socket))) }
