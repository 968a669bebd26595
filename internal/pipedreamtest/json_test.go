package pipedreamtest

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAppendJSON(t *testing.T) {
	raw, err := appendJSON([]byte("> "), map[string]any{
		"a": json.RawMessage("{ \"kept\" :\t1.0e0 }"),
		"b": json.Number("1152921504606846976"),
		"c": []any{json.Number("1.50"), json.RawMessage("[ ]"), nil, true},
		"d": map[string]any{"e": json.RawMessage(`"&"`)},
		"f": "<a&b>",
		"g": json.RawMessage(nil),
		"h": []string{"x"},
		"i": map[string]string{"y": "z"},
	})
	require.NoError(t, err)
	require.Equal(t, "> {\"a\":{ \"kept\" :\t1.0e0 },\"b\":1152921504606846976,\"c\":[1.50,[ ],null,true],\"d\":{\"e\":\"&\"},"+
		`"f":"<a&b>","g":null,"h":["x"],"i":{"y":"z"}}`, string(raw))

	for _, v := range []any{make(chan int), map[string]any{"x": make(chan int)}, []any{make(chan int)}} {
		_, err := appendJSON(nil, v)
		require.Error(t, err)
	}
}
