package contract

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// things is a small document that this test can break.
const things = `
openapi: 3.0.4
info: {title: Things, version: "1"}
paths:
  /v1/things/{id}:
    parameters:
      - {name: id, in: path, required: true, schema: {type: string, pattern: '^t_[a-z/ ]+$'}}
    get:
      operationId: getThing
      parameters:
        - {name: full, in: query, schema: {type: boolean}}
        - {name: x-place, in: header, required: true, schema: {type: string, enum: [here, there]}}
      responses:
        '200': {description: a thing, content: {application/json: {schema: {$ref: '#/components/schemas/Thing'}}}}
        '429':
          description: too many
          headers: {Retry-After: {schema: {type: integer}}}
          content: {application/json: {schema: {type: object}}}
      security: [{ConnectToken: []}, {OAuth2: []}]
    delete:
      operationId: deleteThing
      responses: {'204': {description: gone}}
      security: [{OAuth2: []}]
    put:
      operationId: setThing
      requestBody: {required: true, content: {application/json: {schema: {$ref: '#/components/schemas/Thing'}}}}
      responses: {'200': {description: set, content: {application/json: {schema: {type: object}}}}}
      security: []
components:
  schemas:
    Thing:
      type: object
      required: [id]
      properties:
        id: {type: string, pattern: '^t_[a-z]+$'}
        dead: {type: boolean, nullable: true}
        at: {type: string, format: date-time}
  securitySchemes:
    ConnectToken: {type: http, scheme: bearer}
    OAuth2: {type: http, scheme: bearer}
`

func TestCheck(t *testing.T) {
	document, err := Load([]byte(things))
	require.NoError(t, err)
	type exchange struct {
		method, path, body string
		header             []string // names and values in turn, beside those that are right
		status             int
		answer             string
		answerHeader       http.Header
	}
	const good = `{"id":"t_x","dead":null,"at":"2024-02-11T05:18:46.000Z","new":1}`
	for name, tt := range map[string]struct {
		exchange

		want []string
	}{
		"right":                   {exchange{"GET", "/v1/things/t_x?full=true", "", nil, 200, good, nil}, nil},
		"an id with a slash":      {exchange{"GET", "/v1/things/t_x%2Fy%20z", "", nil, 200, good, nil}, nil},
		"a Connect token":         {exchange{"GET", "/v1/things/t_x", "", []string{"Authorization", "Bearer ctok_1"}, 200, good, nil}, nil},
		"a body that it has":      {exchange{"PUT", "/v1/things/t_x", `{"id":"t_x"}`, nil, 200, `{}`, nil}, nil},
		"nothing":                 {exchange{"DELETE", "/v1/things/t_x", "", nil, 204, "", nil}, nil},
		"throttled":               {exchange{"GET", "/v1/things/t_x", "", nil, 429, `{}`, http.Header{"Retry-After": {"7"}}}, nil},
		"another path":            {exchange{"GET", "/v1/thing", "", nil, 200, good, nil}, []string{"path"}},
		"another method":          {exchange{"POST", "/v1/things/t_x", "", nil, 200, good, nil}, []string{"path"}},
		"an id that cannot be":    {exchange{"GET", "/v1/things/x", "", nil, 200, good, nil}, []string{"request"}},
		"a wrong parameter":       {exchange{"GET", "/v1/things/t_x?full=yes", "", nil, 200, good, nil}, []string{"request", "request"}},
		"a number as a boolean":   {exchange{"GET", "/v1/things/t_x?full=1", "", nil, 200, good, nil}, []string{"request"}},
		"an unknown parameter":    {exchange{"GET", "/v1/things/t_x?all=1", "", nil, 200, good, nil}, []string{"request"}},
		"a wrong header":          {exchange{"GET", "/v1/things/t_x", "", []string{"x-place", "nowhere"}, 200, good, nil}, []string{"request"}},
		"no bearer":               {exchange{"GET", "/v1/things/t_x", "", []string{"Authorization", ""}, 200, good, nil}, []string{"request"}},
		"another kind of bearer":  {exchange{"DELETE", "/v1/things/t_x", "", []string{"Authorization", "Bearer ctok_1"}, 204, "", nil}, []string{"request"}},
		"a body that nobody asks": {exchange{"DELETE", "/v1/things/t_x", `{}`, nil, 204, "", nil}, []string{"request"}},
		"no body":                 {exchange{"PUT", "/v1/things/t_x", "", nil, 200, `{}`, nil}, []string{"request"}},
		"a wrong body":            {exchange{"PUT", "/v1/things/t_x", `{"id":7}`, nil, 200, `{}`, nil}, []string{"request"}},
		"an unknown member":       {exchange{"PUT", "/v1/things/t_x", `{"id":"t_x","new":1}`, nil, 200, `{}`, nil}, []string{"request"}},
		"another status":          {exchange{"GET", "/v1/things/t_x", "", nil, 404, `{"error":"x"}`, nil}, []string{"status"}},
		"a wrong type":            {exchange{"GET", "/v1/things/t_x", "", nil, 200, `{"id":"t_x","dead":"no"}`, nil}, []string{"answer"}},
		"a null":                  {exchange{"GET", "/v1/things/t_x", "", nil, 200, `{"id":"t_x","at":null}`, nil}, []string{"answer"}},
		"another time":            {exchange{"GET", "/v1/things/t_x", "", nil, 200, `{"id":"t_x","at":"yesterday"}`, nil}, []string{"answer"}},
		"two mistakes":            {exchange{"GET", "/v1/things/t_x", "", nil, 200, `{"at":1}`, nil}, []string{"answer", "answer"}},
		"no JSON":                 {exchange{"GET", "/v1/things/t_x", "", nil, 200, `<html>`, nil}, []string{"answer"}},
		"a wrong header of a 429": {exchange{"GET", "/v1/things/t_x", "", nil, 429, `{}`, http.Header{"Retry-After": {"soon"}}}, []string{"answer"}},
		"something":               {exchange{"DELETE", "/v1/things/t_x", "", nil, 204, "gone", nil}, []string{"answer"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), tt.method, "http://api.example.com"+tt.path, strings.NewReader(tt.body))
			r.Header.Set("Authorization", "Bearer token")
			r.Header.Set("X-Place", "here")
			if tt.body != "" {
				r.Header.Set("Content-Type", "application/json")
			}
			for pair := range slices.Chunk(tt.header, 2) {
				r.Header.Set(pair[0], pair[1])
			}
			header := http.Header{"Content-Type": {"application/json; charset=utf-8"}}
			for name, values := range tt.answerHeader {
				header[name] = values
			}
			_, findings := document.Check(context.Background(), r, []byte(tt.body), Answered{Status: tt.status, Header: header, Body: []byte(tt.answer)})
			var got []string
			for _, f := range findings {
				got = append(got, string(f.Part))
			}
			require.Equal(t, tt.want, got, "%v", findings)
		})
	}
	_, err = Load([]byte("openapi: 3.0.4\npaths: 7"))
	require.Error(t, err)
}

func TestSettle(t *testing.T) {
	errors := Departure{Name: "errors", covers: failed}
	old := Departure{Name: "old paths", covers: onPath("/v1/old")}
	typed := Departure{Name: "types", covers: inAnswer(`^dead:`)}
	found := []Finding{
		{Part: Status, Operation: "getThing", Answer: Answered{Status: 404, Body: []byte(`{"error":"x"}`)}},
		{Part: Path, Operation: "GET /v1/old/x"},
		{Part: Answer, Operation: "getThing", Text: "dead: value must be a boolean"},
	}
	require.Empty(t, Settle(found, []Departure{errors, old, typed}))
	require.Equal(t, []string{"no departure any more: types"}, Settle(found[:2], []Departure{errors, old, typed}))
	require.Len(t, Settle(found, nil), 3)
	require.Len(t, Settle([]Finding{
		{Part: Status, Operation: "getThing", Text: "the status is 404", Answer: Answered{Status: 404, Body: []byte(`<html>`)}},
		{Part: Status, Operation: "getThing", Text: "the status is 202", Answer: Answered{Status: 202, Body: []byte(`{"error":"x"}`)}},
		{Part: Path, Operation: "GET /v1/new"},
		{Part: Answer, Operation: "getThing", Text: "id: value must be a string"},
		{Part: Request, Operation: "getThing", Text: "dead:"},
		{Part: Request, Operation: "getThing", Text: "dead:"},
	}, []Departure{errors, old, typed}), 8, "five findings, one of them twice, and three departures without any")
}
