// Package contract holds the engine and the simulated Pipedream to an OpenAPI document of Pipedream's API. The document
// is not part of this project: the environment variable PIPEDREAM_OPENAPI has its path.
package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// Part is the part of an exchange that a finding is about.
type Part string

// These are the parts of an exchange.
const (
	Path    Part = "path"    // the document has no such operation
	Request Part = "request" // the request is not as the document has it
	Status  Part = "status"  // the document does not describe an answer with this status
	Answer  Part = "answer"  // the answer is not as the document has it
)

// Finding is what differs from the document in an exchange.
type Finding struct {
	Part      Part
	Operation string // its id in the document; for a path that is not there, the method and path
	Text      string
	Answer    Answered
}

// Answered is an answer of the API.
type Answered struct {
	Status int
	Header http.Header
	Body   []byte
}

// Document is an OpenAPI document.
type Document struct{ router routers.Router }

// Load reads a document. It is an error if the document is not valid itself.
func Load(text []byte) (*Document, error) {
	doc, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		return nil, err
	}
	doc.Servers = nil // it is not the real API that is asked
	router, err := gorillamux.NewRouter(doc)
	if err != nil {
		return nil, err
	}
	return &Document{router: router}, nil
}

// Check returns what differs from the document in an exchange.
func (d *Document) Check(ctx context.Context, r *http.Request, body []byte, got Answered) (operation string, findings []Finding) {
	route, parameters, err := d.router.FindRoute(r)
	if err != nil {
		operation = r.Method + " " + r.URL.Path
		return operation, []Finding{{Part: Path, Operation: operation, Text: "the document has no such operation", Answer: got}}
	}
	operation = route.Operation.OperationID
	for name, escaped := range parameters {
		if text, err := url.PathUnescape(escaped); err == nil {
			parameters[name] = text
		}
	}
	add := func(part Part, text string) {
		findings = append(findings, Finding{Part: part, Operation: operation, Text: text, Answer: got})
	}

	asked := r.Clone(ctx)
	asked.Body = io.NopCloser(bytes.NewReader(body))
	options := &openapi3filter.Options{
		MultiError: true, IncludeResponseStatus: true, RejectWhenRequestBodyNotSpecified: true, AuthenticationFunc: authenticate,
	}
	input := &openapi3filter.RequestValidationInput{Request: asked, PathParams: parameters, Route: route, Options: options}
	for _, err := range each(openapi3filter.ValidateRequest(ctx, input)) {
		add(Request, firstLine(err))
	}
	for _, text := range loose(route, r, body) {
		add(Request, text)
	}

	if route.Operation.Responses.Status(got.Status) == nil {
		add(Status, fmt.Sprintf("the status is %d", got.Status))
		return operation, findings
	}
	answer := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: got.Status, Header: got.Header, Options: options,
		Body: io.NopCloser(bytes.NewReader(got.Body)),
	}
	for _, err := range each(openapi3filter.ValidateResponse(ctx, answer)) {
		add(Answer, firstLine(err))
	}
	if len(route.Operation.Responses.Status(got.Status).Value.Content) == 0 && len(got.Body) > 0 {
		add(Answer, "there is a body")
	}
	return operation, findings
}

// authenticate checks that a request has the kind of bearer that the document wants.
func authenticate(_ context.Context, in *openapi3filter.AuthenticationInput) error {
	bearer, ok := strings.CutPrefix(in.RequestValidationInput.Request.Header.Get("Authorization"), "Bearer ")
	isConnectToken := strings.HasPrefix(bearer, "ctok_")
	if !ok || bearer == "" || isConnectToken != (in.SecuritySchemeName == "ConnectToken") {
		return errors.New("the bearer is not of the kind " + in.SecuritySchemeName)
	}
	return nil
}

// loose returns what the library lets pass in a request: query parameters and members of a JSON body that the document
// does not have, which a document allows unless it says otherwise, and a boolean that is neither true nor false.
func loose(route *routers.Route, r *http.Request, body []byte) (found []string) {
	known := map[string]*openapi3.Parameter{}
	for _, parameters := range []openapi3.Parameters{route.PathItem.Parameters, route.Operation.Parameters} {
		for _, p := range parameters {
			if p.Value.In == openapi3.ParameterInQuery {
				known[p.Value.Name] = p.Value
			}
		}
	}
	query := r.URL.Query()
	for _, name := range slices.Sorted(maps.Keys(query)) {
		switch p := known[name]; {
		case p == nil:
			found = append(found, "the document does not have the query parameter "+name)
		case p.Schema.Value.Type.Is(openapi3.TypeBoolean) && !slices.Contains([]string{"true", "false"}, query.Get(name)):
			found = append(found, "the query parameter "+name+" is neither true nor false")
		}
	}
	var members map[string]json.RawMessage
	if route.Operation.RequestBody == nil || json.Unmarshal(body, &members) != nil {
		return found
	}
	media := route.Operation.RequestBody.Value.Content.Get("application/json")
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if media != nil && media.Schema.Value.Properties[name] == nil {
			found = append(found, "the document does not have the member "+name+" of the body")
		}
	}
	return found
}

// each returns the errors that an error is made of.
func each(err error) (all []error) {
	var several openapi3.MultiError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &several):
		for _, one := range several {
			all = append(all, each(one)...)
		}
		return all
	}
	return []error{err}
}

// firstLine returns the text of an error without the schema that follows it.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	var schema *openapi3.SchemaError
	if errors.As(err, &schema) {
		line = strings.Join(schema.JSONPointer(), ".") + ": " + schema.Reason
	}
	return line
}
