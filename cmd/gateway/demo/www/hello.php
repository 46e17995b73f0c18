<?php
// A PHP page: served by one of the php-cgi children of the pool "php", which serves nobody else meanwhile.
header('Content-Type: application/json');
header('Cache-Control: no-store');
usleep(20000);
echo json_encode(['pool' => 'php', 'mpm' => 'prefork', 'pid' => getmypid(), 'says' => 'hello from PHP ' . PHP_VERSION,
    'https' => isset($_SERVER['HTTPS']), 'memory' => memory_get_usage(true)]), "\n";
