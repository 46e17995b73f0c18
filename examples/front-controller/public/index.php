<?php
// The one entry: it finds out by itself what was asked for.
$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
header('Content-Type: text/plain; charset=utf-8');
printf("page %s\nscript %s\nquery %s\nuser %s\n", $path, $_SERVER['SCRIPT_NAME'], $_SERVER['QUERY_STRING'], $_SERVER['REMOTE_USER'] ?? '-');
