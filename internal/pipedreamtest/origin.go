package pipedreamtest

import (
	"net/http"
	"slices"
	"strings"
)

// allows reports whether a web page of this origin may use the token.
func (t *connectToken) allows(origin string) bool {
	return slices.ContainsFunc(t.AllowedOrigins, func(allowed string) bool {
		return strings.EqualFold(strings.TrimSuffix(allowed, "/"), origin)
	})
}

// allowOrigin lets a web page of this origin read the answer.
func allowOrigin(h http.Header, origin string) {
	h.Set("Access-Control-Allow-Origin", origin)
	h.Add("Vary", "Origin")
}

// isPreflight reports whether a browser asks which requests a web page may send. It asks without the token, so any page
// may send one. Whether it can read the answer is for the token to say.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && r.Header.Get("Origin") != "" && r.Header.Get("Access-Control-Request-Method") != ""
}

// servePreflight answers it. Such a request is not one of the API, so it is not logged.
func servePreflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	allowOrigin(h, r.Header.Get("Origin"))
	h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
	h.Set("Access-Control-Allow-Headers", r.Header.Get("Access-Control-Request-Headers"))
	w.WriteHeader(http.StatusNoContent)
}
