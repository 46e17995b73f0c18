<?php
require 'notes.inc.php';

// /note.php/3 is the note number 3.
$number = isset($_SERVER['PATH_INFO']) ? (int) substr($_SERVER['PATH_INFO'], 1) : -1;
$notes = notes_read();
if (!isset($notes[$number])) {
    http_response_code(404);
    exit('no such note');
}
header('Content-Type: text/plain; charset=utf-8');
echo $notes[$number]['author'], ': ', $notes[$number]['text'], "\n";
