package credential

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// flatten converts every value to a string: a string to itself, anything else to
// its JSON text, so that a number keeps all its digits. Null is left out.
func flatten(raw map[string]json.RawMessage) map[string]string {
	fields := make(map[string]string, len(raw))
	names := slices.Sorted(maps.Keys(raw))          // so that the result does not depend on the order of a map
	for _, unchanged := range []bool{true, false} { // a changed name never replaces an unchanged one
		for _, name := range names {
			if (printable(name) == name) != unchanged {
				continue
			}
			if text, ok := flat(raw[name]); ok {
				fields[freeName(printable(name), unchanged, fields)] = text
			}
		}
	}
	return fields
}

// flat returns a value as a string; not ok for null.
func flat(value json.RawMessage) (text string, ok bool) {
	value = bytes.TrimSpace(value)
	if len(value) == 0 || bytes.Equal(value, []byte("null")) {
		return "", false
	}
	if json.Unmarshal(value, &text) == nil {
		return text, true
	}
	var compact bytes.Buffer // so that Pipedream's white space cannot change the bytes of a read
	if json.Compact(&compact, value) != nil {
		return "", false
	}
	// Invalid UTF-8 would be replaced in storage and on the way to Vault anyway.
	return strings.ToValidUTF8(compact.String(), "\uFFFD"), true
}

// printable returns the name of a field without control characters: a read shows
// the name on a terminal.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, name)
}

// freeName returns a name that no other field has. A name that is unchanged has
// none to give way to.
func freeName(name string, unchanged bool, taken map[string]string) string {
	if unchanged {
		return name
	}
	for _, ok := taken[name]; ok || name == ""; _, ok = taken[name] {
		name += "_"
	}
	return name
}

// isRefreshToken reports whether a field of that name is a refresh token:
// refresh_token, refreshToken, google-refresh-token-v2 and the like.
func isRefreshToken(name string) bool {
	return strings.Contains(strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name), "refreshtoken")
}

// withoutRefreshTokens returns the fields without refresh tokens, and without those
// within values that are JSON. It reports whether there were any.
func withoutRefreshTokens(fields map[string]string) (kept map[string]string, had bool) {
	kept = maps.Clone(fields)
	for name, value := range fields {
		if isRefreshToken(name) {
			had = true
			delete(kept, name)
			continue
		}
		if stripped, ok := stripText(value); ok {
			had = true
			kept[name] = stripped
		}
	}
	return kept, had
}

// stripText returns a text that consists of JSON values without their refresh
// tokens; not ok if it is no JSON or has none.
func stripText(text string) (stripped string, ok bool) {
	trimmed := strings.TrimSpace(strings.TrimPrefix(text, "\uFEFF"))
	if trimmed == "" || !strings.ContainsRune("{[\"", rune(trimmed[0])) {
		return "", false
	}
	decoder := json.NewDecoder(strings.NewReader(trimmed))
	decoder.UseNumber() // a number keeps all its digits
	var values []string
	for had := false; ; {
		var value any
		switch err := decoder.Decode(&value); {
		case errors.Is(err, io.EOF):
			return strings.Join(values, "\n"), had
		case err != nil: // the rest is no JSON
			return "", false
		}
		value, some := strip(value)
		had = had || some
		encoded, err := encode(value)
		if err != nil {
			return "", false
		}
		values = append(values, encoded)
	}
}

func encode(value any) (string, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return strings.TrimSpace(out.String()), err
}

// strip returns value without the members that are refresh tokens. It reports
// whether there were any.
func strip(value any) (stripped any, had bool) {
	switch v := value.(type) {
	case string:
		if inner, ok := stripText(v); ok {
			return inner, true
		}
	case map[string]any:
		for name, member := range v {
			if isRefreshToken(name) {
				delete(v, name)
				had = true
				continue
			}
			var some bool
			v[name], some = strip(member)
			had = had || some
		}
	case []any:
		for i := range v {
			var some bool
			v[i], some = strip(v[i])
			had = had || some
		}
	}
	return value, had
}
