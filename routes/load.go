package routes

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// MaxSourceBytes is the largest configuration file that is read.
const MaxSourceBytes = 1 << 20

// HCL's parser recurses at each bracket within brackets and at each operator of a chain, and a stack overflow can't be caught.
const (
	maxNesting   = 64    // brackets within each other
	maxOperators = 10000 // in one file; a configuration needs hardly any
)

// file is one configuration file as read.
type file struct {
	name string
	src  []byte
}

// Load reads a configuration: a file, or a folder whose *.hcl are read in name order as if they were one file. The Config is
// nil when the diagnostics have errors.
func Load(path string) (*Config, Diagnostics) {
	files, err := readFiles(path)
	if err != nil {
		return nil, Diagnostics{list: hcl.Diagnostics{newDiagnostic(hcl.DiagError, hcl.Range{}, "Configuration not readable", "%v.", err)}}
	}
	return parse(files)
}

// Parse reads a configuration from memory. The name stands for the file in messages, and relative paths begin in its folder.
func Parse(name string, src []byte) (*Config, Diagnostics) {
	return parse([]file{{name, src}})
}

func readFiles(path string) ([]file, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	names := []string{path}
	if info.IsDir() {
		if names, err = hclFiles(path); err != nil {
			return nil, err
		}
	}
	files := make([]file, 0, len(names))
	for _, name := range names {
		src, err := readFile(name)
		if err != nil {
			return nil, err
		}
		files = append(files, file{name, src})
	}
	return files, nil
}

// hclFiles lists a folder's configuration files in name order. Hidden ones are an editor's.
func hclFiles(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() && filepath.Ext(e.Name()) == ".hcl" && e.Name()[0] != '.' {
			names = append(names, filepath.Join(folder, e.Name()))
		}
	}
	if names == nil {
		return nil, fmt.Errorf("%s: no file there ends in .hcl", folder)
	}
	return names, nil
}

// readFile reads one file up to one byte above the limit, by which its callers know that it is too big.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	src, err := io.ReadAll(io.LimitReader(f, MaxSourceBytes+1))
	return src, errors.Join(err, f.Close())
}

func parse(files []file) (*Config, Diagnostics) {
	r := &reader{
		context: &hcl.EvalContext{Variables: map[string]cty.Value{localWord: cty.EmptyObjectVal}},
		folders: map[string]string{},
		ranges:  map[string]hcl.Range{},
	}
	sources := map[string]*hcl.File{}
	body := &hclsyntax.Body{Attributes: hclsyntax.Attributes{}}
	usable := true
	for _, f := range files {
		usable = r.parseFile(f, sources, body) && usable
	}
	var config *Config
	if usable {
		r.context.Functions = functions(r.folders[files[0].name]) // all files are of one folder
		r.locals(body)
		config = r.config(r.section(schema, body, hcl.Range{}))
	}
	diags := Diagnostics{list: sorted(r.diags), files: sources}
	if diags.HasErrors() {
		return nil, diags
	}
	config.source = source{files: sources, ranges: r.ranges}
	return config, diags
}

// parseFile adds one file's content to body. It reports false when the syntax is so broken that what else could be said about
// the content would be misleading.
func (r *reader) parseFile(f file, sources map[string]*hcl.File, body *hclsyntax.Body) bool {
	folder, err := filepath.Abs(filepath.Dir(f.name))
	if err != nil {
		r.errorf(hcl.Range{}, "Configuration not readable", "%s: %v.", f.name, err)
		return false
	}
	r.folders[f.name] = folder
	sources[f.name] = &hcl.File{Bytes: f.src}
	if !r.parsable(f) {
		return false
	}
	parsed, diags := hclsyntax.ParseConfig(f.src, f.name, hcl.InitialPos)
	tornBefore := false
	for _, d := range diags {
		switch {
		case d.Summary == "Invalid escape sequence":
			d.Detail += " A regular expression has its backslashes doubled, \"\\\\.php$\", or a class in their place: \"[.]php$\"."
		case d.Summary == "Invalid template control keyword":
			d.Detail += " For the characters themselves, as in a log format, write \"%%{\"."
		case d.Subject != nil:
			explainSyntax(d, f.src)
			explainDotted(d, f.src)
		}
		if torn := d.Summary == "Invalid multi-line string" || d.Summary == "Unterminated template string"; torn && tornBefore {
			continue // what follows is in quotes where it should not be
		} else if torn {
			tornBefore = true
		}
		r.diags = append(r.diags, d)
	}
	sources[f.name] = parsed
	content, ok := parsed.Body.(*hclsyntax.Body)
	if !ok {
		return false
	}
	body.Blocks = append(body.Blocks, content.Blocks...)
	for name, a := range content.Attributes {
		body.Attributes[f.name+" "+name] = a // all are errors at the top level; none may hide another
	}
	return !slices.ContainsFunc(diags, breaksStructure)
}

// breaksStructure tells a syntax error from an attribute that is merely given twice, which HCL's parser reports too.
func breaksStructure(d *hcl.Diagnostic) bool {
	return d.Severity == hcl.DiagError && d.Summary != "Attribute redefined"
}

// parsable refuses what HCL's recursive parser should not see.
func (r *reader) parsable(f file) bool {
	start := hcl.Range{Filename: f.name, Start: hcl.InitialPos, End: hcl.InitialPos}
	if len(f.src) > MaxSourceBytes {
		r.errorf(start, "File too big", "%s is bigger than %d bytes. Split it into several files of one folder.", f.name, MaxSourceBytes)
		return false
	}
	tokens, _ := hclsyntax.LexConfig(f.src, f.name, hcl.InitialPos) // its errors are ParseConfig's too
	depth, operators := 0, 0
	for _, t := range tokens {
		depth += nesting(t.Type)
		operators += operator(t.Type)
		if operators > maxOperators {
			r.errorf(t.Range, "Too many operators", "There are more than %d operators in %s.", maxOperators, f.name)
			return false
		}
		if depth > maxNesting {
			r.errorf(t.Range, "Nested too deeply", "There are more than %d brackets inside each other here.", maxNesting)
			return false
		}
	}
	return true
}

// nesting is how a token changes the depth.
func nesting(t hclsyntax.TokenType) int {
	switch t {
	case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenTemplateInterp,
		hclsyntax.TokenTemplateControl, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc:
		return 1
	case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenTemplateSeqEnd,
		hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc:
		return -1
	default:
		return 0
	}
}

// operator is 1 for the tokens that chain expressions.
func operator(t hclsyntax.TokenType) int {
	switch t {
	case hclsyntax.TokenBang, hclsyntax.TokenMinus, hclsyntax.TokenPlus, hclsyntax.TokenStar, hclsyntax.TokenSlash,
		hclsyntax.TokenPercent, hclsyntax.TokenAnd, hclsyntax.TokenOr, hclsyntax.TokenQuestion, hclsyntax.TokenDot,
		hclsyntax.TokenEqualOp, hclsyntax.TokenNotEqual, hclsyntax.TokenLessThan, hclsyntax.TokenLessThanEq,
		hclsyntax.TokenGreaterThan, hclsyntax.TokenGreaterThanEq:
		return 1
	default:
		return 0
	}
}

// config reads the top level. The order matters: routes refer to pools, sites to the TLS defaults.
func (r *reader) config(s *section) *Config {
	c := &Config{Gateway: r.gateway(s.one("gateway"))}
	c.TLS = r.tlsDefaults(s.one("tls"))
	pools := r.pools(s.blocks["pool"])
	for _, p := range pools.inOrder {
		c.Pools = append(c.Pools, p.Pool)
	}
	c.Sites = r.sites(s.blocks["site"], c.TLS, pools)
	if !s.mentions("site") {
		r.errorf(hcl.Range{}, "No site", "The configuration has no site block, so there is nothing to serve.")
	}
	return c
}

// path makes a path of the configuration absolute: relative ones begin in the folder of the file that says them.
func (r *reader) path(value string, at hcl.Range) string {
	if value == "" || filepath.IsAbs(value) {
		return value
	}
	return filepath.Join(r.folders[at.Filename], value)
}

// pathOf is the path that an attribute holds, its place kept for [Config.CheckSystem] under the key.
func (r *reader) pathOf(s *section, name, key string) string {
	value := get(s, name, "")
	if s.has(name) && value == "" {
		r.errorf(s.at(name), "Wrong value", "%q is an empty path. Leave the attribute out or name one.", name)
	}
	if key != "" {
		r.ranges[key] = s.at(name)
	}
	return r.path(value, s.at(name))
}

// variables returns a map of environment variables, the attribute env.
func (r *reader) variables(s *section, reserved map[string]string) map[string]string {
	const name = "env"
	env := get[map[string]string](s, name, nil)
	for _, variable := range slices.Sorted(maps.Keys(env)) {
		switch why := reserved[variable]; {
		case why != "":
			r.errorf(s.keyAt(name, variable), "Reserved variable", "The gateway sets %s itself: %s", variable, why)
		case !isVariableName(variable):
			r.errorf(s.keyAt(name, variable), "Wrong variable name", "%q is not a name for an environment variable: letters, digits and underscores, no digit first.", variable)
		}
	}
	return env
}

func isVariableName(s string) bool {
	for i, c := range []byte(s) {
		letter := c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
