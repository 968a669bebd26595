package livecheck

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The forms of values.
const (
	absent       Form = "absent"
	null         Form = "null"
	boolean      Form = "a boolean"
	number       Form = "a number"
	emptyText    Form = "an empty text"
	anyText      Form = "a text"
	numberText   Form = "a number as text"
	booleanText  Form = "a boolean as text"
	list         Form = "a list"
	textList     Form = "a list of texts"
	object       Form = "an object"
	iso          Form = "a time like 2024-02-11T05:18:46.000Z"
	rfc3339      Form = "another RFC 3339 time"
	lowerTime    Form = "a time in lower case"
	offsetTime   Form = "a time with an offset like +0000"
	unixSeconds  Form = "Unix seconds"
	unixMillis   Form = "Unix milliseconds"
	otherTime    Form = "a text that is no time"
	jsonText     Form = "JSON in a text"
	notJSONValue Form = "no JSON"
)

// members are those of a JSON object.
type members map[string]json.RawMessage

// objectOf returns the members of a JSON object.
func objectOf(raw json.RawMessage) (m members, ok bool) {
	return m, json.Unmarshal(raw, &m) == nil && m != nil
}

// listOf returns the elements of a JSON list.
func listOf(raw json.RawMessage) (elements []json.RawMessage, ok bool) {
	return elements, json.Unmarshal(raw, &elements) == nil && elements != nil
}

// textOf returns a JSON string; empty for anything else.
func textOf(raw json.RawMessage) (text string) {
	_ = json.Unmarshal(raw, &text) // what is no text is none
	return text
}

// intOf returns a whole number, written as a number or as text.
func intOf(raw json.RawMessage) (n int, ok bool) {
	written := strings.Trim(string(bytes.TrimSpace(raw)), `"`)
	n, err := strconv.Atoi(written)
	return n, err == nil
}

// isSet reports whether a member is there and not null.
func isSet(raw json.RawMessage) bool { f := formOf(raw); return f != absent && f != null }

// formOf returns the form of a value.
func formOf(raw json.RawMessage) Form {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 {
		return absent
	}
	switch raw[0] {
	case 'n':
		return null
	case 't', 'f':
		return boolean
	case '{':
		return object
	case '[':
		return list
	case '"':
		return textForm(textOf(raw))
	}
	return number
}

func textForm(text string) Form {
	switch text {
	case "":
		return emptyText
	case "true", "false":
		return booleanText
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return numberText
	}
	return anyText
}

// listForm is formOf that tells lists of texts.
func listForm(raw json.RawMessage) Form {
	elements, ok := listOf(raw)
	if !ok {
		return formOf(raw)
	}
	for _, element := range elements {
		if f := formOf(element); f != anyText && f != emptyText && f != numberText && f != booleanText {
			return list
		}
	}
	return textList
}

// anyTextForm is formOf for what can be any text, such as a name.
func anyTextForm(raw json.RawMessage) Form {
	if f := formOf(raw); f != numberText && f != booleanText {
		return f
	}
	return anyText
}

// embeddedForm is formOf that tells JSON in a text.
func embeddedForm(raw json.RawMessage) Form {
	f := anyTextForm(raw)
	if f == anyText && json.Valid([]byte(textOf(raw))) {
		return jsonText
	}
	return f
}

var isoPattern = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)

// timeForm is formOf for a time.
func timeForm(raw json.RawMessage) Form {
	t, form := parseTime(raw)
	if t.IsZero() && form == anyText {
		return otherTime
	}
	return form
}

// parseTime returns a time in any form, and the form; zero if it is none.
func parseTime(raw json.RawMessage) (time.Time, Form) {
	switch form := formOf(raw); form {
	case number:
		n, err := strconv.ParseFloat(string(bytes.TrimSpace(raw)), 64)
		if err != nil {
			return time.Time{}, form
		}
		return fromUnix(n)
	case numberText:
		n, err := strconv.ParseFloat(textOf(raw), 64)
		if err != nil {
			return time.Time{}, form
		}
		t, _ := fromUnix(n)
		return t, form
	case anyText:
		return parseText(textOf(raw))
	default:
		return time.Time{}, form
	}
}

func fromUnix(n float64) (time.Time, Form) {
	const secondsFrom, millisFrom, millisTo = 1e9, 1e11, 1e15
	switch {
	case n >= secondsFrom && n < millisFrom:
		return time.Unix(int64(n), 0).UTC(), unixSeconds
	case n >= millisFrom && n < millisTo:
		return time.UnixMilli(int64(n)).UTC(), unixMillis
	}
	return time.Time{}, number
}

func parseText(text string) (time.Time, Form) {
	upper := strings.ToUpper(text)
	if t, err := time.Parse("2006-01-02T15:04:05Z0700", upper); err == nil && !strings.HasSuffix(upper, "Z") {
		return t, offsetTime
	}
	t, err := time.Parse(time.RFC3339, upper)
	switch {
	case err != nil:
		return time.Time{}, anyText
	case text != upper:
		return t, lowerTime
	case isoPattern.MatchString(text):
		return t, iso
	}
	return t, rfc3339
}
