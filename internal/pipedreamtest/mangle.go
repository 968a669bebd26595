package pipedreamtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// nest returns a JSON object with one more member, "deep", which consists of that many nested lists.
func nest(object []byte, depth int) []byte {
	rest, ok := bytes.CutPrefix(object, []byte("{"))
	if !ok {
		return object
	}
	deep := strings.Repeat("[", depth) + strings.Repeat("]", depth)
	return append([]byte(`{"deep":`+deep+`,`), rest...)
}

// duplicateKeys returns a JSON text in which each member of each object occurs twice: first with another value of the
// same type, so that a client that takes the last one can decode both, and then with its own. Text that is not JSON is
// returned unchanged.
func duplicateKeys(text json.RawMessage) json.RawMessage {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	first, err := dec.Token()
	open, ok := first.(json.Delim)
	if err != nil || !ok {
		return text
	}
	out := fmt.Append(nil, open)
	for i := 0; dec.More(); i++ {
		if i > 0 {
			out = append(out, ',')
		}
		var name any
		if open == '{' {
			if name, err = dec.Token(); err != nil {
				return text
			}
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return text
		}
		if open == '{' {
			quoted, _ := appendJSON(nil, name) // strings always marshal
			out = append(out, quoted...)
			out = append(out, ':')
			out = append(out, decoy(value)...)
			out = append(out, ',')
			out = append(out, quoted...)
			out = append(out, ':')
		}
		out = append(out, duplicateKeys(value)...)
	}
	closing, err := dec.Token()
	if err != nil {
		return text
	}
	return fmt.Append(out, closing)
}

// decoy returns another value of the same type as a JSON value, in the same format if it is a time.
func decoy(value json.RawMessage) string {
	var s string
	switch {
	case value[0] == '{':
		return "{}"
	case value[0] == '[':
		return "[]"
	case json.Unmarshal(value, &s) == nil && s != "":
		if _, err := time.Parse(time.RFC3339, s); err == nil {
			return `"1970-01-01T00:00:00.000Z"`
		}
		return `"duplicate"`
	case string(value) == "true":
		return "false"
	case string(value) == "false":
		return "true"
	case value[0] >= '0' && value[0] <= '9' || value[0] == '-':
		return "0"
	}
	return string(value)
}
