package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-pipedream/internal/pipedreamtest"
)

func TestParseOptionsDefaults(t *testing.T) {
	t.Setenv(keyVariable, "")
	o, err := parseOptions(nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:0", o.listen)
	require.False(t, o.limitSet)
	require.Equal(t, 20*time.Second, o.shortLife)
	require.True(t, o.madeKey)
	require.True(t, o.madeClient)

	other, err := parseOptions(nil, io.Discard)
	require.NoError(t, err)
	require.NotEqual(t, o.apiKey, other.apiKey)
	require.NotEqual(t, o.clientSecret, other.clientSecret)
}

func TestParseOptionsAPIKey(t *testing.T) {
	t.Setenv(keyVariable, "key_of_the_environment")
	o, err := parseOptions(nil, io.Discard)
	require.NoError(t, err)
	require.Equal(t, "key_of_the_environment", o.apiKey)
	require.False(t, o.madeKey)

	o, err = parseOptions([]string{"-api-key", "key_of_the_flag"}, io.Discard)
	require.NoError(t, err)
	require.Equal(t, "key_of_the_flag", o.apiKey)
	require.False(t, o.madeKey)
}

func TestParseOptionsLimit(t *testing.T) {
	for _, limit := range []string{"0", "7"} {
		o, err := parseOptions([]string{"-limit", limit}, io.Discard)
		require.NoError(t, err)
		require.True(t, o.limitSet)
	}
}

func TestParseOptionsRefuses(t *testing.T) {
	for _, args := range [][]string{
		{"-client-id", "client"},
		{"-client-secret", "client_secret"},
		{"-limit", "-1"},
		{"-limit", "many"},
		{"-short-life", "0s"},
		{"-link-origin", "connect.example.com"},
		{"-link-origin", "https://connect.example.com/_static"},
		{"-link-origin", "ftp://127.0.0.1"},
		{"-link-origin", "http://connect.example.com"},
		{"-link-origin", "http://192.0.2.1:80"},
		{"argument"},
	} {
		var out bytes.Buffer
		_, err := parseOptions(args, &out)
		require.Error(t, err, args)
		require.NotErrorIs(t, err, flag.ErrHelp)
		require.Empty(t, out.String())
	}
}

func TestParseOptionsLinks(t *testing.T) {
	for _, origin := range []string{"https://connect.example.com", "http://127.0.0.1:7000", "http://[::1]:7000"} {
		o, err := parseOptions([]string{"-link-origin", origin, "-signed-in"}, io.Discard)
		require.NoError(t, err, origin)
		require.Equal(t, pipedreamtest.LinkPage{Origin: origin, SignedIn: true}, o.linkPage())
	}
}

func TestReplay(t *testing.T) {
	var stderr bytes.Buffer
	opts, err := readReport("../../internal/livecheck/testdata/odd-report.json", &stderr)
	require.NoError(t, err)
	require.NotEmpty(t, opts)
	require.Empty(t, stderr.String(), "it has an option for each form")
	report := filepath.Join(t.TempDir(), "report.json")
	require.NoError(t, os.WriteFile(report, []byte(`{"format":1,"results":[{"name":"list.form","seen":["no list"],"expected":["data is a list"]}]}`), 0o600))
	_, err = readReport(report, &stderr)
	require.NoError(t, err)
	require.Equal(t, "pipedream-sim: not replayed: list.form: no list\n", stderr.String())
	_, err = readReport(filepath.Join(t.TempDir(), "none"), &stderr)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Error(t, run(t.Context(), []string{"-replay=options_test.go"}, io.Discard, io.Discard))
}
