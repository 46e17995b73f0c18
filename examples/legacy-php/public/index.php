<?php
require 'notes.inc.php';
session_start();
$_SESSION['visits'] = 1 + (isset($_SESSION['visits']) ? $_SESSION['visits'] : 0);
?>
<!DOCTYPE html>
<html>
<head>
  <title>Guest book</title>
  <link rel="stylesheet" href="/assets/style.css">
</head>
<body>
<h1>Guest book</h1>
<p>Your visit number <?= $_SESSION['visits'] ?>, answered by process <?= getmypid() ?>.</p>
<ul>
<?php foreach (notes_read() as $number => $note): ?>
  <li><a href="/note.php/<?= $number ?>"><?= html($note['author']) ?></a>: <?= html($note['text']) ?></li>
<?php endforeach ?>
</ul>
<form action="/add.php" method="post">
  <p><input name="author" placeholder="name"> <input name="text" placeholder="text"> <button>Add</button></p>
</form>
<form action="/upload.php" method="post" enctype="multipart/form-data">
  <p><input type="file" name="file"> <button>Measure</button></p>
</form>
</body>
</html>
