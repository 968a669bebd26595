package pipedreamtest

import "net/http"

// answer is a whole HTTP answer.
type answer struct {
	status int
	header http.Header // besides Content-Type and Content-Length, or in their place
	body   []byte
}

// success returns a 200 with that JSON.
func success(body map[string]any) *answer {
	raw, _ := appendJSON(nil, body) // what is not the API's own in it was marshalled before
	return &answer{status: http.StatusOK, header: http.Header{}, body: raw}
}

// failure returns an error as the API words them.
func failure(status int, text string) *answer {
	raw, _ := appendJSON(nil, map[string]any{"error": text}) // strings always marshal
	return &answer{status: status, header: http.Header{}, body: raw}
}

// notFound returns the answer for an account that there is not, in one of the two ways it has been seen.
func (s *Server) notFound() *answer {
	status := http.StatusNotFound
	if s.notFoundAs200 {
		status = http.StatusOK
	}
	return failure(status, "record not found")
}
