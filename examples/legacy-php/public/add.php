<?php
require 'notes.inc.php';

if ($_SERVER['REQUEST_METHOD'] !== 'POST' || empty($_POST['author']) || empty($_POST['text'])) {
    http_response_code(400);
    exit('a name and a text, please');
}
if (!notes_add($_POST['author'], $_POST['text'])) {
    http_response_code(500);
    exit('the note could not be kept');
}
header('Location: /', true, 303);
