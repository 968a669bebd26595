package pipedreamtest

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
)

// minSecret is the shortest credential value that is worth searching for.
const minSecret = 8

// Secrets returns, sorted, what must not appear in any log, error or list: every API key and client secret that the
// server was told to accept, every token that it handed out, and every string of at least 8 bytes in the credentials
// that it handed out.
func (s *Server) Secrets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.secrets))
}

// keepSecret remembers a secret. The caller holds s.mu, or is New.
func (s *Server) keepSecret(secret string) {
	if secret != "" {
		s.secrets[secret] = struct{}{}
	}
}

// keepCredentials remembers the strings in credentials that are handed out. The caller holds s.mu.
func (s *Server) keepCredentials(credentials json.RawMessage) {
	for _, v := range stringValues(credentials) {
		if len(v) >= minSecret {
			s.keepSecret(v)
		}
	}
}

// stringValues returns the strings in a JSON text except member names, up to where it is no longer valid. It reads
// tokens and does not decode, so neither a repeated name nor deep nesting hides a value.
func stringValues(raw json.RawMessage) (values []string) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	type level struct{ object, value bool } // value: a value comes next in this object
	stack := []level{{}}
	for {
		token, err := dec.Token()
		if err != nil {
			return values
		}
		top := &stack[len(stack)-1]
		switch t := token.(type) {
		case json.Delim:
			if t == '{' || t == '[' {
				top.value = !top.value
				stack = append(stack, level{object: t == '{'})
			} else {
				stack = stack[:len(stack)-1]
			}
			continue
		case string:
			if !top.object || top.value {
				values = append(values, t)
			}
		}
		top.value = !top.value
	}
}
