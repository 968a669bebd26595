package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	pipedream "vault-plugin-secrets-pipedream"
)

func TestHelpSaysWhatItIs(t *testing.T) {
	for _, flag := range []string{"-h", "-help", "--help"} {
		var out bytes.Buffer
		require.NoError(t, run([]string{flag}, &out))
		assert.Contains(t, out.String(), "secrets engine for HashiCorp Vault")
		assert.Contains(t, out.String(), "vault plugin register")
		assert.Contains(t, out.String(), pipedream.Version())
	}
}

func TestVersionPrintsOnlyTheVersion(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run([]string{"-version"}, &out))
	assert.Equal(t, pipedream.Version()+"\n", out.String())
}

func TestAnUnknownFlagIsNamed(t *testing.T) {
	var out bytes.Buffer
	require.ErrorContains(t, run([]string{"-ca-cert=x"}, &out), "-ca-cert")
	assert.Empty(t, out.String())
}
