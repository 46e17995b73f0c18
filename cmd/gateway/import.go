package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"gateway/routes/migrate"
)

// importFiles is the verb import, which is no name for a function.
func importFiles(args []string) error {
	flags := flag.NewFlagSet("import", flag.ContinueOnError)
	out := flags.String("o", "", "write to this `file`, not to standard output")
	force := flags.Bool("f", false, "replace the file of -o if it exists")
	root := flags.String("root", "", "the `folder` of the site, where what is imported names none")
	from := flags.String("from", "", fmt.Sprintf("the `kind` of the files, in place of what their names and contents tell: %s", migrate.KindList()))
	files, err := parse(flags, args, "FILE...")
	if err != nil {
		return err
	}
	kind := migrate.Kind(*from)
	if kind != "" && !slices.Contains(migrate.Kinds(), kind) {
		return usageError{fmt.Sprintf("import: -from %s: the kinds are %s", kind, migrate.KindList())}
	}
	doc, err := migrate.Import(migrate.Options{Kind: kind, Root: *root}, files...)
	if err != nil {
		return usageError{fmt.Sprintf("import: %v", err)}
	}
	if err := deliver(doc.Bytes(), *out, *force); err != nil {
		return err
	}
	return tell(doc.Notes())
}

// deliver writes to a file, or to standard output if it has no name.
func deliver(text []byte, name string, force bool) error {
	if name == "" {
		_, err := os.Stdout.Write(text)
		return err
	}
	mode := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		mode = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(name, mode, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return usageError{fmt.Sprintf("import: %s exists: -f replaces it", name)}
	} else if err != nil {
		return usageError{fmt.Sprintf("import: %v", err)}
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// tell lists what was left out. That is a failure, so that nobody takes the result for the whole.
func tell(notes []migrate.Note) error {
	if len(notes) == 0 {
		return nil
	}
	for _, n := range notes {
		fmt.Fprintln(os.Stderr, n)
	}
	return fmt.Errorf("import: left out: %s; each is a comment in the result", plural(len(notes), "setting"))
}
