#!/bin/sh
# A CGI script (RFC 3875): one process for this request, started by a child of the pool "scripts".
printf 'Content-Type: application/json\r\n'
printf 'Cache-Control: no-store\r\n\r\n'
printf '{"pool":"scripts","mpm":"prefork","pid":%d,"child":%d,"says":"hello from a shell script"}\n' "$$" "$PPID"
