package credential

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// flatten turns every value into a string: a string into itself, anything else
// into its JSON text, so that a number keeps all its digits. Null is left out.
func flatten(raw map[string]json.RawMessage) map[string]string {
	fields := make(map[string]string, len(raw))
	for _, name := range slices.Sorted(maps.Keys(raw)) { // the outcome depends on no map's order
		if text, ok := flat(raw[name]); ok {
			fields[printableName(name, fields)] = text
		}
	}
	return fields
}

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
	// What is no UTF-8 would become so in storage and on the way to Vault.
	return strings.ToValidUTF8(compact.String(), "\uFFFD"), true
}

// printableName is the name of a field without what a terminal might obey: a
// read shows it on one.
func printableName(name string, taken map[string]string) string {
	clean := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, name)
	if clean == name {
		return name
	}
	for _, ok := taken[clean]; ok || clean == ""; _, ok = taken[clean] {
		clean += "_"
	}
	return clean
}

// isRefreshToken tells whether a field of that name holds a refresh token:
// refresh_token, refreshToken, google-refresh-token-v2 and the like.
func isRefreshToken(name string) bool { return mentions(name, "refreshtoken") }

// mentions tells whether text has word in it once all but letters and digits
// are dropped.
func mentions(text, word string) bool {
	return strings.Contains(strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, text), word)
}

// withoutRefreshTokens are the fields without those that hold a refresh token,
// and without the refresh tokens in values that are JSON. It tells whether
// there were any.
func withoutRefreshTokens(fields map[string]string) (kept map[string]string, had bool) {
	kept = maps.Clone(fields)
	for name, value := range fields {
		if isRefreshToken(name) {
			had = true
			delete(kept, name)
			continue
		}
		if stripped, ok := stripJSON(value); ok {
			had = true
			kept[name] = stripped
		}
	}
	return kept, had
}

// stripJSON is a JSON text without its members that hold refresh tokens; not ok
// where it has none.
func stripJSON(text string) (stripped string, ok bool) {
	trimmed := strings.TrimSpace(text)
	if trimmed == "" || trimmed[0] != '{' && trimmed[0] != '[' {
		return "", false
	}
	decoder := json.NewDecoder(strings.NewReader(trimmed))
	decoder.UseNumber() // a number keeps all its digits
	var value any
	if decoder.Decode(&value) != nil || !strip(value) {
		return "", false
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(value) != nil {
		return "", false
	}
	return strings.TrimSpace(out.String()), true
}

// strip drops the members of value that hold refresh tokens, and tells whether
// there were any.
func strip(value any) (had bool) {
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			if isRefreshToken(name) {
				delete(v, name)
				had = true
				continue
			}
			if text, isText := member.(string); isText {
				if inner, ok := stripJSON(text); ok {
					v[name] = inner
					had = true
				}
				continue
			}
			had = strip(member) || had
		}
	case []any:
		for _, element := range v {
			had = strip(element) || had
		}
	}
	return had
}
