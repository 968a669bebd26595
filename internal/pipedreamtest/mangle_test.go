package pipedreamtest

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNest(t *testing.T) {
	require.JSONEq(t, `{"deep":[[[]]],"a":1}`, string(nest([]byte(`{"a":1}`), 3)))
	require.Equal(t, []byte(`[]`), nest([]byte(`[]`), 3))
}

func TestDuplicateKeys(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":"b"}`:                          `{"a":"duplicate","a":"b"}`,
		`{"a":1.50,"b":-2}`:                  `{"a":0,"a":1.50,"b":0,"b":-2}`,
		`{"a":true}`:                         `{"a":false,"a":true}`,
		`{"a":false}`:                        `{"a":true,"a":false}`,
		`{"a":null,"b":""}`:                  `{"a":null,"a":null,"b":"","b":""}`,
		`{"a":{"b":"c"}}`:                    `{"a":{},"a":{"b":"duplicate","b":"c"}}`,
		`{"a":[{"b":1},"c"]}`:                `{"a":[],"a":[{"b":0,"b":1},"c"]}`,
		`{"a\"":"2024-02-11T05:18:46.000Z"}`: `{"a\"":"1970-01-01T00:00:00.000Z","a\"":"2024-02-11T05:18:46.000Z"}`,

		`"text"`:      `"text"`,
		`{}`:          `{}`,
		``:            ``,
		`<html>`:      `<html>`,
		`{"a":<`:      `{"a":<`,
		`{"a":1,`:     `{"a":1,`,
		`{"a":1`:      `{"a":1`,
		`{1:2}`:       `{1:2}`,
		`{"a":[1,}]}`: `{"a":[1,}]}`,
	} {
		require.Equal(t, want, string(duplicateKeys(json.RawMessage(text))), text)
	}
}
