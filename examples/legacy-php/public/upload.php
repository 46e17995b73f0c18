<?php
header('Content-Type: text/plain; charset=utf-8');
if (!isset($_FILES['file']) || $_FILES['file']['error'] !== UPLOAD_ERR_OK) {
    http_response_code(400);
    exit("no file\n");
}
echo $_FILES['file']['name'], ': ', $_FILES['file']['size'], ' bytes, md5 ', md5_file($_FILES['file']['tmp_name']), "\n";
