package pipedream

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// apiPage is where users look up paths, parameters and fields.
const apiPage = "docs/api.md"

// endpoint has the parameters and response fields of an operation on a path, each with
// its type.
type endpoint struct {
	parameters map[string]string // type, followed by "<required>" or the default if there is one
	response   map[string]string
	required   []string // of the response
	open       bool     // the response has an app's own fields too
}

// TestAPIPage compares docs/api.md with the engine. The page must have every path,
// operation, parameter and response field with its type and default, and nothing else.
func TestAPIPage(t *testing.T) {
	documented := documentedEndpoints(t)
	actual := actualEndpoints()
	assert.ElementsMatch(t, slices.Collect(maps.Keys(actual)), slices.Collect(maps.Keys(documented)), "the operations of %s", apiPage)
	for operation, want := range actual {
		got, ok := documented[operation]
		if !ok {
			continue
		}
		assert.Equal(t, want.parameters, got.parameters, "parameters of %s", operation)
		assert.Equal(t, want.response, got.response, "response fields of %s", operation)
		if want.response != nil {
			checkSample(t, operation, want, got.sample)
		}
		assert.Contains(t, got.text, "\ncurl --header ", "a sample of %s", operation)
	}
}

// checkSample compares a sample response with the declared fields.
func checkSample(t *testing.T, operation string, want endpoint, sample map[string]any) {
	t.Helper()
	if inner, ok := sample["data"].(map[string]any); ok {
		sample = inner
	}
	assert.Subset(t, slices.Collect(maps.Keys(sample)), want.required, "the sample response of %s", operation)
	if !want.open {
		assert.Subset(t, slices.Collect(maps.Keys(want.response)), slices.Collect(maps.Keys(sample)), "the sample response of %s", operation)
	}
	for name, value := range sample {
		assert.Equal(t, jsonTypes[want.response[name]], fmt.Sprintf("%T", value), "%s in the sample response of %s", name, operation)
	}
}

// jsonTypes maps the types on the page to decoded JSON types. An app's own fields are
// strings.
var jsonTypes = map[string]string{
	"": "string", "string": "string", "bool": "bool", "int": "float64", "duration": "float64", "list": "[]interface {}", "map": "map[string]interface {}",
}

// typeNames are the types of fields as the page names them.
var typeNames = map[framework.FieldType]string{
	framework.TypeString: "string", framework.TypeBool: "bool", framework.TypeInt: "int", framework.TypeInt64: "int",
	framework.TypeDurationSecond: "duration", framework.TypeStringSlice: "list", framework.TypeSlice: "list", framework.TypeCommaStringSlice: "list", framework.TypeMap: "map",
}

var (
	methods = map[logical.Operation]string{
		logical.ReadOperation: http.MethodGet, logical.CreateOperation: http.MethodPost, logical.UpdateOperation: http.MethodPost,
		logical.DeleteOperation: http.MethodDelete, logical.ListOperation: "LIST",
	}
	nameInPattern = regexp.MustCompile(`\(\?P<(\w+)>.*?\)$`)
	optionalUser  = framework.OptionalParamRegex(fieldUser)
)

// actualEndpoints returns the operations that the engine declares.
func actualEndpoints() map[string]endpoint {
	found := map[string]endpoint{}
	for _, path := range newBackend(&logical.InmemStorage{}, nil).Paths {
		pattern, takesUser := strings.CutSuffix(path.Pattern, optionalUser)
		inPath := nameInPattern.FindStringSubmatch(pattern)
		url := "/pipedream/" + nameInPattern.ReplaceAllString(strings.TrimSuffix(pattern, "/?$"), ":$1")
		if takesUser {
			url += "(/:" + fieldUser + ")"
		}
		for operation, handler := range path.Operations {
			e := endpoint{parameters: map[string]string{}}
			writes := operation == logical.CreateOperation || operation == logical.UpdateOperation
			for name, field := range path.Fields {
				if writes || field.Query || inPath != nil && name == inPath[1] || takesUser && name == fieldUser {
					e.parameters[name] = parameterType(field)
				}
			}
			for name, field := range responseFields(handler) {
				if e.response == nil {
					e.response = map[string]string{}
				}
				e.response[name] = typeNames[field.Type]
				if field.Required {
					e.required = append(e.required, name)
				}
			}
			e.open = e.response["pipedream_account_id"] != ""
			found[methods[operation]+" "+url] = e
		}
	}
	return found
}

func responseFields(handler framework.OperationHandler) map[string]*framework.FieldSchema {
	for _, response := range handler.Properties().Responses[http.StatusOK] {
		return response.Fields
	}
	return nil
}

func parameterType(field *framework.FieldSchema) string {
	switch {
	case field.Required:
		return typeNames[field.Type] + ": <required>"
	case field.Default == nil:
		return typeNames[field.Type]
	case field.Type == framework.TypeString:
		return fmt.Sprintf("string: %q", field.Default)
	case field.Type == framework.TypeDurationSecond:
		d := (time.Duration(field.Default.(int)) * time.Second).String()
		return fmt.Sprintf("duration: %q", strings.NewReplacer("h0m0s", "h", "m0s", "m").Replace(d))
	default:
		return fmt.Sprintf("%s: %v", typeNames[field.Type], field.Default)
	}
}

// section is what the page says about one or more operations.
type section struct {
	endpoint

	text   string
	sample map[string]any
}

var (
	operationRow = regexp.MustCompile("(?m)^\\| `([A-Z]+)` \\| `(/[^`]+)` \\|$")
	item         = regexp.MustCompile("(?m)^- `(\\w+)` `\\((\\w+)(: [^`]+)?\\)`")
	jsonBlock    = regexp.MustCompile("(?s)```json\n(.*?)```")
)

func documentedEndpoints(t *testing.T) map[string]section {
	t.Helper()
	page, err := os.ReadFile(apiPage)
	require.NoError(t, err)
	found := map[string]section{}
	declared := actualEndpoints()
	for _, text := range strings.Split(string(page), "\n## ")[1:] {
		parts := map[string]string{}
		for i, part := range strings.Split(text, "\n### ") {
			title, _, _ := strings.Cut(part, "\n")
			if i == 0 {
				title = ""
			}
			parts[title] = part
		}
		for _, row := range operationRow.FindAllStringSubmatch(text, -1) {
			operation := row[1] + " " + row[2]
			assert.NotContains(t, found, operation, "it is there twice")
			s := section{text: text, endpoint: endpoint{parameters: map[string]string{}}}
			for _, m := range item.FindAllStringSubmatch(parts["Parameters"], -1) {
				s.parameters[m[1]] = m[2] + m[3]
				// A default that the framework does not have is in words, or is the zero value.
				if known := declared[operation].parameters[m[1]]; known == m[2] && m[3] != ": <required>" {
					s.parameters[m[1]] = m[2]
				}
			}
			for _, m := range item.FindAllStringSubmatch(parts["Response fields"], -1) {
				if s.response == nil {
					s.response = map[string]string{}
				}
				s.response[m[1]] = m[2]
			}
			if m := jsonBlock.FindStringSubmatch(parts["Sample response"]); m != nil {
				require.NoError(t, json.Unmarshal([]byte(m[1]), &s.sample), operation)
			}
			found[operation] = s
		}
	}
	return found
}
