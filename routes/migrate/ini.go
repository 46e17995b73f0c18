package migrate

import "strings"

// iniSetting is one line of an ini file of PHP: "key = value" or "key[index] = value".
type iniSetting struct {
	section     string // empty: before the first one
	sectionLine int
	key, index  string
	value       string
	from        Origin
}

// readINI reads the lines of an ini file, with PHP's own rules for comments and quotes.
func readINI(s source) (list []iniSetting, err error) {
	section, sectionLine, number := "", 0, 0
	for line := range strings.Lines(s.text) {
		number++
		line = strings.TrimSpace(line)
		from := Origin{s.name, number, line}
		switch {
		case line == "" || line[0] == ';' || line[0] == '#':
		case line[0] == '[':
			name, rest, ok := strings.Cut(line[1:], "]")
			if name = strings.TrimSpace(name); !ok || name == "" || !isRest(rest) {
				return nil, errorAt(from, "%q is no section: write [name]", oneLine(line, maxShown))
			}
			section, sectionLine = name, number
		default:
			setting, err := readSetting(from)
			if err != nil {
				return nil, err
			}
			setting.section, setting.sectionLine = section, sectionLine
			list = append(list, setting)
		}
	}
	return list, nil
}

func readSetting(from Origin) (iniSetting, error) {
	s := iniSetting{from: from}
	key, value, ok := strings.Cut(from.Text, "=")
	if !ok {
		return s, errorAt(from, "%q is no setting: write key = value", oneLine(from.Text, maxShown))
	}
	s.key = strings.TrimSpace(key)
	if key, index, ok := strings.Cut(s.key, "["); ok {
		if s.index, ok = strings.CutSuffix(index, "]"); !ok {
			return s, errorAt(from, "a bracket is not closed")
		}
		s.key, s.index = strings.TrimSpace(key), strings.Trim(s.index, ` "'`)
	}
	s.value, ok = iniValue(strings.TrimSpace(value))
	if !ok {
		return s, errorAt(from, "a quote is not closed, or something follows it")
	}
	return s, nil
}

// iniValue takes the quotes and the comment off a value.
func iniValue(text string) (value string, ok bool) {
	if text == "" || text[0] != '"' && text[0] != '\'' {
		value, _, _ = strings.Cut(text, ";")
		return strings.TrimSpace(value), true
	}
	quote, escaped := text[0], false
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case escaped:
			if c != quote && c != '\\' {
				b.WriteByte('\\')
			}
			b.WriteByte(c)
			escaped = false
		case c == '\\' && quote == '"':
			escaped = true
		case c == quote:
			return b.String(), isRest(text[i+1:])
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// isRest reports what may stand behind a quote or a section: nothing, or a comment.
func isRest(text string) bool {
	text = strings.TrimSpace(text)
	return text == "" || text[0] == ';' || text[0] == '#'
}
