<?php
// One note a line: its author and its text, as JSON.

function notes_file() { return getenv('NOTES'); }

function notes_read() {
    $lines = is_file(notes_file()) ? file(notes_file(), FILE_IGNORE_NEW_LINES) : array();
    return array_map(function ($line) { return json_decode($line, true); }, $lines);
}

function notes_add($author, $text) {
    $line = json_encode(array('author' => $author, 'text' => $text)) . "\n";
    return file_put_contents(notes_file(), $line, FILE_APPEND | LOCK_EX) !== false;
}

function html($text) { return htmlspecialchars($text, ENT_QUOTES, 'UTF-8'); }
