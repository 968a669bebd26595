package pipedreamtest

import "net/http"

// answer is a complete HTTP answer.
type answer struct {
	status int
	header http.Header // added to Content-Type and Content-Length, or replacing them
	body   []byte
	text   string // of an error
}

// success returns a 200 with this JSON.
func success(body any) *answer {
	raw, _ := appendJSON(nil, body) // what is not the API's own in it was marshalled before
	return &answer{status: http.StatusOK, header: http.Header{}, body: raw}
}

// failure returns an error in the form that the API uses.
func failure(status int, text string) *answer {
	raw, _ := appendJSON(nil, map[string]any{"error": text}) // strings always marshal
	return &answer{status: status, header: http.Header{}, body: raw, text: text}
}

// failureObject returns an error in the other form: what is wrong with which field.
func failureObject(status int, field, text string) *answer {
	raw, _ := appendJSON(nil, map[string]any{"error": map[string]any{field: []any{text}}}) // strings always marshal
	return &answer{status: status, header: http.Header{}, body: raw}
}

// noContent returns the answer to a request that was carried out and has nothing to tell.
func noContent() *answer { return &answer{status: http.StatusNoContent, header: http.Header{}} }

// notFound returns the answer for an unknown account, in one of the two forms that have been seen.
func (s *Server) notFound() *answer {
	status := http.StatusNotFound
	if s.notFoundAs200 {
		status = http.StatusOK
	}
	return failure(status, "record not found")
}
