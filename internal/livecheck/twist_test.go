package livecheck

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// roundTripper is a transport in a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// twist is something that changes requests and answers on their way. Each part may be nil.
type twist struct {
	request func(*http.Request)
	answer  func(*http.Response)                                // the header and status
	body    func(req *http.Request, status int, object any) any // the body, if it is JSON
	number  func(json.Number) any                               // each number in it
}

// over returns the transport that twists what another one does.
func (tw twist) over(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		if tw.request != nil {
			req = req.Clone(req.Context())
			tw.request(req)
		}
		resp, err := next.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		if tw.body != nil || tw.number != nil {
			text, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil {
				return nil, err
			}
			text = tw.change(req, resp.StatusCode, text)
			resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
			resp.Header.Set("Content-Length", strconv.Itoa(len(text)))
		}
		if tw.answer != nil {
			tw.answer(resp)
		}
		return resp, nil
	})
}

func (tw twist) change(req *http.Request, status int, text []byte) []byte {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var value any
	if dec.Decode(&value) != nil {
		return text
	}
	if tw.body != nil {
		value = tw.body(req, status, value)
	}
	if tw.number != nil {
		value = mapped(value, tw.number)
	}
	changed, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return changed
}

// mapped changes each number in a value.
func mapped(value any, number func(json.Number) any) any {
	switch value := value.(type) {
	case map[string]any:
		for name, inner := range value {
			value[name] = mapped(inner, number)
		}
	case []any:
		for i, inner := range value {
			value[i] = mapped(inner, number)
		}
	case json.Number:
		return number(value)
	}
	return value
}

// isList reports whether a request asks for a list of accounts.
func isList(req *http.Request) bool { return strings.HasSuffix(req.URL.Path, "/accounts") }

// lists returns a twist of the lists alone.
func lists(change func(list map[string]any)) twist {
	return twist{body: func(req *http.Request, _ int, value any) any {
		if object, ok := value.(map[string]any); ok && isList(req) && object["page_info"] != nil {
			change(object)
		}
		return value
	}}
}

// infos returns a twist of page_info alone.
func infos(change func(info map[string]any)) twist {
	return lists(func(list map[string]any) { change(list["page_info"].(map[string]any)) })
}

// everyAccount returns a twist of each account, wherever it is.
func everyAccount(change func(account map[string]any)) twist {
	var walk func(any)
	walk = func(value any) {
		switch value := value.(type) {
		case map[string]any:
			if id, ok := value["id"].(string); ok && strings.HasPrefix(id, "apn_") {
				change(value)
				return
			}
			for _, inner := range value {
				walk(inner)
			}
		case []any:
			for _, inner := range value {
				walk(inner)
			}
		}
	}
	return twist{body: func(_ *http.Request, _ int, value any) any { walk(value); return value }}
}

// dropped returns a twist that lets no such query parameter through.
func dropped(names ...string) twist {
	return twist{request: func(req *http.Request) {
		q := req.URL.Query()
		for _, name := range names {
			q.Del(name)
		}
		req.URL.RawQuery = q.Encode()
	}}
}

// clock returns a twist of each Date.
func clock(ahead time.Duration) twist {
	return twist{answer: func(resp *http.Response) {
		resp.Header.Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
	}}
}
