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

// flatten turns every value into a string: a string into itself, anything else
// into its JSON text, so that a number keeps all its digits. Null is left out.
func flatten(raw map[string]json.RawMessage) map[string]string {
	fields := make(map[string]string, len(raw))
	names := slices.Sorted(maps.Keys(raw))       // the outcome depends on no map's order
	for _, asItIs := range []bool{true, false} { // a name that is changed takes the place of no other
		for _, name := range names {
			if (printable(name) == name) != asItIs {
				continue
			}
			if text, ok := flat(raw[name]); ok {
				fields[freeName(printable(name), asItIs, fields)] = text
			}
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

// printable is the name of a field without what a terminal might obey: a read
// shows it on one.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, name)
}

// freeName is a name that no other field has.
func freeName(name string, asItIs bool, taken map[string]string) string {
	if asItIs {
		return name
	}
	for _, ok := taken[name]; ok || name == ""; _, ok = taken[name] {
		name += "_"
	}
	return name
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
		if stripped, ok := stripText(value); ok {
			had = true
			kept[name] = stripped
		}
	}
	return kept, had
}

// stripText is text without the refresh tokens in the JSON values that it is made
// of; not ok where it is no JSON, or has none.
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
		case err != nil: // no JSON from here on
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

// strip is value without its members that hold refresh tokens, and tells whether
// there were any.
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
